-- What flows, relay, sweep, tidy, status and the command line ask of the archive, as PostgreSQL gets it.
-- Values are `?`. Written by `python -m benchmarks.archive_scale queries` while the code ran; what is called under
-- each name says `benchmarks/archive_asks.py`, and `tests/archive/test_queries.py` holds all to the code.

-- ingest: register, claim, file, free
SELECT frame.* FROM frame WHERE frame.inbox_key IN (?);
SELECT frame.name, frame.inbox_etag FROM frame WHERE frame.name IN (?) AND frame.inbox_key IS NULL;
SELECT frame.* FROM frame WHERE frame.inbox_key = ? FOR UPDATE;
SELECT clock_timestamp();
INSERT INTO frame (…) VALUES (?);
SELECT announcement.* FROM announcement WHERE announcement.node_id = ? AND announcement.name = ? AND announcement.arrived_at IS NULL;
UPDATE frame SET in_hand=?, next_attempt_at=(clock_timestamp() + ?), version=(frame.version + ?) WHERE frame.id = ? AND frame.disposition = ? AND frame.ingest = ? RETURNING frame.*;
SELECT frame.* FROM frame WHERE frame.id = ? FOR NO KEY UPDATE;
SELECT pg_advisory_xact_lock(hashtextextended(?, 0));
SELECT frame.* FROM frame WHERE frame.node_id = ? AND frame.start_utc = ? AND frame.obs_req = ? AND frame.kind = ? AND frame.disposition = ? AND frame.ingest = ? AND frame.id != ?;
UPDATE frame SET mission_id=?, pixel_digest=?, ingest=?, in_hand=?, next_attempt_at=?, version=? WHERE frame.id = ?;
UPDATE frame SET inbox_key=? WHERE frame.id = ?;

-- ingest: announcement
SELECT announcement.* FROM announcement WHERE announcement.node_id = ? AND announcement.name = ? AND announcement.sha256 = ?;
SELECT frame.id FROM frame WHERE frame.node_id = ? AND frame.name = ? AND (frame.raw_sha256 = ? OR frame.inbox_key IS NOT NULL);
SELECT clock_timestamp();
INSERT INTO announcement (…) VALUES (?) RETURNING announcement.id;

-- process-frames: claim and settle a step
UPDATE frame SET in_hand=?, next_attempt_at=(clock_timestamp() + ?), version=(frame.version + ?) WHERE frame.id = ? AND frame.disposition = ? AND frame.calibrate = ? AND frame.ingest = ? AND frame.kind = ? RETURNING frame.*;
SELECT frame.* FROM frame WHERE frame.id = ? FOR NO KEY UPDATE;
SELECT clock_timestamp();
UPDATE frame SET calibrate=?, in_hand=?, next_attempt_at=?, version=? WHERE frame.id = ?;

-- process-frames: results of a frame
SELECT solution.id, solution.frame_id, solution.current, solution.solver, solution.catalog, solution.code_version, solution.created_at, solution.ra_deg, solution.dec_deg, solution.scale_arcsec, solution.rotation_deg, solution.parity, solution.rms_arcsec, solution.rms_px, solution.matches, solution."order", solution.wcs, solution.footprint, solution.catalog_version, solution.epoch, solution.hint, solution.held_out_arcsec, solution.corner_error_px, solution.offset_ra_deg, solution.offset_dec_deg, solution.distortion, solution.model_id, solution.residuals, solution.calibration_id, solution.solved_key, solution.solved_version FROM solution WHERE solution.frame_id = ? ORDER BY solution.id DESC LIMIT ?;
SELECT calibration.* FROM calibration WHERE calibration.frame_id = ? AND calibration.current IS true;
SELECT solution.id, solution.frame_id, solution.current, solution.solver, solution.catalog, solution.code_version, solution.created_at, solution.ra_deg, solution.dec_deg, solution.scale_arcsec, solution.rotation_deg, solution.parity, solution.rms_arcsec, solution.rms_px, solution.matches, solution."order", solution.wcs, solution.footprint, solution.catalog_version, solution.epoch, solution.hint, solution.held_out_arcsec, solution.corner_error_px, solution.offset_ra_deg, solution.offset_dec_deg, solution.distortion, solution.model_id, solution.residuals, solution.calibration_id, solution.solved_key, solution.solved_version FROM solution WHERE solution.frame_id = ? AND solution.current IS true;
SELECT photometry.* FROM photometry WHERE photometry.frame_id = ? AND photometry.current IS true;
SELECT conditions.frame_id AS conditions_frame_id, conditions.ambient_temp_k AS conditions_ambient_temp_k, conditions.dewpoint_k AS conditions_dewpoint_k, conditions.humidity_pct AS conditions_humidity_pct, conditions.pressure_pa AS conditions_pressure_pa, conditions.wind_speed_m_s AS conditions_wind_speed_m_s, conditions.wind_gust_m_s AS conditions_wind_gust_m_s, conditions.wind_dir_deg AS conditions_wind_dir_deg, conditions.cloud_cover_pct AS conditions_cloud_cover_pct, conditions.sky_minus_ambient_k AS conditions_sky_minus_ambient_k, conditions.sky_brightness_mag_arcsec2 AS conditions_sky_brightness_mag_arcsec2, conditions.airmass AS conditions_airmass, conditions.airmass_source AS conditions_airmass_source, conditions.target_alt_deg AS conditions_target_alt_deg, conditions.sun_alt_deg AS conditions_sun_alt_deg, conditions.moon_alt_deg AS conditions_moon_alt_deg, conditions.moon_sep_deg AS conditions_moon_sep_deg, conditions.moon_lit_fraction AS conditions_moon_lit_fraction FROM conditions WHERE conditions.frame_id = ?;

