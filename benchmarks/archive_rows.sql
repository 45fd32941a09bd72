-- Rows of an archive of :frames frames that arrived at :per_day a day, the newest just now; `k` counts them from the
-- newest back. 500 nodes of one instrument each; missions of 100 frames, twenty at a time; 5000 fields, visited again
-- and again; 8 % calibration frames, 2 % of the lights not solved, 2 % duplicates, 1 % quarantined, and the newest
-- under way. Statements end with two semicolons; those between the same two lines of dashes may run side by side.
INSERT INTO node (id, name, exact_site, filters, registered_at)
SELECT 'T' || lpad(n::text, 3, '0'), 'Telescope ' || n, false, '{}', now() - interval '6 years'
FROM generate_series(1, 500) n;;
INSERT INTO instrument (id, node_id, camera, telescope, binning, readout, valid_from)
SELECT n, 'T' || lpad(n::text, 3, '0'), 'Camera', '', 1, '', now() - interval '6 years' FROM generate_series(1, 500) n;;
-- Half of the instruments send no darks.
INSERT INTO master (id, instrument_id, kind, current, created_at, code_version, binning, width, height, valid_from,
    valid_to, n_frames, frame_ids, key, sha256, stats)
SELECT n, 1 + n % 500, (ARRAY['bias', 'dark', 'flat', 'defects'])[1 + n / 500 % 4], n > 8000 AND (n / 500 % 4 <> 1 OR n % 2 = 0), now() - n * interval '1 h',
    '1', 1, 4096, 4096, now(), now(), 20, '[]', 'masters/' || n, md5(n::text) || md5(n::text), '{}'
FROM generate_series(1, 10000) n;;
INSERT INTO instrument_model (instrument_id, current, created_at, code_version, n_frames, model)
SELECT n, true, now(), '1', 400, json_build_object('newest_solution', :frames) FROM generate_series(1, 500) n;;
INSERT INTO mission (id, title, status, ra_deg, dec_deg, parameters, status_changed_at, created_at)
SELECT 'M' || m, 'Field ' || m % 5000,
    CASE WHEN m < 20 THEN 'OPEN' WHEN m < 25 THEN 'COMPLETE' WHEN m < 28 THEN 'STACKING'
         WHEN m % 200 = 1 THEN 'FAILED' WHEN m % 100 = 2 THEN 'CANCELLED' ELSE 'STACKED' END,
    t.ra, t.dec, '{}', now() - (m / 20 * 2000) * interval '1 day' / :per_day + interval '1 h',
    now() - (m / 20 * 2000 + 2000) * interval '1 day' / :per_day
FROM generate_series(0, :frames / 100 - 1) m JOIN target t ON t.n = m % 5000;;
UPDATE mission SET failure_code = 'no-usable-frames' WHERE status = 'FAILED';;
INSERT INTO status_event (mission_id, old_status, new_status, created_at, state, publish_attempts, surplus_runs)
SELECT m.id, e.old, e.new, m.status_changed_at, CASE WHEN e.n = 1 THEN 'claimed' ELSE 'superseded' END, 1, 0
FROM mission m
CROSS JOIN (VALUES (1, 'OPEN', 'COMPLETE'), (2, 'COMPLETE', 'STACKING'), (3, 'STACKING', 'STACKED')) e (n, old, new)
WHERE m.status NOT IN ('OPEN', 'COMPLETE');;
INSERT INTO status_event (mission_id, old_status, new_status, created_at, state, publish_attempts, surplus_runs)
SELECT id, 'OPEN', 'COMPLETE', now() - interval '5 min', 'open', 0, 0 FROM mission WHERE status = 'COMPLETE';;
INSERT INTO revision (mission_id, n, epoch, status, event_id, token, holder, lease_until, claimed_at, bound_at,
    published_at, told_at, parameters)
SELECT m.id, n, n, 'published', min(e.id), md5(m.id), 'run', m.status_changed_at, m.status_changed_at,
    m.status_changed_at, m.status_changed_at, m.status_changed_at, '{}'
FROM mission m JOIN status_event e ON e.mission_id = m.id
CROSS JOIN generate_series(1, 1 + (right(m.id, 1) = '7')::int) n
WHERE m.status = 'STACKED' GROUP BY m.id, m.status_changed_at, n;;
INSERT INTO revision (mission_id, n, epoch, status, token, holder, lease_until, claimed_at, parameters)
SELECT id, 1, 1, 'bound', md5(id), 'run', now() + interval '1 h', now(), '{}' FROM mission WHERE status = 'STACKING';;
INSERT INTO product (revision_id, band, pointing, track, sci_key, sha256, bytes)
SELECT id, 'V', 1, 'sidereal', 'stacks/' || mission_id || '/r' || n, md5(token) || md5(token), 100000000
FROM revision WHERE status = 'published';;
----
INSERT INTO frame (id, name, node_id, obs_req, mission_id, instrument_id, kind, start_utc, exposure_s, filter, band, width,
    height, raw_key, raw_sha256, raw_bytes, pixel_digest, solved_key, sources_key, ingest, calibrate, solve, solve_code,
    measure, disposition, disposition_code, disposition_at, flags, header, attempts, next_attempt_at, version,
    received_at, ready_at)
