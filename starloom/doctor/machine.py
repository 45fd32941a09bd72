"""The home, its secrets and disk, the star catalogue and the blind solver of this machine."""

from __future__ import annotations

import os
import shutil
from urllib.parse import urlsplit

from starloom.doctor.finding import Check, Group, Trouble
from starloom.settings import WELL_KNOWN_SECRETS, Settings

#: Bytes below which a machine of any size is as good as full: one stack's working folder.
LEAST_FREE = 2e9
#: Seconds for a Dask scheduler to answer and to have a worker.
DASK_WAIT_S = 5.0


def settings_are_safe(settings: Settings) -> str:
    """Refuse well-known secrets, and a hub that others reach and that calls itself a development."""
    secret = settings.lake_secret_key.get_secret_value()
    if settings.lake_url.startswith("s3://") and secret.lower() in WELL_KNOWN_SECRETS:
        raise Trouble(
            "STARLOOM_LAKE_SECRET_KEY is empty or a documented default",
            "Set a random one; everybody knows this one.",
        )
    if settings.environment == "production":
        return "production"
    public = [
        name
        for name in ("lake_endpoint", "lake_public_endpoint", "prefect_api_url")
        if (host := urlsplit(getattr(settings, name)).hostname)
        and not host.startswith(("127.", "localhost", "::1"))
    ]
    if public:
        raise Trouble(
            f"development, though {', '.join(public)} can be reached from elsewhere",
            "Set STARLOOM_ENVIRONMENT=production, which refuses default secrets.",
            "warning",
        )
    return "development, on this machine alone"


def secrets_are_private(settings: Settings) -> str:
    """Look at the mode of the file that holds the embedded services' secrets."""
    path = settings.env_file
    if not path.is_file():
        return "no secrets in a file of the home"
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise Trouble(f"{path} has mode {mode:03o}: others of this machine can read it", f"chmod 600 {path}")
    return f"{path}, mode {mode:03o}"


def home_takes_files(settings: Settings) -> str:
    """Tell whether the home can be written."""
    if not settings.home.is_dir():
        raise Trouble(f"{settings.home} is not there", "Set STARLOOM_HOME, or make the hub with `starloom up`.")
    if not os.access(settings.home, os.W_OK):
        raise Trouble(f"{settings.home} cannot be written", "Give it to the user that runs the hub.")
    return str(settings.home)


def disk_has_space(settings: Settings) -> str:
    """Look at the disk of the home, where stacks are made."""
    usage = shutil.disk_usage(settings.home)
    full = usage.used / (usage.used + usage.free)
    said = f"full to {full:.0%}, {usage.free / 1e9:.1f} GB free"
    if usage.free < LEAST_FREE or full > settings.alert_disk_fraction:
        raise Trouble(
            said, "Free space, or move STARLOOM_HOME to a larger disk (docs/playbook.md, a disk is full)."
        )
    return said


def catalogue_opens(settings: Settings) -> str:
    """Open the star catalogues that every frame is solved against."""
    from starloom.refcat.choose import local_catalogs
    from starloom.refcat.shipped import tycho2

    shipped = tycho2(settings.refcat_cache)
    names = [f"{one.catalog} ({len(one)} stars)" for one in (shipped, *local_catalogs(settings.refcat_dir))]
    online = ", ".join(settings.refcat_services) if settings.refcat_online else "none"
    return f"{', '.join(names)}; online: {online}"


def blind_solver_is_there(settings: Settings) -> str:
    """Look for a program that finds a frame anywhere on the sky."""
    from starloom.astrometry.astrometry_net import AstrometryNet
    from starloom.astrometry.wheel import AstrometryWheel

    if found := shutil.which(AstrometryNet().program):
        return found
    absent = AstrometryWheel().absent(None, None)  # type: ignore[arg-type]
    if not absent:
        return "astrometry.net as a Python package"
    raise Trouble(
        f"no solve-field on the path; {absent}",
        "Install astrometry.net with index files (Debian: astrometry.net, astrometry-data-tycho2).",
        "warning",
    )


def tiles_have_workers(settings: Settings) -> str:
    """Ask a Dask scheduler how many workers it has, where one is set."""
    from starloom.dispatch.tile_workers import count_workers

    if not settings.dask_scheduler:
        return "threads of each run"
    return f"{count_workers(settings.dask_scheduler, DASK_WAIT_S)} at {settings.dask_scheduler}"


GROUP = Group(
    "machine",
    Check("home", "State, logs and the work of stacks lie there.", home_takes_files),
    (
        Check("settings", "A secret that is in the documentation is none.", settings_are_safe),
        Check("secrets", "Whoever reads the keys can write every object of the lake.", secrets_are_private),
        Check(
            "disk", "A full disk parks frames and stacks, and stops SQLite and an embedded lake.", disk_has_space
        ),
        Check("star catalogue", "Without one no frame is solved or measured.", catalogue_opens),
        Check("blind solver", "Frames with wrong or no coordinates stay unsolved without.", blind_solver_is_there),
        Check("tile workers", "They make the tiles of every stack.", tiles_have_workers),
    ),
)
