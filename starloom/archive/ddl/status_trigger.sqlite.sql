-- A mission's status changed: write the event in the same transaction, whoever changed it and however.
-- Applied again after every migration (starloom.archive.engine.Archive.migrate); a double semicolon ends a statement.
DROP TRIGGER IF EXISTS mission_status_inserted;;
DROP TRIGGER IF EXISTS mission_status_updated;;

CREATE TRIGGER mission_status_inserted AFTER INSERT ON mission
WHEN NEW.status <> 'OPEN'
BEGIN
    INSERT INTO status_event (mission_id, old_status, new_status, created_at, state, publish_attempts)
    VALUES (NEW.id, NULL, NEW.status, strftime('%Y-%m-%d %H:%M:%f', 'now') || '000', 'open', 0);
END;;

CREATE TRIGGER mission_status_updated AFTER UPDATE OF status ON mission
WHEN NEW.status IS NOT OLD.status
BEGIN
    UPDATE mission SET status_changed_at = strftime('%Y-%m-%d %H:%M:%f', 'now') || '000' WHERE id = NEW.id;
    INSERT INTO status_event (mission_id, old_status, new_status, created_at, state, publish_attempts)
    VALUES (NEW.id, OLD.status, NEW.status, strftime('%Y-%m-%d %H:%M:%f', 'now') || '000', 'open', 0);
END;;