-- process-frames: receipt
SELECT frame.*, solution.id AS id_1, solution.frame_id, solution.current, solution.solver, solution.catalog, solution.code_version, solution.created_at, solution.ra_deg, solution.dec_deg, solution.scale_arcsec, solution.rotation_deg, solution.parity, solution.rms_arcsec, solution.rms_px, solution.matches, solution."order", solution.wcs, solution.footprint, solution.catalog_version, solution.epoch, solution.hint, solution.held_out_arcsec, solution.corner_error_px, solution.offset_ra_deg, solution.offset_dec_deg, solution.distortion, solution.model_id, solution.residuals, solution.calibration_id, solution.solved_key AS solved_key_1, solution.solved_version AS solved_version_1, photometry.id AS id_2, photometry.frame_id AS frame_id_1, photometry.solution_id, photometry.current AS current_1, photometry.created_at AS created_at_1, photometry.band AS band_1, photometry.zero_point_mag, photometry.zero_point_err, photometry.scatter_mag, photometry.calibrators, photometry.catalog_band, photometry.fwhm_px, photometry.fwhm_arcsec, photometry.ellipticity, photometry.sky_adu, photometry.sky_sigma_adu, photometry.limiting_mag, photometry.saturation_adu, photometry.n_sources, photometry.catalog AS catalog_1, photometry.catalog_version AS catalog_version_1, photometry.colour_term, photometry.colour_ref, photometry.aperture_px, photometry.growth, photometry.gain_e_per_adu, photometry.psf_stars, photometry.fwhm_corner_px, photometry.sky_brightness_mag_arcsec2, photometry.transparency, photometry.em_min_m, photometry.em_max_m, photometry.sources_key AS sources_key_1, EXISTS (SELECT * FROM revision_input WHERE revision_input.frame_id = frame.id) AS anon_1 FROM frame LEFT OUTER JOIN solution ON solution.frame_id = frame.id AND solution.current IS true LEFT OUTER JOIN photometry ON photometry.frame_id = frame.id AND photometry.current IS true WHERE frame.id = ?;
SELECT revision.*, revision_input.* FROM revision JOIN revision_input ON revision_input.revision_id = revision.id WHERE revision_input.frame_id = ? AND revision.status = ? ORDER BY revision.n DESC LIMIT ?;
SELECT sum(revision_input.weight) AS sum_1 FROM revision_input WHERE revision_input.revision_id = ?;

-- process-frames: masters of an instrument
SELECT master.* FROM master WHERE master.instrument_id = ? AND master.current IS true AND master.n_frames > ? ORDER BY master.id;

-- process-frames: what an instrument has learnt
SELECT instrument_model.* FROM instrument_model WHERE instrument_model.instrument_id = ? AND instrument_model.current IS true;

-- process-frames: photometry's history
SELECT photometry.zero_point_mag, photometry.catalog_band, photometry.catalog, photometry.colour_term, frame.exposure_s, conditions.airmass FROM photometry JOIN frame ON frame.id = photometry.frame_id LEFT OUTER JOIN conditions ON conditions.frame_id = frame.id WHERE frame.instrument_id = ? AND frame.band = ? AND frame.id != ? AND frame.disposition = ? AND photometry.current IS true AND photometry.zero_point_mag IS NOT NULL ORDER BY frame.start_utc DESC LIMIT ?;

-- process-frames: source lists near
SELECT solution.id, solution.frame_id, solution.current, solution.solver, solution.catalog, solution.code_version, solution.created_at, solution.ra_deg, solution.dec_deg, solution.scale_arcsec, solution.rotation_deg, solution.parity, solution.rms_arcsec, solution.rms_px, solution.matches, solution."order", solution.wcs, solution.footprint, solution.catalog_version, solution.epoch, solution.hint, solution.held_out_arcsec, solution.corner_error_px, solution.offset_ra_deg, solution.offset_dec_deg, solution.distortion, solution.model_id, solution.residuals, solution.calibration_id, solution.solved_key, solution.solved_version FROM solution WHERE solution.frame_id = ? AND solution.current IS true;
SELECT frame.*, solution.id AS id_1, solution.frame_id, solution.current, solution.solver, solution.catalog, solution.code_version, solution.created_at, solution.ra_deg, solution.dec_deg, solution.scale_arcsec, solution.rotation_deg, solution.parity, solution.rms_arcsec, solution.rms_px, solution.matches, solution."order", solution.wcs, solution.footprint, solution.catalog_version, solution.epoch, solution.hint, solution.held_out_arcsec, solution.corner_error_px, solution.offset_ra_deg, solution.offset_dec_deg, solution.distortion, solution.model_id, solution.residuals, solution.calibration_id, solution.solved_key AS solved_key_1, solution.solved_version AS solved_version_1, photometry.id AS id_2, photometry.frame_id AS frame_id_1, photometry.solution_id, photometry.current AS current_1, photometry.created_at AS created_at_1, photometry.band AS band_1, photometry.zero_point_mag, photometry.zero_point_err, photometry.scatter_mag, photometry.calibrators, photometry.catalog_band, photometry.fwhm_px, photometry.fwhm_arcsec, photometry.ellipticity, photometry.sky_adu, photometry.sky_sigma_adu, photometry.limiting_mag, photometry.saturation_adu, photometry.n_sources, photometry.catalog AS catalog_1, photometry.catalog_version AS catalog_version_1, photometry.colour_term, photometry.colour_ref, photometry.aperture_px, photometry.growth, photometry.gain_e_per_adu, photometry.psf_stars, photometry.fwhm_corner_px, photometry.sky_brightness_mag_arcsec2, photometry.transparency, photometry.em_min_m, photometry.em_max_m, photometry.sources_key AS sources_key_1 FROM frame JOIN solution ON solution.frame_id = frame.id JOIN photometry ON photometry.frame_id = frame.id AND photometry.solution_id = solution.id WHERE frame.id IN (SELECT frame_cell.frame_id FROM frame_cell WHERE frame_cell.cell IN (?) LIMIT ?) AND frame.id != ? AND frame.disposition = ? AND solution.current IS true AND solution.catalog != ? AND photometry.current IS true AND photometry.sources_key IS NOT NULL ORDER BY photometry.n_sources DESC, frame.id LIMIT ?;

-- process-frames: is there a page
SELECT frame.id FROM frame WHERE frame.node_id = ? AND frame.instrument_id = ? AND frame.quicklook_key IS NOT NULL AND frame.start_utc > ? AND frame.start_utc < ? AND frame.id != ? AND frame.solve_code IS NULL AND frame.measure_code IS NULL LIMIT ?;

