from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.wcs import WCS
from numpy.typing import NDArray

from starloom.astrometry import Candidate, StarList, WcsFit, refine_wcs
from starloom.astrometry.tangent import deproject, project
from starloom.refcat import CatalogStars
from starloom.sky import NetworkTruth, make_network

Floats = NDArray[np.float64]


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> NetworkTruth:
    return make_network(tmp_path_factory.mktemp("network"), frames_per_node=(2, 1, 1))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = Path(__file__).parents[2].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the larger real data sets are not beside the repository")
    return folder


def grid_errors(found: WCS, truth: WCS, shape: tuple[int, ...], n: int = 15) -> np.ndarray:
    """Distance (px) between where two WCS put the same sky, on a grid that reaches the corners."""
    ny, nx = shape
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(0, nx - 1, n), np.linspace(0, ny - 1, n)))
    a, b = found.all_world2pix(*truth.all_pix2world(x, y, 0), 0, tolerance=1e-6, maxiter=60)
    return np.hypot(a - x, b - y)


@pytest.fixture(scope="session")
def errors_px() -> object:
    return grid_errors


@dataclass(frozen=True)
class Camera:
    """A camera whose distortion is known in closed form: ideal pixels are ``(X, Y) + d(X, Y)`` from the centre.

    ``cubic`` and ``quintic`` are radial, ``tilt`` two terms of a tilted sensor, pixels at the corner.
    """

    width: int = 1500
    height: int = 1100
    scale_arcsec: float = 2.0
    cubic: float = 2.0
    quintic: float = 0.0
    tilt: tuple[float, float] = (0.3, -0.2)

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    def sky(
        self, x: Floats, y: Floats, at: tuple[float, float], turn_deg: float = 0.0, *, mirrored: bool = False
    ) -> tuple[Floats, Floats]:
        """True place on the sky of pixels of a frame centred at ``at``."""
        px, py = x - (self.width - 1) / 2, y - (self.height - 1) / 2
        unit = np.hypot(self.width, self.height) / 2
        u, v = px / unit, py / unit
        r2 = u * u + v * v
        radial = self.cubic * r2 + self.quintic * r2 * r2
        a, b = self.tilt
        px = px + u * radial + a * u * u + b * u * v
        py = py + v * radial + a * u * v + b * v * v
        t, step = np.radians(turn_deg), self.scale_arcsec / 3600
        xi = (px * np.cos(t) - py * np.sin(t)) * step * (1 if mirrored else -1)
        eta = (px * np.sin(t) + py * np.cos(t)) * step
        return deproject(xi, eta, *at)

    def cards(self, at: tuple[float, float], turn_deg: float = 0.0, *, mirrored: bool = False) -> dict[str, Any]:
        """TAN cards that know nothing of the distortion."""
        t, step = np.radians(turn_deg), self.scale_arcsec / 3600
        flip = 1 if mirrored else -1
        return {
            "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": at[0], "CRVAL2": at[1],
            "CRPIX1": (self.width + 1) / 2, "CRPIX2": (self.height + 1) / 2,
            "CD1_1": flip * step * np.cos(t), "CD1_2": -flip * step * np.sin(t),
            "CD2_1": step * np.sin(t), "CD2_2": step * np.cos(t),
        }  # fmt: skip

    def errors(self, fit: WcsFit, at: tuple[float, float], turn_deg: float = 0.0, **how: bool) -> Floats:
        """Distance of a fitted map from the truth in centre and corners, pixels, shape ``(2, 5)``."""
        x = np.array([(self.width - 1) / 2, 0, self.width - 1, self.width - 1, 0])
        y = np.array([(self.height - 1) / 2, 0, 0, self.height - 1, self.height - 1])
        wanted = np.stack(project(*self.sky(x, y, at, turn_deg, **how), fit.map.ra0_deg, fit.map.dec0_deg))
        return np.linalg.inv(fit.map.cd) @ (wanted - np.stack(fit.map.plane(x, y)))


