-- ObsCore 1.1 over frames and products, for PostgreSQL.
-- One row per light frame that was filed, and one per product of a published revision. What is under embargo is
-- listed, without the place where it lies. Polygons go round counter-clockwise, seen from the Earth.
CREATE VIEW obscore AS
SELECT
    CAST('image' AS VARCHAR) AS dataproduct_type,
    CASE WHEN ph.zero_point_mag IS NULL THEN 1 ELSE 2 END AS calib_level,
    CAST('starloom' AS VARCHAR) AS obs_collection,
    CAST(f.name AS VARCHAR) AS obs_id,
    'ivo://starloom/frame?' || f.id AS obs_publisher_did,
    CASE
        WHEN f.embargo_until > CLOCK_TIMESTAMP() THEN NULL
        ELSE COALESCE(s.solved_key, f.solved_key, f.raw_key)
    END AS access_url,
    CAST('application/fits' AS VARCHAR) AS access_format,
    CAST((f.raw_bytes / 1000) AS BIGINT) AS access_estsize,
    COALESCE(NULLIF(m.title, ''), f.obs_req) AS target_name,
    s.ra_deg AS s_ra,
    s.dec_deg AS s_dec,
    SQRT(1.0 * f.width * f.width + 1.0 * f.height * f.height) * s.scale_arcsec / 3600.0 AS s_fov,
    CASE WHEN s.parity >= 0 THEN 'POLYGON ICRS '
        || (s.footprint -> 0 ->> 0) || ' ' || (s.footprint -> 0 ->> 1) || ' '
        || (s.footprint -> 1 ->> 0) || ' ' || (s.footprint -> 1 ->> 1) || ' '
        || (s.footprint -> 2 ->> 0) || ' ' || (s.footprint -> 2 ->> 1) || ' '
        || (s.footprint -> 3 ->> 0) || ' ' || (s.footprint -> 3 ->> 1)
        ELSE 'POLYGON ICRS '
        || (s.footprint -> 3 ->> 0) || ' ' || (s.footprint -> 3 ->> 1) || ' '
        || (s.footprint -> 2 ->> 0) || ' ' || (s.footprint -> 2 ->> 1) || ' '
        || (s.footprint -> 1 ->> 0) || ' ' || (s.footprint -> 1 ->> 1) || ' '
        || (s.footprint -> 0 ->> 0) || ' ' || (s.footprint -> 0 ->> 1)
    END AS s_region,
    ph.fwhm_arcsec AS s_resolution,
    f.width AS s_xel1,
    f.height AS s_xel2,
    EXTRACT(EPOCH FROM f.start_utc)::DOUBLE PRECISION / 86400.0 + 40587.0 AS t_min,
    EXTRACT(EPOCH FROM f.start_utc)::DOUBLE PRECISION / 86400.0 + 40587.0 + f.exposure_s / 86400.0 AS t_max,
    f.exposure_s AS t_exptime,
    f.exposure_s AS t_resolution,
    1 AS t_xel,
    ph.em_min_m AS em_min,
    ph.em_max_m AS em_max,
    (ph.em_min_m + ph.em_max_m) / 2.0 / (ph.em_max_m - ph.em_min_m) AS em_res_power,
    1 AS em_xel,
    CAST('phot.count' AS VARCHAR) AS o_ucd,
    CAST(NULL AS VARCHAR) AS pol_states,
    CAST(NULL AS BIGINT) AS pol_xel,
    COALESCE(NULLIF(n.name, ''), f.node_id) AS facility_name,
    NULLIF(i.camera, '') AS instrument_name,
    f.band AS em_filter_name,
    TO_CHAR(f.embargo_until AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS') AS obs_release_date,
    CASE WHEN f.embargo_until > CLOCK_TIMESTAMP() THEN 'proprietary' ELSE 'public' END AS data_rights
FROM frame f
LEFT JOIN solution s ON s.frame_id = f.id AND s.current
LEFT JOIN photometry ph ON ph.frame_id = f.id AND ph.current
LEFT JOIN mission m ON m.id = f.mission_id
LEFT JOIN node n ON n.id = f.node_id
LEFT JOIN instrument i ON i.id = f.instrument_id
WHERE f.disposition = 'active' AND f.kind = 'light' AND f.ingest = 'ok' AND COALESCE(f.plane, '') <> 'CFA'
UNION ALL
SELECT
    'image',
    3,
    'starloom',
    r.mission_id || ' r' || r.n,
    'ivo://starloom/stack?' || r.mission_id || '/r' || r.n || '/' || p.band || '/p' || p.pointing,
    CASE WHEN m.embargo_until > CLOCK_TIMESTAMP() THEN NULL ELSE p.sci_key END,
    'application/fits',
    CAST((p.bytes / 1000) AS BIGINT),
    COALESCE(NULLIF(m.title, ''), r.mission_id),
    (p.summary -> 'extent' ->> 'ra_deg')::DOUBLE PRECISION,
    (p.summary -> 'extent' ->> 'dec_deg')::DOUBLE PRECISION,
    (p.summary -> 'extent' ->> 'fov_deg')::DOUBLE PRECISION,
    'POLYGON ICRS '
        || (p.summary -> 'extent' -> 'footprint' -> 0 ->> 0) || ' ' || (p.summary -> 'extent' -> 'footprint' -> 0 ->> 1) || ' '
        || (p.summary -> 'extent' -> 'footprint' -> 1 ->> 0) || ' ' || (p.summary -> 'extent' -> 'footprint' -> 1 ->> 1) || ' '
        || (p.summary -> 'extent' -> 'footprint' -> 2 ->> 0) || ' ' || (p.summary -> 'extent' -> 'footprint' -> 2 ->> 1) || ' '
        || (p.summary -> 'extent' -> 'footprint' -> 3 ->> 0) || ' ' || (p.summary -> 'extent' -> 'footprint' -> 3 ->> 1),
    x.fwhm_arcsec,
    (p.summary -> 'shape' ->> 1)::INTEGER,
    (p.summary -> 'shape' ->> 0)::INTEGER,
    x.t_min,
    x.t_max,
    (p.summary ->> 'exposure_s')::DOUBLE PRECISION,
    x.shortest_s,
    1,
    x.em_min_m,
    x.em_max_m,
    (x.em_min_m + x.em_max_m) / 2.0 / (x.em_max_m - x.em_min_m),
    1,
    'phot.flux.density',
    NULL,
    NULL,
    CASE WHEN x.nodes = 1 THEN x.node ELSE 'starloom' END,
    CASE WHEN x.cameras = 1 THEN x.camera END,
    p.band,
    TO_CHAR(m.embargo_until AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS'),
    CASE WHEN m.embargo_until > CLOCK_TIMESTAMP() THEN 'proprietary' ELSE 'public' END
FROM product p
JOIN revision r ON r.id = p.revision_id AND r.status = 'published'
JOIN mission m ON m.id = r.mission_id
LEFT JOIN (
    SELECT
        p2.id AS product_id,
        MIN(EXTRACT(EPOCH FROM f.start_utc)::DOUBLE PRECISION / 86400.0 + 40587.0) AS t_min,
        MAX(EXTRACT(EPOCH FROM f.start_utc)::DOUBLE PRECISION / 86400.0 + 40587.0 + f.exposure_s / 86400.0) AS t_max,
        MIN(f.exposure_s) AS shortest_s,
        SUM(ri.weight * ph.fwhm_arcsec) / SUM(ri.weight) AS fwhm_arcsec,
        MIN(ph.em_min_m) AS em_min_m,
        MAX(ph.em_max_m) AS em_max_m,
        COUNT(DISTINCT f.node_id) AS nodes,
        MIN(COALESCE(NULLIF(n.name, ''), f.node_id)) AS node,
        COUNT(DISTINCT i.camera) AS cameras,
        MIN(NULLIF(i.camera, '')) AS camera
    FROM product p2
    CROSS JOIN LATERAL JSON_ARRAY_ELEMENTS(p2.summary -> 'frames') report
    JOIN frame f ON f.id = report.value ->> 'id'
    JOIN revision_input ri ON ri.revision_id = p2.revision_id AND ri.frame_id = f.id AND ri.weight > 0
    JOIN photometry ph ON ph.id = ri.photometry_id
    LEFT JOIN node n ON n.id = f.node_id
    LEFT JOIN instrument i ON i.id = f.instrument_id
    GROUP BY p2.id
) x ON x.product_id = p.id
