-- A mission's status changed: write the event in the same transaction, whoever changed it and however.
-- Applied again after every migration (starloom.archive.engine.Archive.migrate); a double semicolon ends a statement.
CREATE OR REPLACE FUNCTION mission_status_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.status <> 'OPEN' THEN
            INSERT INTO status_event (mission_id, old_status, new_status, created_at, state, publish_attempts)
            VALUES (NEW.id, NULL, NEW.status, clock_timestamp(), 'open', 0);
            PERFORM pg_notify('starloom_status', NEW.id);
        END IF;
    ELSIF NEW.status IS DISTINCT FROM OLD.status THEN
        UPDATE mission SET status_changed_at = clock_timestamp() WHERE id = NEW.id;
        INSERT INTO status_event (mission_id, old_status, new_status, created_at, state, publish_attempts)
        VALUES (NEW.id, OLD.status, NEW.status, clock_timestamp(), 'open', 0);
        PERFORM pg_notify('starloom_status', NEW.id);
    END IF;
    RETURN NULL;
END;
$$;;

DROP TRIGGER IF EXISTS mission_status_changed ON mission;;
CREATE TRIGGER mission_status_changed AFTER INSERT OR UPDATE OF status ON mission
FOR EACH ROW EXECUTE FUNCTION mission_status_event();;