-- relay: lost holders, unheard missions
SELECT clock_timestamp();
SELECT revision.mission_id FROM revision WHERE revision.status IN (?) AND revision.lease_until < ?;
SELECT mission.id FROM mission WHERE mission.status = ? AND (mission.id NOT IN (SELECT status_event.mission_id FROM status_event WHERE status_event.state = ? AND status_event.new_status = ?)) OR mission.status = ? AND (mission.id NOT IN (SELECT revision.mission_id FROM revision WHERE revision.status IN (?))) LIMIT ?;

-- relay: events
SELECT status_event.*, mission.id AS id_1, mission.title, mission.status, mission.ra_deg, mission.dec_deg, mission.ephemeris, mission.parameters, mission.pinned, mission.status_changed_at, mission.created_at AS created_at_1, mission.failure_code, mission.failure_hint, mission.embargo_until, mission.licence, mission.credit FROM status_event JOIN mission ON mission.id = status_event.mission_id WHERE status_event.state = ? ORDER BY status_event.id LIMIT ?;
SELECT status_event.id FROM status_event JOIN mission ON mission.id = status_event.mission_id WHERE status_event.state = ? AND (status_event.new_status = ? AND mission.status != ? OR status_event.new_status IN (?)) ORDER BY status_event.id LIMIT ? FOR UPDATE OF status_event SKIP LOCKED;
UPDATE status_event SET state=?, note=(? || (SELECT mission.status FROM mission WHERE mission.id = status_event.mission_id)) WHERE status_event.id IN (NULL) AND (1 != 1);
SELECT status_event.id FROM status_event JOIN mission ON mission.id = status_event.mission_id WHERE status_event.state = ? AND status_event.new_status = ? AND (status_event.id NOT IN (SELECT max(status_event.id) AS max_1 FROM status_event WHERE status_event.state = ? AND status_event.new_status = ? GROUP BY status_event.mission_id)) ORDER BY status_event.id LIMIT ? FOR UPDATE OF status_event SKIP LOCKED;
UPDATE status_event SET state=?, note=? WHERE status_event.id IN (NULL) AND (1 != 1);
SELECT clock_timestamp();
SELECT status_event.* FROM status_event JOIN mission ON mission.id = status_event.mission_id WHERE status_event.state = ? AND status_event.new_status = ? AND mission.status = ? AND status_event.id IN (SELECT max(status_event.id) AS max_1 FROM status_event WHERE status_event.state = ? AND status_event.new_status = ? GROUP BY status_event.mission_id) AND (status_event.next_publish_at IS NULL OR status_event.next_publish_at <= ?) ORDER BY coalesce(status_event.next_publish_at, status_event.created_at), status_event.id LIMIT ?;
SELECT frame.id FROM frame WHERE mission_id IS NULL AND obs_req IS NOT NULL AND frame.obs_req IN (?) ORDER BY frame.id LIMIT ?;
SELECT revision.mission_id FROM revision WHERE revision.mission_id IN (?) AND revision.status IN (?) AND revision.lease_until > ?;
SELECT announcement.obs_req, count(*) AS count_1 FROM announcement WHERE announcement.obs_req IN (?) AND announcement.arrived_at IS NULL AND announcement.expires_at > ? GROUP BY announcement.obs_req;
SELECT frame.obs_req, count(*) AS count_1 FROM frame WHERE disposition = 'active' AND ingest <> 'failed' AND calibrate <> 'failed' AND solve <> 'failed' AND measure <> 'failed' AND CASE WHEN kind <> 'light' THEN ingest WHEN plane = 'CFA' THEN calibrate ELSE measure END = 'pending' AND frame.obs_req IN (?) AND frame.kind = ? AND frame.ready_at IS NULL GROUP BY frame.obs_req;
SELECT revision.holder FROM revision WHERE revision.status IN (?) AND revision.lease_until > ?;
SELECT status_event.id FROM status_event WHERE status_event.state = ? AND status_event.new_status = ? AND status_event.publish_attempts > ? AND status_event.next_publish_at > ?;
SELECT status_event.*, mission.id AS id_1, mission.title, mission.status, mission.ra_deg, mission.dec_deg, mission.ephemeris, mission.parameters, mission.pinned, mission.status_changed_at, mission.created_at AS created_at_1, mission.failure_code, mission.failure_hint, mission.embargo_until, mission.licence, mission.credit FROM status_event JOIN mission ON mission.id = status_event.mission_id WHERE status_event.state = ? AND status_event.new_status IN (?) ORDER BY status_event.id LIMIT ?;

-- relay: alarms
SELECT attempt.*, frame.id AS id_1, frame.name, frame.node_id, frame.obs_req, frame.mission_id, frame.instrument_id, frame.kind, frame.plane, frame.start_utc, frame.exposure_s, frame.filter, frame.band, frame.width, frame.height, frame.inbox_key, frame.inbox_etag, frame.raw_key, frame.raw_version, frame.raw_sha256, frame.raw_bytes, frame.pixel_digest, frame.calibrated_key, frame.calibrated_version, frame.solved_key, frame.solved_version, frame.sources_key, frame.quicklook_key, frame.ingest, frame.ingest_code, frame.calibrate, frame.calibrate_code, frame.solve, frame.solve_code, frame.measure, frame.measure_code, frame.disposition, frame.disposition_code, frame.disposition_hint, frame.disposition_at, frame.duplicate_of, frame.flags, frame.header, frame.attempts, frame.in_hand, frame.next_attempt_at AS next_attempt_at_1, frame.last_error, frame.version, frame.received_at, frame.traceparent, frame.ready_at, frame.embargo_until, frame.licence, frame.credit FROM attempt JOIN frame ON frame.id = attempt.frame_id WHERE attempt.alert IS true ORDER BY attempt.id LIMIT ?;
SELECT raw_check.* FROM raw_check WHERE raw_check.alert IS true ORDER BY raw_check.checked_at LIMIT ?;

-- relay: health
SELECT status_event.id, status_event.created_at FROM status_event WHERE status_event.state = ? AND status_event.new_status = ? ORDER BY status_event.id LIMIT ?;
SELECT max(revision.claimed_at) AS max_1 FROM revision;
SELECT clock_timestamp();
SELECT status_event.* FROM status_event JOIN mission ON mission.id = status_event.mission_id WHERE status_event.state = ? AND status_event.new_status = ? AND mission.status = ? ORDER BY status_event.created_at LIMIT ?;

