"""Which column of a catalogue file is what: well-known names, their units, and what the user says instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from starloom.errors import BadInput

#: Everything a column can be, besides ``mag_BAND``, ``magerr_BAND`` and ``magsnr_BAND``: name -> unit we work in.
ROLES = {
    "ra": "deg",
    "dec": "deg",
    "ra_err": "mas",
    "dec_err": "mas",
    "pmra": "mas/yr",
    "pmdec": "mas/yr",
    "pmra_err": "mas/yr",
    "pmdec_err": "mas/yr",
    "epoch": "yr",
}

# Compared without regard to case. Sources: Gaia archive data model; VizieR I/259, I/322A, I/355, II/336, II/349,
# J/ApJ/867/105; MAST's PS1 and ATLAS-REFCAT2 tables; AAVSO's APASS DR10.
_NAMES = {
    "ra": ["ra", "ra_deg", "radeg", "ra_icrs", "raicrs", "ramdeg", "rajdeg", "raj2000", "_raj2000", "_ra",
           "ramean", "alpha", "alpha_j2000", "right_ascension"],
    "dec": ["dec", "dec_deg", "decdeg", "de_icrs", "dec_icrs", "deicrs", "demdeg", "dedeg", "dej2000", "_dej2000",
            "_de", "_dec", "decmean", "decj2000", "delta", "delta_j2000", "declination"],
    "ra_err": ["ra_error", "ra_err", "e_ra_icrs", "e_raicrs", "e_ramdeg", "e_radeg", "e_raj2000", "rameanerr",
               "raerr", "radeg_err", "e_ra"],
    "dec_err": ["dec_error", "dec_err", "e_de_icrs", "e_dec_icrs", "e_deicrs", "e_demdeg", "e_dedeg", "e_dej2000",
                "decmeanerr", "decerr", "decdeg_err", "e_de", "e_dec"],
    "pmra": ["pmra", "pm_ra", "pmra_cosdec", "pmracosde", "pm_ra_cosdec", "pmra_masyr", "pm_ra_masyr"],
    "pmdec": ["pmdec", "pmde", "pm_dec", "pm_de", "pmdec_masyr", "pm_dec_masyr"],
    "pmra_err": ["pmra_error", "pmra_err", "e_pmra", "dpmra", "pm_ra_err", "pm_ra_error"],
    "pmdec_err": ["pmdec_error", "pmdec_err", "e_pmdec", "e_pmde", "dpmdec", "pm_dec_err", "pm_dec_error"],
    "epoch": ["ref_epoch", "epoch"],
}  # fmt: skip

# Of magnitudes the case decides: G is Gaia's, g is Sloan's. Nearer the front wins where a file has several.
_MAGNITUDES = {
    "G": ["phot_g_mean_mag", "Gmag", "G", "Gaia", "mag_G", "G_mag"],
    "BP": ["phot_bp_mean_mag", "BPmag", "BP", "mag_BP"],
    "RP": ["phot_rp_mean_mag", "RPmag", "RP", "mag_RP"],
    "BT": ["BTmag", "BT", "mag_BT"],
    "VT": ["VTmag", "VT", "mag_VT"],
    "U": ["Umag", "U", "mag_U"],
    "B": ["Bmag", "B", "Johnson_B", "Johnson_B (B)", "mag_B", "B_mag"],
    "V": ["Vmag", "V", "Johnson_V", "Johnson_V (V)", "mag_V", "V_mag"],
    "R": ["Rmag", "R", "Rcmag", "mag_R", "R_mag"],
    "I": ["Imag", "I", "Icmag", "mag_I", "I_mag"],
    "u": ["umag", "u'mag", "u", "mag_u", "u_mag"],
    "g": ["gmag", "g'mag", "gMeanPSFMag", "g", "g_mean_psf_mag", "Sloan_g", "Sloan_g (SG)", "mag_g", "g_mag"],
    "r": ["rmag", "r'mag", "rMeanPSFMag", "r", "r_mean_psf_mag", "Sloan_r", "Sloan_r (SR)", "mag_r", "r_mag"],
    "i": ["imag", "i'mag", "iMeanPSFMag", "i", "i_mean_psf_mag", "Sloan_i", "Sloan_i (SI)", "mag_i", "i_mag"],
    "z": ["zmag", "z'mag", "zMeanPSFMag", "z", "z_mean_psf_mag", "Sloan_z", "mag_z", "z_mag"],
    "y": ["ymag", "yMeanPSFMag", "y", "y_mean_psf_mag", "mag_y", "y_mag"],
    "J": ["Jmag", "J", "mag_J"],
    "H": ["Hmag", "H", "mag_H"],
    "K": ["Kmag", "Ksmag", "K", "mag_K"],
}  # fmt: skip

_ERROR_OF = ["e_{0}", "{0}_error", "{0}_err", "{0}Err", "err_{0}", "d{0}", "{0}_sigma", "magerr_{1}", "e_{1}mag"]

# Bands a solver and a ranking by brightness are best served with, the best first.
# fmt: off
PREFERRED_BANDS = (
    "G", "r", "V", "VT", "g", "i", "R", "RP", "BP", "B", "BT", "z", "I", "y", "u", "U", "J", "H", "K",
)
# fmt: on


@dataclass(frozen=True)
class Survey:
    """A catalogue known by the names of its columns, and what those do not say."""

    name: str
    columns: frozenset[str]
    epoch: float
    error_epoch: float
    position_error_unit: str = "mas"


# The first whose columns are all there; a more special one stands before a more general one.
SURVEYS = (
    Survey("Gaia DR3", frozenset({"source_id", "phot_g_mean_mag", "ra"}), 2016.0, 2016.0),
    Survey("Tycho-2", frozenset({"RAmdeg", "DEmdeg", "VTmag"}), 2000.0, 1985.0),
    Survey("ATLAS-REFCAT2", frozenset({"RA", "Dec", "Gaia", "BP", "RP"}), 2015.5, 2015.5),
    Survey("ATLAS-REFCAT2", frozenset({"RA_ICRS", "DE_ICRS", "Gmag", "gmag", "rmag"}), 2015.5, 2015.5),
    Survey("Gaia DR3", frozenset({"RA_ICRS", "DE_ICRS", "Gmag", "BPmag"}), 2016.0, 2016.0),
    Survey("Pan-STARRS DR2", frozenset({"raMean", "decMean", "rMeanPSFMag"}), 2012.5, 2012.5, "arcsec"),
    Survey("Pan-STARRS DR1", frozenset({"RAJ2000", "DEJ2000", "gmag", "ymag"}), 2012.5, 2012.5, "arcsec"),
    Survey("UCAC4", frozenset({"RAJ2000", "DEJ2000", "f.mag", "pmRA"}), 2000.0, 1999.0),
    Survey("APASS", frozenset({"RAJ2000", "DEJ2000", "Vmag", "g'mag"}), 2012.0, 2012.0, "arcsec"),
    Survey("APASS", frozenset({"RAJ2000", "DEJ2000", "Vmag", "g_mag"}), 2012.0, 2012.0, "arcsec"),
    Survey("APASS", frozenset({"radeg", "decdeg", "Johnson_V"}), 2012.0, 2012.0, "arcsec"),
)


@dataclass(frozen=True)
class ColumnMap:
    """Which column of a file serves which role, in what unit.

    Parameters
    ----------
    columns
        Role -> name of the column.
    units
        Role -> unit to read it in, where the file itself does not say or the user knows better.
    survey
        The catalogue the names are known from, None for one's own.
    """

    columns: Mapping[str, str]
    units: Mapping[str, str]
    survey: Survey | None

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands that have magnitudes, the one to rank stars by first."""
        found = [role.removeprefix("mag_") for role in self.columns if role.startswith("mag_")]
        order = {band: rank for rank, band in enumerate(PREFERRED_BANDS)}
        return tuple(sorted(found, key=lambda band: (order.get(band, 99), band)))