SELECT r.id, 'ObsReq-' || r.m || '_TelID-' || r.node || '_' || to_char(r.at, 'YYYYMMDD"T"HH24MISSMS') || '.fits.fz', r.node,
    CASE WHEN r.light THEN r.m END, CASE WHEN r.light THEN r.m END, r.instrument,
    CASE WHEN r.light THEN 'light' ELSE (ARRAY['bias', 'dark', 'flat'])[1 + r.k % 3] END, r.at - interval '5 min', 60, 'V', 'V',
    4096, 4096, r.raw, r.sha, 17000000, r.sha,
    CASE WHEN r.done THEN 'solved' || substr(r.raw, 4, 15) || r.id || '/1.fits.fz' END,
    CASE WHEN r.done THEN 'sources' || substr(r.raw, 4, 15) || r.id || '/1.parquet' END,
    'ok', CASE WHEN r.light AND r.k >= 40 THEN 'ok' ELSE 'pending' END,
    CASE WHEN r.done THEN 'ok' WHEN r.unsolved THEN 'failed' ELSE 'pending' END,
    CASE WHEN r.unsolved THEN 'catalogue-too-sparse' END, CASE WHEN r.done THEN 'ok' ELSE 'pending' END,
    r.disposition, CASE WHEN r.disposition = 'quarantined' THEN 'bad-fits' END,
    CASE WHEN r.disposition <> 'active' THEN r.at END, '[]',
    '{"camera": {"value": "Camera", "card": "INSTRUME"}, "exposure_s": {"value": 60, "card": "EXPTIME"}}', 0,
    CASE WHEN r.k < 40 THEN now() + (r.k - 20) * interval '2 s' END, 8, r.at,
    CASE WHEN r.done THEN r.at + interval '2 min' END
FROM made_frame r;;
----
INSERT INTO solution (id, frame_id, current, solver, catalog, code_version, created_at, ra_deg, dec_deg, scale_arcsec,
    rotation_deg, parity, rms_arcsec, rms_px, matches, "order", wcs, footprint, catalog_version, hint, held_out_arcsec,
    offset_ra_deg, offset_dec_deg, distortion, solved_key)
SELECT :frames - r.k, r.id, true, 'seiza', 'Gaia', '1', r.at, t.ra, t.dec, 1.0, 0, 1, 0.2, 0.2, 60, 2,
    json_build_object('CRVAL1', t.ra, 'CRVAL2', t.dec, 'CD1_1', -0.0002777, 'CD2_2', 0.0002777), t.footprint, 'DR3', 'header',
    0.2, 0, 0, '{"a": 1}', NULL
FROM made_frame r JOIN target t ON t.n = r.field WHERE r.done;;
INSERT INTO photometry (id, frame_id, solution_id, current, created_at, band, zero_point_mag, zero_point_err, scatter_mag,
    calibrators, catalog_band, fwhm_px, fwhm_arcsec, ellipticity, sky_adu, sky_sigma_adu, limiting_mag, n_sources, catalog,
    psf_stars, sky_brightness_mag_arcsec2, transparency, sources_key)
SELECT :frames - r.k, r.id, :frames - r.k, true, r.at, 'V', 21.0, 0.01, 0.02, 40, 'V', 2.5, 2.5, 0.1, 500, 20, 18.5,
    100 + r.k % 4000, 'Gaia', 30, 20.5, 0.95, 'sources' || substr(r.raw, 4, 15) || r.id || '/1.parquet'
FROM made_frame r WHERE r.done;;
INSERT INTO conditions (frame_id, ambient_temp_k, humidity_pct, airmass, target_alt_deg, moon_sep_deg)
SELECT r.id, 285, 60, 1.2, 60, 90 FROM made_frame r WHERE r.done;;
INSERT INTO revision_input (revision_id, frame_id, solution_id, photometry_id, weight, scale)
SELECT v.id, r.id, :frames - r.k, :frames - r.k, 1, 1
FROM made_frame r JOIN revision v ON v.mission_id = r.m AND v.status = 'published' WHERE r.done;;
----
INSERT INTO calibration (id, frame_id, current, created_at, code_version, bias_id, dark_id, flags)
SELECT :frames - r.k, r.id, true, r.at, '1', 1, 501, '[]' FROM made_frame r WHERE r.done OR r.unsolved;;
INSERT INTO frame_cell (frame_id, cell)
SELECT r.id, unnest(t.cells) FROM made_frame r JOIN target t ON t.n = r.field WHERE r.done;;
INSERT INTO raw_check (key, checked_at, state, alert)
SELECT r.raw, now() - (r.k % 720) * interval '1 h', 'ok', false FROM made_frame r WHERE r.disposition <> 'quarantined';;