-- stack-mission: bind
SELECT frame.*, solution.id AS id_1, solution.frame_id, solution.current, solution.solver, solution.catalog, solution.code_version, solution.created_at, solution.ra_deg, solution.dec_deg, solution.scale_arcsec, solution.rotation_deg, solution.parity, solution.rms_arcsec, solution.rms_px, solution.matches, solution."order", solution.wcs, solution.footprint, solution.catalog_version, solution.epoch, solution.hint, solution.held_out_arcsec, solution.corner_error_px, solution.offset_ra_deg, solution.offset_dec_deg, solution.distortion, solution.model_id, solution.residuals, solution.calibration_id, solution.solved_key AS solved_key_1, solution.solved_version AS solved_version_1, photometry.id AS id_2, photometry.frame_id AS frame_id_1, photometry.solution_id, photometry.current AS current_1, photometry.created_at AS created_at_1, photometry.band AS band_1, photometry.zero_point_mag, photometry.zero_point_err, photometry.scatter_mag, photometry.calibrators, photometry.catalog_band, photometry.fwhm_px, photometry.fwhm_arcsec, photometry.ellipticity, photometry.sky_adu, photometry.sky_sigma_adu, photometry.limiting_mag, photometry.saturation_adu, photometry.n_sources, photometry.catalog AS catalog_1, photometry.catalog_version AS catalog_version_1, photometry.colour_term, photometry.colour_ref, photometry.aperture_px, photometry.growth, photometry.gain_e_per_adu, photometry.psf_stars, photometry.fwhm_corner_px, photometry.sky_brightness_mag_arcsec2, photometry.transparency, photometry.em_min_m, photometry.em_max_m, photometry.sources_key AS sources_key_1 FROM frame JOIN solution ON solution.frame_id = frame.id JOIN photometry ON photometry.frame_id = frame.id WHERE frame.obs_req = ? AND frame.disposition = ? AND frame.ready_at IS NOT NULL AND solution.current IS true AND photometry.current IS true ORDER BY frame.id;

-- sweep: frames due
SELECT clock_timestamp();
SELECT frame.* FROM frame WHERE disposition = 'active' AND next_attempt_at IS NOT NULL AND frame.next_attempt_at <= ? ORDER BY frame.next_attempt_at LIMIT ?;

-- sweep: stale stacks
SELECT clock_timestamp();
SELECT min(revision.claimed_at) AS min_1 FROM revision WHERE revision.status = ? AND revision.published_at >= ?;
SELECT frame.obs_req, max(frame.ready_at) AS max_1 FROM frame WHERE frame.ready_at >= ? GROUP BY frame.obs_req;
SELECT frame.obs_req, max(frame.disposition_at) AS max_1 FROM frame WHERE frame.disposition != ? AND frame.disposition_at >= ? GROUP BY frame.obs_req;
SELECT anon_1.obs_req, max(photometry.created_at) AS max_1 FROM (SELECT frame.id AS id, frame.obs_req AS obs_req FROM frame WHERE frame.ready_at >= ?) AS anon_1 JOIN photometry ON photometry.frame_id = anon_1.id WHERE photometry.created_at >= ? GROUP BY anon_1.obs_req;
SELECT frame.obs_req, max(photometry.created_at) AS max_1 FROM frame JOIN photometry ON photometry.frame_id = frame.id WHERE photometry.created_at >= ? AND (photometry.frame_id NOT IN (SELECT frame.id FROM frame WHERE frame.ready_at >= ?)) GROUP BY frame.obs_req;
SELECT revision.mission_id, max(revision.claimed_at) AS max_1 FROM revision WHERE revision.mission_id IN (?) AND revision.status = ? GROUP BY revision.mission_id;
SELECT mission.id, max(frame.ready_at) AS max_1 FROM mission JOIN frame ON frame.obs_req = mission.id WHERE mission.id IN (?) AND mission.status = ? AND mission.failure_code = ? AND frame.disposition = ? AND frame.ready_at IS NOT NULL GROUP BY mission.id;
SELECT revision.id, revision.mission_id, revision.published_at FROM revision JOIN mission ON mission.id = revision.mission_id WHERE revision.mission_id IN (?) AND revision.status = ? AND mission.status = ? AND NOT (EXISTS (SELECT revision_1.id FROM revision AS revision_1 WHERE revision_1.mission_id = revision.mission_id AND revision_1.n > revision.n AND revision_1.status = ?));

-- sweep: what is watched
SELECT clock_timestamp();
SELECT node.id, (SELECT max(frame.received_at) AS max_1 FROM frame WHERE frame.node_id = node.id) AS anon_1 FROM node;
SELECT node.id, count(*) AS count_1, sum(CASE WHEN (frame.disposition = ?) THEN ? ELSE ? END) AS sum_1 FROM node JOIN frame ON frame.node_id = node.id AND frame.received_at >= ? GROUP BY node.id;
SELECT count(*) AS count_1, min(frame.received_at) AS min_1 FROM frame WHERE disposition = 'active' AND next_attempt_at IS NOT NULL AND frame.ready_at IS NULL;
SELECT min(status_event.created_at) AS min_1 FROM status_event JOIN mission ON mission.id = status_event.mission_id WHERE status_event.state = ? AND status_event.new_status = ? AND mission.status = ?;

-- sweep: instruments with more to learn
SELECT instrument_model.* FROM instrument_model WHERE instrument_model.current IS true;
SELECT DISTINCT frame.instrument_id FROM frame JOIN solution ON solution.frame_id = frame.id WHERE solution.id > ? AND solution.current IS true AND frame.instrument_id IS NOT NULL ORDER BY frame.instrument_id;