def map_columns(
    path: Path,
    names: Sequence[str],
    file_units: Mapping[str, str],
    *,
    chosen: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
) -> ColumnMap:
    """Find the columns of a catalogue.

    Parameters
    ----------
    path
        The file, for messages.
    names
        Its columns.
    file_units
        Units it states, by column.
    chosen
        What the user says: role -> column.
    units
        What the user says: role -> unit.

    Raises
    ------
    BadInput
        ``refcat-column``: a role that does not exist, a column that does not, or none for a position or for any
        magnitude.
    """
    columns = {role: name for role in _NAMES if (name := _first(names, _NAMES[role], fold=True)) is not None}
    for band, known in _MAGNITUDES.items():
        name = _first(names, known, fold=False)
        if name is not None:
            columns[f"mag_{band}"] = name
    for role, name in (chosen or {}).items():
        _check_role(path, role)
        if name not in names:
            raise _missing(path, f"has no column {name!r} for {role}", names)
        columns[role] = name
    for role in [role for role in columns if role.startswith("mag_")]:
        band = role.removeprefix("mag_")
        patterns = [form.format(columns[role], band) for form in _ERROR_OF]
        name = _first(names, patterns, fold=False)
        if name is not None:
            columns.setdefault(f"magerr_{band}", name)
        ratio = columns[role].replace("_mag", "_flux_over_error")
        if ratio != columns[role] and ratio in names:
            columns.setdefault(f"magsnr_{band}", ratio)
    for role in ("ra", "dec"):
        if role not in columns:
            raise _missing(path, f"has no column known to be {role}", names)
    if not any(role.startswith("mag_") for role in columns):
        raise _missing(path, "has no column known to hold magnitudes", names)
    for one, other in (("pmra", "pmdec"), ("pmdec", "pmra")):
        if one in columns and other not in columns:
            raise _missing(path, f"has {columns[one]!r} but no column known to be {other}", names)
    survey = next((entry for entry in SURVEYS if entry.columns <= set(names)), None)
    said = {role: file_units[name] for role, name in columns.items() if file_units.get(name)}
    if survey is not None:
        said = {"ra_err": survey.position_error_unit, "dec_err": survey.position_error_unit} | said
    for role, unit in (units or {}).items():
        _check_role(path, role)
        said[role] = unit
    return ColumnMap(columns, said, survey)


def _first(names: Sequence[str], known: Sequence[str], *, fold: bool) -> str | None:
    by_key = {name.lower() if fold else name: name for name in reversed(names)}
    return next((by_key[name] for name in known if name in by_key), None)


def _check_role(path: Path, role: str) -> None:
    prefix, _, band = role.partition("_")
    if role not in ROLES and not (prefix in ("mag", "magerr", "magsnr") and band.isidentifier()):
        raise BadInput(
            f"{path}: there is no {role!r} to name a column for",
            code="refcat-column",
            hint=f"Known are {', '.join(ROLES)}, mag_BAND, magerr_BAND and magsnr_BAND, such as mag_V.",
        )


def _missing(path: Path, what: str, names: Sequence[str]) -> BadInput:
    shown = ", ".join(names[:40]) + (" …" if len(names) > 40 else "")
    return BadInput(
        f"{path} {what}",
        code="refcat-column",
        hint=f"Name it: --column ra=NAME, --column mag_V=NAME. The file has: {shown}.",
    )
