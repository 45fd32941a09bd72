"""The online catalogues: where they are asked, for which columns, and what is known of their stars.

The queries are plain ADQL 2.0 over TAP, so a mirror serves as well: ``STARLOOM_REFCAT_URLS`` names others.

References
----------
Dowler, Rixon, Tody & Demleitner 2019, TAP 1.1. Gaia Collaboration 2023, A&A 674, A1. Magnier et al. 2020, ApJS
251, 6. Henden et al. 2016, VizieR II/336.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Service:
    """A catalogue behind a TAP service.

    Parameters
    ----------
    key
        Short name, for settings and folders.
    catalog, version, licence
        Name, release and terms of use, as they go with the stars.
    url
        Base of the TAP service.
    table
        Table that is asked.
    columns
        Role (`starloom.refcat.columns`) -> column or ADQL expression, in the units of `StarRows`: degrees, mas,
        mas a year, magnitudes.
    band
        Band that ranks the stars and bounds their number.
    bands
        All bands.
    epoch
        Julian year of the positions.
    position_err_mas
        Error per axis where a star has none of its own.
    nside
        HEALPix resolution of the cells that are fetched and kept whole.
    faintest_mag
        Faintest star asked for.
    max_rows
        Most stars of a cell; a fuller one is complete to a brighter magnitude.
    max_radius_deg
        Widest circle the service answers for.
    dec_min_deg
        Southern border of the survey.
    where
        Further condition.
    """

    key: str
    catalog: str
    version: str
    licence: str
    url: str
    table: str
    columns: Mapping[str, str]
    band: str
    bands: tuple[str, ...]
    epoch: float
    position_err_mas: float
    nside: int = 32
    faintest_mag: float = 17.0
    max_rows: int = 50_000
    max_radius_deg: float = 5.0
    dec_min_deg: float = -90.0
    where: str = ""


GAIA_DR3 = Service(
    "gaia",
    "Gaia",
    "DR3",
    "CC BY-SA 3.0 IGO, ESA/Gaia/DPAC",
    "https://gea.esac.esa.int/tap-server/tap",
    "gaiadr3.gaia_source",
    {
        "ra": "ra",
        "dec": "dec",
        "ra_err": "ra_error",
        "dec_err": "dec_error",
        "pmra": "pmra",
        "pmdec": "pmdec",
        "pmra_err": "pmra_error",
        "pmdec_err": "pmdec_error",
        "mag_G": "phot_g_mean_mag",
        "mag_BP": "phot_bp_mean_mag",
        "mag_RP": "phot_rp_mean_mag",
        "magsnr_G": "phot_g_mean_flux_over_error",
        "magsnr_BP": "phot_bp_mean_flux_over_error",
        "magsnr_RP": "phot_rp_mean_flux_over_error",
    },
    "G",
    ("G", "BP", "RP"),
    2016.0,
    1.0,
)

# The service refuses circles wider than 0.25 degrees. Single detections are junk more often than stars.
PANSTARRS_DR2 = Service(
    "panstarrs",
    "Pan-STARRS",
    "DR2",
    "public, with acknowledgement (STScI/MAST)",
    "https://mast.stsci.edu/vo-tap/api/v0.1/ps1dr2",
    "dbo.MeanObjectView",
    {
        "ra": "raMean",
        "dec": "decMean",
        "mag_r": "rMeanPSFMag",
        "mag_g": "gMeanPSFMag",
        "mag_i": "iMeanPSFMag",
        "mag_z": "zMeanPSFMag",
        "mag_y": "yMeanPSFMag",
        "magerr_r": "rMeanPSFMagErr",
        "magerr_g": "gMeanPSFMagErr",
        "magerr_i": "iMeanPSFMagErr",
        "magerr_z": "zMeanPSFMagErr",
        "magerr_y": "yMeanPSFMagErr",
    },
    "r",
    ("r", "g", "i", "z", "y"),
    2012.5,
    20.0,
    nside=256,
    faintest_mag=18.0,
    max_rows=20_000,
    max_radius_deg=0.24,
    dec_min_deg=-30.0,
    where="nDetections > 5",
)

APASS_DR9 = Service(
    "apass",
    "APASS",
    "DR9 (VizieR II/336)",
    "public, with acknowledgement (AAVSO; CDS)",
    "https://tapvizier.cds.unistra.fr/TAPVizieR/tap",
    '"II/336/apass9"',
    {
        "ra": "RAJ2000",
        "dec": "DEJ2000",
        "mag_V": "Vmag",
        "mag_B": "Bmag",
        "mag_g": '"g\'mag"',
        "mag_r": '"r\'mag"',
        "mag_i": '"i\'mag"',
        "magerr_V": "e_Vmag",
        "magerr_B": "e_Bmag",
        "magerr_g": '"e_g\'mag"',
        "magerr_r": '"e_r\'mag"',
        "magerr_i": '"e_i\'mag"',
    },
    "V",
    ("V", "B", "g", "r", "i"),
    2012.0,
    200.0,
    faintest_mag=17.0,
)

SERVICES = {service.key: service for service in (GAIA_DR3, PANSTARRS_DR2, APASS_DR9)}