-- sweep: solutions of an instrument
SELECT solution.id, solution.frame_id, solution.current, solution.solver, solution.catalog, solution.code_version, solution.created_at, solution.ra_deg, solution.dec_deg, solution.scale_arcsec, solution.rotation_deg, solution.parity, solution.rms_arcsec, solution.rms_px, solution.matches, solution."order", solution.wcs, solution.footprint, solution.catalog_version, solution.epoch, solution.hint, solution.held_out_arcsec, solution.corner_error_px, solution.offset_ra_deg, solution.offset_dec_deg, solution.distortion, solution.model_id, solution.residuals, solution.calibration_id, solution.solved_key, solution.solved_version FROM solution JOIN frame ON frame.id = solution.frame_id WHERE kind = 'light' AND disposition = 'active' AND frame.instrument_id = ? AND solution.current IS true AND (solution.distortion IS NOT NULL OR solution.offset_ra_deg IS NOT NULL) ORDER BY frame.start_utc DESC, solution.id DESC LIMIT ?;

-- sweep: instruments with news
SELECT master.instrument_id, master.kind, max(master.created_at) AS max_1 FROM master GROUP BY master.instrument_id, master.kind;
SELECT DISTINCT master.instrument_id FROM master WHERE master.kind = ? AND master.current IS true;
SELECT instrument.id, (SELECT max(frame.received_at) AS max_1 FROM frame WHERE kind IN ('bias', 'dark', 'flat') AND disposition = 'active' AND ingest = 'ok' AND frame.instrument_id = instrument.id) AS anon_1 FROM instrument;
SELECT instrument.id, (SELECT max(anon_2.received_at) AS max_1 FROM (SELECT frame.received_at AS received_at FROM frame WHERE kind = 'light' AND disposition = 'active' AND frame.instrument_id = instrument.id AND frame.ingest = ? AND frame.start_utc IS NOT NULL AND (frame.plane IS NULL OR frame.plane = ?) ORDER BY frame.start_utc DESC, frame.id LIMIT ?) AS anon_2 HAVING count(*) = ?) AS anon_1 FROM instrument WHERE (instrument.id NOT IN (?));

-- sweep: masters wanted
SELECT clock_timestamp();
SELECT master.* FROM master WHERE master.instrument_id = ? ORDER BY master.id;
SELECT frame.* FROM frame WHERE kind IN ('bias', 'dark', 'flat') AND disposition = 'active' AND ingest = 'ok' AND frame.instrument_id = ? AND frame.received_at >= ? ORDER BY frame.start_utc, frame.id;
SELECT frame.* FROM frame WHERE kind = 'light' AND disposition = 'active' AND frame.instrument_id = ? AND frame.ingest = ? AND frame.start_utc IS NOT NULL AND (frame.plane IS NULL OR frame.plane = ?) ORDER BY frame.start_utc DESC, frame.id LIMIT ?;

-- tidy: forgotten frames
SELECT frame.id FROM frame WHERE disposition = 'active' AND ingest <> 'failed' AND calibrate <> 'failed' AND solve <> 'failed' AND measure <> 'failed' AND CASE WHEN kind <> 'light' THEN ingest WHEN plane = 'CFA' THEN calibrate ELSE measure END = 'pending' AND frame.next_attempt_at IS NULL LIMIT ?;

-- tidy: a share of all stacks
SELECT max(revision.id) AS max_1 FROM revision;
SELECT DISTINCT revision.mission_id FROM revision WHERE revision.status = ? AND revision.id > ? AND revision.id <= ?;
SELECT mission.id FROM mission WHERE mission.status = ? AND mission.failure_code = ?;

-- tidy: receipts left out
SELECT clock_timestamp();
SELECT revision.id FROM revision WHERE status = 'published' AND told_at IS NULL AND revision.published_at < ? ORDER BY revision.id LIMIT ?;

-- tidy: orphans among 500 objects
SELECT frame.solved_key FROM frame WHERE frame.id IN (?);
SELECT solution.solved_key FROM solution WHERE solution.frame_id IN (?) AND solution.current IS true;
SELECT solution.solved_key FROM solution JOIN revision_input ON revision_input.solution_id = solution.id JOIN revision ON revision.id = revision_input.revision_id WHERE revision_input.frame_id IN (?) AND solution.frame_id IN (?) AND revision.status IN (?);
SELECT frame.sources_key FROM frame WHERE frame.id IN (?);
SELECT photometry.sources_key FROM photometry WHERE photometry.frame_id IN (?) AND photometry.current IS true;

-- tidy: raw objects to check
SELECT max(raw_check.checked_at) AS max_1 FROM raw_check;
SELECT clock_timestamp();
INSERT INTO raw_check (key, version, checked_at, state, alert) SELECT frame.raw_key, max(frame.raw_version) AS max_1, ? AS anon_1, ? AS anon_2, false AS anon_3 FROM frame LEFT OUTER JOIN raw_check ON raw_check.key = frame.raw_key WHERE (frame.raw_key LIKE ? || '%%') AND raw_check.key IS NULL AND (frame.received_at BETWEEN ? AND ? OR frame.received_at BETWEEN ? AND ? OR frame.received_at BETWEEN ? AND ? OR frame.disposition_at BETWEEN ? AND ? OR frame.disposition_at BETWEEN ? AND ? OR frame.disposition_at BETWEEN ? AND ?) GROUP BY frame.raw_key;
SELECT CAST(reltuples AS BIGINT) FROM pg_class WHERE oid = CAST('raw_check' AS regclass);
SELECT count(*) AS count_1 FROM raw_check;
SELECT raw_check.key, raw_check.version FROM raw_check ORDER BY raw_check.checked_at, raw_check.key LIMIT ?;
SELECT raw_check.key, raw_check.version FROM raw_check WHERE copy_state IS NULL ORDER BY raw_check.key LIMIT ?;