class Exposure:
    """A star list and a catalogue of one field, made without pixels; the catalogue is a `Refcat`."""

    band, catalog = "V", "truth"

    def __init__(
        self,
        camera: Camera,
        at: tuple[float, float] = (80.0, 30.0),
        turn_deg: float = 20.0,
        *,
        stars: int = 60,
        strangers: int = 0,
        noise_px: float = 0.03,
        catalog_arcsec: float = 0.05,
        stated_arcsec: float | None = None,
        fwhm_px: float = 3.0,
        seed: int = 0,
        mirrored: bool = False,
    ) -> None:
        rng = np.random.default_rng([seed, 77])
        self.camera, self.at, self.turn_deg, self.mirrored = camera, at, turn_deg, mirrored
        n = stars + strangers
        x, y = rng.uniform(0, camera.width - 1, n), rng.uniform(0, camera.height - 1, n)
        ra, dec = camera.sky(x[:stars], y[:stars], at, turn_deg, mirrored=mirrored)
        xi, eta = project(ra, dec, *at)
        off = rng.normal(0, catalog_arcsec / 3600, (2, stars))
        ra, dec = deproject(xi + off[0], eta + off[1], *at)
        mag = np.sort(rng.uniform(8, 12, stars))
        stated = None if stated_arcsec is None else np.full(stars, stated_arcsec)
        self.catalogue = CatalogStars(ra, dec, mag, "V", "truth", 2016.0, position_err_arcsec=stated)
        flux = 10 ** (-0.4 * (np.concatenate([mag, rng.uniform(10, 13, strangers)]) - 20.0))
        order = np.argsort(-flux, kind="stable")
        x, y = x + rng.normal(0, noise_px, n), y + rng.normal(0, noise_px, n)
        one = np.ones(n)
        # The sky's noise is such that the median star has a centroid of the error stated.
        width = fwhm_px / 2.3548
        noise = noise_px * float(np.median(flux)) / (np.sqrt(8 * np.pi) * width**2)
        self.stars = StarList(
            x=x[order], y=y[order], flux=flux[order], peak=flux[order] / 10, fwhm_px=fwhm_px * one,
            ellipticity=0.1 * one, saturated=np.zeros(n, bool), shape=camera.shape, background_adu=1000.0,
            noise_adu=noise, frame_fwhm_px=fwhm_px, frame_ellipticity=0.1, **_newer(n, noise_px),
        )  # fmt: skip
        self.asked: list[float | None] = []

    def cone(
        self,
        ra_deg: float,
        dec_deg: float,
        radius_deg: float,
        *,
        limit: int | None = None,
        epoch: float | None = None,
    ) -> CatalogStars:
        self.asked.append(epoch)
        return self.catalogue

    def seiza(self) -> Any:
        raise NotImplementedError

    def candidate(self, **cards: float) -> Candidate:
        """The linear WCS as a solver finds it: half an arcminute, a twentieth of a degree and 0.2 % off."""
        found = self.camera.cards(self.at, self.turn_deg + 0.02, mirrored=self.mirrored)
        found["CRPIX1"] += 1.5
        found["CRPIX2"] -= 1.0
        for key in ("CD1_1", "CD1_2", "CD2_1", "CD2_2"):
            found[key] *= 1.001
        return Candidate(found | cards, len(self.stars), "test")

    def refined(self, **options: Any) -> WcsFit:
        return refine_wcs(self.candidate(), self.stars, self, **options)

    def errors(self, fit: WcsFit) -> Floats:
        return self.camera.errors(fit, self.at, self.turn_deg, mirrored=self.mirrored)


def _newer(n: int, noise_px: float) -> dict[str, Any]:
    """What star lists state since they state errors."""
    said = {
        "theta_deg": np.zeros(n), "centroid_err_px": np.full(n, noise_px), "defocused": False, "trail_px": 0.0,
        "trail_angle_deg": 0.0,
    }  # fmt: skip
    return {name: value for name, value in said.items() if name in {f.name for f in fields(StarList)}}


@pytest.fixture(scope="session")
def camera_type() -> type[Camera]:
    return Camera


@pytest.fixture(scope="session")
def exposure_type() -> type[Exposure]:
    return Exposure