-- status
SELECT clock_timestamp();
SELECT count(*) AS count_1, min(frame.received_at) AS min_1, frame.ready_at IS NOT NULL AS anon_1, frame.disposition, frame.kind, frame.plane, frame.ingest, frame.calibrate, frame.solve, frame.measure FROM frame WHERE frame.received_at >= ? GROUP BY frame.ready_at IS NOT NULL, frame.disposition, frame.kind, frame.plane, frame.ingest, frame.calibrate, frame.solve, frame.measure;
SELECT count(*) AS count_1, min(frame.received_at) AS min_1, frame.ready_at IS NOT NULL AS anon_1, frame.disposition, frame.kind, frame.plane, frame.ingest, frame.calibrate, frame.solve, frame.measure FROM frame WHERE disposition = 'active' AND ingest <> 'failed' AND calibrate <> 'failed' AND solve <> 'failed' AND measure <> 'failed' AND CASE WHEN kind <> 'light' THEN ingest WHEN plane = 'CFA' THEN calibrate ELSE measure END = 'pending' AND frame.ready_at IS NULL GROUP BY frame.ready_at IS NOT NULL, frame.disposition, frame.kind, frame.plane, frame.ingest, frame.calibrate, frame.solve, frame.measure;
SELECT count(*) AS count_1, min(frame.received_at) AS min_1, frame.ready_at IS NOT NULL AS anon_1, frame.disposition, frame.kind, frame.plane, frame.ingest, frame.calibrate, frame.solve, frame.measure FROM frame WHERE disposition = 'active' AND next_attempt_at IS NOT NULL AND frame.ready_at IS NOT NULL GROUP BY frame.ready_at IS NOT NULL, frame.disposition, frame.kind, frame.plane, frame.ingest, frame.calibrate, frame.solve, frame.measure;
SELECT mission.status, count(*) AS count_1 FROM mission WHERE mission.status IN (?) GROUP BY mission.status;
SELECT mission.status, count(*) AS count_1 FROM mission WHERE mission.status IN (?) AND mission.status_changed_at >= ? GROUP BY mission.status;
SELECT sum(status_event.surplus_runs) AS sum_1 FROM status_event WHERE surplus_runs > 0 AND status_event.created_at >= ?;
SELECT status_event.*, mission.id AS id_1, mission.title, mission.status, mission.ra_deg, mission.dec_deg, mission.ephemeris, mission.parameters, mission.pinned, mission.status_changed_at, mission.created_at AS created_at_1, mission.failure_code, mission.failure_hint, mission.embargo_until, mission.licence, mission.credit FROM status_event JOIN mission ON mission.id = status_event.mission_id WHERE status_event.state = ? ORDER BY status_event.id LIMIT ?;
SELECT mission.*, revision.id AS id_1, revision.mission_id, revision.n, revision.epoch, revision.status AS status_1, revision.event_id, revision.token, revision.holder, revision.lease_until, revision.input_hash, revision.parameters AS parameters_1, revision.coadd_version, revision.claimed_at, revision.bound_at, revision.published_at, revision.told_at, revision.error, revision.summary FROM mission LEFT OUTER JOIN revision ON revision.mission_id = mission.id AND revision.status IN (?) WHERE mission.id IN (SELECT mission.id FROM mission WHERE mission.status = ? UNION SELECT revision.mission_id FROM revision WHERE revision.status IN (?)) ORDER BY mission.status_changed_at LIMIT ?;
SELECT mission.* FROM mission WHERE mission.status = ? ORDER BY mission.status_changed_at LIMIT ?;
SELECT frame.received_at, frame.in_hand, frame.last_error, frame.next_attempt_at FROM frame WHERE disposition = 'active' AND next_attempt_at IS NOT NULL AND (frame.attempts > ? OR frame.in_hand IS NOT NULL) ORDER BY frame.next_attempt_at LIMIT ?;
SELECT frame.disposition_code, count(*) AS count_1, min(frame.disposition_at) AS min_1 FROM frame WHERE frame.disposition = ? AND frame.disposition_at >= ? GROUP BY frame.disposition_code ORDER BY frame.disposition_code;
SELECT raw_check.* FROM raw_check WHERE state <> 'ok' OR copy_state <> 'ok' ORDER BY raw_check.checked_at LIMIT ?;

-- status: stale stacks
SELECT clock_timestamp();
SELECT min(revision.claimed_at) AS min_1 FROM revision WHERE revision.status = ? AND revision.published_at >= ?;
SELECT frame.obs_req, max(frame.ready_at) AS max_1 FROM frame WHERE frame.ready_at >= ? GROUP BY frame.obs_req;
SELECT frame.obs_req, max(frame.disposition_at) AS max_1 FROM frame WHERE frame.disposition != ? AND frame.disposition_at >= ? GROUP BY frame.obs_req;
SELECT anon_1.obs_req, max(photometry.created_at) AS max_1 FROM (SELECT frame.id AS id, frame.obs_req AS obs_req FROM frame WHERE frame.ready_at >= ?) AS anon_1 JOIN photometry ON photometry.frame_id = anon_1.id WHERE photometry.created_at >= ? GROUP BY anon_1.obs_req;
SELECT frame.obs_req, max(photometry.created_at) AS max_1 FROM frame JOIN photometry ON photometry.frame_id = frame.id WHERE photometry.created_at >= ? AND (photometry.frame_id NOT IN (SELECT frame.id FROM frame WHERE frame.ready_at >= ?)) GROUP BY frame.obs_req;
SELECT revision.mission_id, max(revision.claimed_at) AS max_1 FROM revision WHERE revision.mission_id IN (?) AND revision.status = ? GROUP BY revision.mission_id;
SELECT revision.id, revision.mission_id, revision.published_at FROM revision JOIN mission ON mission.id = revision.mission_id WHERE revision.mission_id IN (?) AND revision.status = ? AND mission.status = ? AND NOT (EXISTS (SELECT revision_1.id FROM revision AS revision_1 WHERE revision_1.mission_id = revision.mission_id AND revision_1.n > revision.n AND revision_1.status = ?));

-- frames list
SELECT frame.* FROM frame ORDER BY frame.received_at DESC, frame.id DESC LIMIT ?;

-- frames list --node
SELECT frame.* FROM frame WHERE frame.node_id = ? ORDER BY frame.received_at DESC, frame.id DESC LIMIT ?;

-- frames list --mission
SELECT frame.* FROM frame WHERE frame.obs_req = ? ORDER BY frame.received_at DESC, frame.id DESC LIMIT ?;

-- frames list --disposition
SELECT frame.* FROM frame WHERE frame.disposition = ? ORDER BY frame.received_at DESC, frame.id DESC LIMIT ?;

-- frames show, by name
SELECT frame.id AS frame_id, frame.name AS frame_name, frame.node_id AS frame_node_id, frame.obs_req AS frame_obs_req, frame.mission_id AS frame_mission_id, frame.instrument_id AS frame_instrument_id, frame.kind AS frame_kind, frame.plane AS frame_plane, frame.start_utc AS frame_start_utc, frame.exposure_s AS frame_exposure_s, frame.filter AS frame_filter, frame.band AS frame_band, frame.width AS frame_width, frame.height AS frame_height, frame.inbox_key AS frame_inbox_key, frame.inbox_etag AS frame_inbox_etag, frame.raw_key AS frame_raw_key, frame.raw_version AS frame_raw_version, frame.raw_sha256 AS frame_raw_sha256, frame.raw_bytes AS frame_raw_bytes, frame.pixel_digest AS frame_pixel_digest, frame.calibrated_key AS frame_calibrated_key, frame.calibrated_version AS frame_calibrated_version, frame.solved_key AS frame_solved_key, frame.solved_version AS frame_solved_version, frame.sources_key AS frame_sources_key, frame.quicklook_key AS frame_quicklook_key, frame.ingest AS frame_ingest, frame.ingest_code AS frame_ingest_code, frame.calibrate AS frame_calibrate, frame.calibrate_code AS frame_calibrate_code, frame.solve AS frame_solve, frame.solve_code AS frame_solve_code, frame.measure AS frame_measure, frame.measure_code AS frame_measure_code, frame.disposition AS frame_disposition, frame.disposition_code AS frame_disposition_code, frame.disposition_hint AS frame_disposition_hint, frame.disposition_at AS frame_disposition_at, frame.duplicate_of AS frame_duplicate_of, frame.flags AS frame_flags, frame.header AS frame_header, frame.attempts AS frame_attempts, frame.in_hand AS frame_in_hand, frame.next_attempt_at AS frame_next_attempt_at, frame.last_error AS frame_last_error, frame.version AS frame_version, frame.received_at AS frame_received_at, frame.traceparent AS frame_traceparent, frame.ready_at AS frame_ready_at, frame.embargo_until AS frame_embargo_until, frame.licence AS frame_licence, frame.credit AS frame_credit FROM frame WHERE frame.id = ?;
SELECT frame.* FROM frame WHERE frame.name = ? AND (frame.plane IS NULL OR frame.plane = ?) ORDER BY frame.received_at DESC LIMIT ?;

-- frames show, by the beginning of its id
SELECT frame.id AS frame_id, frame.name AS frame_name, frame.node_id AS frame_node_id, frame.obs_req AS frame_obs_req, frame.mission_id AS frame_mission_id, frame.instrument_id AS frame_instrument_id, frame.kind AS frame_kind, frame.plane AS frame_plane, frame.start_utc AS frame_start_utc, frame.exposure_s AS frame_exposure_s, frame.filter AS frame_filter, frame.band AS frame_band, frame.width AS frame_width, frame.height AS frame_height, frame.inbox_key AS frame_inbox_key, frame.inbox_etag AS frame_inbox_etag, frame.raw_key AS frame_raw_key, frame.raw_version AS frame_raw_version, frame.raw_sha256 AS frame_raw_sha256, frame.raw_bytes AS frame_raw_bytes, frame.pixel_digest AS frame_pixel_digest, frame.calibrated_key AS frame_calibrated_key, frame.calibrated_version AS frame_calibrated_version, frame.solved_key AS frame_solved_key, frame.solved_version AS frame_solved_version, frame.sources_key AS frame_sources_key, frame.quicklook_key AS frame_quicklook_key, frame.ingest AS frame_ingest, frame.ingest_code AS frame_ingest_code, frame.calibrate AS frame_calibrate, frame.calibrate_code AS frame_calibrate_code, frame.solve AS frame_solve, frame.solve_code AS frame_solve_code, frame.measure AS frame_measure, frame.measure_code AS frame_measure_code, frame.disposition AS frame_disposition, frame.disposition_code AS frame_disposition_code, frame.disposition_hint AS frame_disposition_hint, frame.disposition_at AS frame_disposition_at, frame.duplicate_of AS frame_duplicate_of, frame.flags AS frame_flags, frame.header AS frame_header, frame.attempts AS frame_attempts, frame.in_hand AS frame_in_hand, frame.next_attempt_at AS frame_next_attempt_at, frame.last_error AS frame_last_error, frame.version AS frame_version, frame.received_at AS frame_received_at, frame.traceparent AS frame_traceparent, frame.ready_at AS frame_ready_at, frame.embargo_until AS frame_embargo_until, frame.licence AS frame_licence, frame.credit AS frame_credit FROM frame WHERE frame.id = ?;
SELECT frame.* FROM frame WHERE frame.name = ? AND (frame.plane IS NULL OR frame.plane = ?) ORDER BY frame.received_at DESC LIMIT ?;
SELECT frame.* FROM frame WHERE frame.id >= ? AND frame.id < ? LIMIT ?;

-- frames show, history
SELECT solution.id, solution.frame_id, solution.current, solution.solver, solution.catalog, solution.code_version, solution.created_at, solution.ra_deg, solution.dec_deg, solution.scale_arcsec, solution.rotation_deg, solution.parity, solution.rms_arcsec, solution.rms_px, solution.matches, solution."order", solution.wcs, solution.footprint, solution.catalog_version, solution.epoch, solution.hint, solution.held_out_arcsec, solution.corner_error_px, solution.offset_ra_deg, solution.offset_dec_deg, solution.distortion, solution.model_id, solution.residuals, solution.calibration_id, solution.solved_key, solution.solved_version, photometry.id AS id_1, photometry.frame_id AS frame_id_1, photometry.solution_id, photometry.current AS current_1, photometry.created_at AS created_at_1, photometry.band, photometry.zero_point_mag, photometry.zero_point_err, photometry.scatter_mag, photometry.calibrators, photometry.catalog_band, photometry.fwhm_px, photometry.fwhm_arcsec, photometry.ellipticity, photometry.sky_adu, photometry.sky_sigma_adu, photometry.limiting_mag, photometry.saturation_adu, photometry.n_sources, photometry.catalog AS catalog_1, photometry.catalog_version AS catalog_version_1, photometry.colour_term, photometry.colour_ref, photometry.aperture_px, photometry.growth, photometry.gain_e_per_adu, photometry.psf_stars, photometry.fwhm_corner_px, photometry.sky_brightness_mag_arcsec2, photometry.transparency, photometry.em_min_m, photometry.em_max_m, photometry.sources_key FROM solution LEFT OUTER JOIN photometry ON photometry.frame_id = solution.frame_id AND photometry.solution_id = solution.id WHERE solution.frame_id = ? ORDER BY solution.id DESC, photometry.id DESC;
SELECT attempt.* FROM attempt WHERE attempt.frame_id = ? ORDER BY attempt.id DESC;

-- mission list
SELECT mission.* FROM mission ORDER BY mission.created_at DESC LIMIT ?;

-- mission show
SELECT mission.id AS mission_id, mission.title AS mission_title, mission.status AS mission_status, mission.ra_deg AS mission_ra_deg, mission.dec_deg AS mission_dec_deg, mission.ephemeris AS mission_ephemeris, mission.parameters AS mission_parameters, mission.pinned AS mission_pinned, mission.status_changed_at AS mission_status_changed_at, mission.created_at AS mission_created_at, mission.failure_code AS mission_failure_code, mission.failure_hint AS mission_failure_hint, mission.embargo_until AS mission_embargo_until, mission.licence AS mission_licence, mission.credit AS mission_credit FROM mission WHERE mission.id = ?;
SELECT count(*) AS count_1, min(frame.received_at) AS min_1, frame.ready_at IS NOT NULL AS anon_1, frame.disposition, frame.kind, frame.plane, frame.ingest, frame.calibrate, frame.solve, frame.measure FROM frame WHERE frame.obs_req = ? GROUP BY frame.ready_at IS NOT NULL, frame.disposition, frame.kind, frame.plane, frame.ingest, frame.calibrate, frame.solve, frame.measure;
SELECT revision.* FROM revision WHERE revision.mission_id = ? ORDER BY revision.epoch;
SELECT product.*, revision.n FROM product JOIN revision ON revision.id = product.revision_id WHERE revision.mission_id = ? AND revision.status = ? ORDER BY revision.n, product.band, product.pointing, product.track DESC;
SELECT status_event.* FROM status_event WHERE status_event.mission_id = ? AND status_event.state = ?;
SELECT revision.id, revision.mission_id, revision.published_at FROM revision JOIN mission ON mission.id = revision.mission_id WHERE revision.mission_id IN (?) AND revision.status = ? AND mission.status = ? AND NOT (EXISTS (SELECT revision_1.id FROM revision AS revision_1 WHERE revision_1.mission_id = revision.mission_id AND revision_1.n > revision.n AND revision_1.status = ?));
SELECT revision.id, frame.id AS id_1, frame.ready_at FROM revision JOIN frame ON frame.obs_req = revision.mission_id LEFT OUTER JOIN revision_input ON revision_input.revision_id = revision.id AND revision_input.frame_id = frame.id WHERE revision.id IN (?) AND frame.disposition = ? AND frame.ready_at IS NOT NULL AND revision_input.frame_id IS NULL;
SELECT revision_input.revision_id, frame.id, frame.disposition_at FROM revision_input JOIN frame ON frame.id = revision_input.frame_id WHERE revision_input.revision_id IN (?) AND frame.disposition != ? AND (revision_input.weight IS NULL OR revision_input.weight > ?);
SELECT revision_input.frame_id FROM revision_input JOIN photometry AS photometry_1 ON photometry_1.frame_id = revision_input.frame_id WHERE revision_input.revision_id IN (?) AND photometry_1.current IS true AND photometry_1.id != revision_input.photometry_id AND (revision_input.compared_photometry_id IS NULL OR revision_input.compared_photometry_id != photometry_1.id);
SELECT clock_timestamp();
SELECT announcement.obs_req, count(*) AS count_1 FROM announcement WHERE announcement.obs_req IN (?) AND announcement.arrived_at IS NULL AND announcement.expires_at > ? GROUP BY announcement.obs_req;
SELECT frame.obs_req, count(*) AS count_1 FROM frame WHERE disposition = 'active' AND ingest <> 'failed' AND calibrate <> 'failed' AND solve <> 'failed' AND measure <> 'failed' AND CASE WHEN kind <> 'light' THEN ingest WHEN plane = 'CFA' THEN calibrate ELSE measure END = 'pending' AND frame.obs_req IN (?) AND frame.kind = ? AND frame.ready_at IS NULL GROUP BY frame.obs_req;

-- mission diff
SELECT mission.id AS mission_id, mission.title AS mission_title, mission.status AS mission_status, mission.ra_deg AS mission_ra_deg, mission.dec_deg AS mission_dec_deg, mission.ephemeris AS mission_ephemeris, mission.parameters AS mission_parameters, mission.pinned AS mission_pinned, mission.status_changed_at AS mission_status_changed_at, mission.created_at AS mission_created_at, mission.failure_code AS mission_failure_code, mission.failure_hint AS mission_failure_hint, mission.embargo_until AS mission_embargo_until, mission.licence AS mission_licence, mission.credit AS mission_credit FROM mission WHERE mission.id = ?;
SELECT revision.* FROM revision WHERE revision.mission_id = ? AND revision.status = ? ORDER BY revision.n;
SELECT revision_input.*, frame.* FROM revision_input JOIN frame ON frame.id = revision_input.frame_id WHERE revision_input.revision_id = ?;
SELECT product.* FROM product WHERE product.revision_id = ?;

-- node list
SELECT node.* FROM node;
SELECT clock_timestamp();
WITH RECURSIVE sender(id) AS (SELECT min(frame.node_id) AS id FROM frame UNION ALL SELECT (SELECT min(frame.node_id) AS min_1 FROM frame WHERE frame.node_id > sender.id) AS anon_3 FROM sender WHERE sender.id IS NOT NULL) SELECT sender.id, (SELECT max(frame.received_at) AS max_1 FROM frame WHERE frame.node_id = sender.id) AS anon_1, (SELECT count(*) AS count_1 FROM frame WHERE frame.node_id = sender.id AND frame.received_at >= ?) AS anon_2 FROM sender WHERE sender.id IS NOT NULL;
