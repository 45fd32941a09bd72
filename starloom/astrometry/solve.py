"""Solving near a hint: propose a linear WCS for a star list."""

from __future__ import annotations

import numpy as np
import seiza

from starloom.astrometry.detect import StarList
from starloom.astrometry.seams import Candidate, CatalogProvider, Hint, Unsolved

# (detected stars, catalogue stars on a frame of this size) of a first and of a second look. The time goes with the
# catalogue stars in the search circle: 20 on the frame take 20 ms, as many as there are 110 ms, and both solve the
# same 115 of 116 simulated frames with 15 catalogue stars or more.
QUICK = (30, 20.0)
DEEP = (150, 120.0)
LEAST_CATALOG, MOST_CATALOG = 60, 2000
# With fewer catalogue stars in the whole search circle there is no pattern to find.
HOPELESS = 4


class SeizaSolver:
    """The hinted pattern matcher of the `seiza` package: both parities, any rotation."""

    name = "seiza"

    def solve(
        self,
        stars: StarList,
        hint: Hint,
        catalog: CatalogProvider,
        *,
        budget_s: float = 5.0,
        epoch: float | None = None,
        deep: bool = False,
    ) -> Candidate:
        """Find a linear WCS near a hint, without believing it yet.

        Parameters
        ----------
        stars
            Detected stars, brightest first.
        hint
            Expected centre and plate scale; the scale must be given.
        catalog
            Reference catalogue.
        budget_s
            Seconds after which the attempt is given up.
        epoch
            Julian year to which the catalogue is moved; None: its own.
        deep
            Look at more stars of both lists, at five times the cost.

        Raises
        ------
        Unsolved
            ``no-match``: nothing fits, or nothing was found in time. ``catalogue-too-sparse``: there is no pattern
            of catalogue stars to find.
        """
        if hint.scale_arcsec is None:
            raise Unsolved("the solver needs a plate scale to start from", code="no-match")
        ny, nx = stars.shape
        detected, wanted = DEEP if deep else QUICK
        scale = hint.scale_arcsec / 3600
        reach = min(hint.radius_deg + float(np.hypot(nx, ny)) / 2 * scale, 90.0)
        limit = int(np.clip(wanted * np.pi * reach**2 / (nx * ny * scale**2), LEAST_CATALOG, MOST_CATALOG))
        known = catalog.cone(hint.ra_deg, hint.dec_deg, reach, limit=limit, epoch=epoch)
        if len(known) < HOPELESS:
            raise Unsolved(f"{hint.source}: {len(known)} catalogue stars", code="catalogue-too-sparse")
        few = stars.brightest(detected)
        try:
            found = seiza.solve(
                list(zip(few.x.tolist(), few.y.tolist(), few.flux.tolist(), strict=True)),
                seiza.StarCatalog.from_stars(
                    list(zip(known.ra_deg.tolist(), known.dec_deg.tolist(), known.mag.tolist(), strict=True))
                ),
                nx,
                ny,
                ra=hint.ra_deg,
                dec=hint.dec_deg,
                scale_arcsec_px=hint.scale_arcsec,
                radius_deg=hint.radius_deg,
                scale_tolerance=hint.scale_tolerance,
                sip_order=0,
                time_limit=budget_s,
            )
        except (seiza.SolveError, TimeoutError) as error:
            raise Unsolved(f"{hint.source}: {error}", code="no-match") from error
        return Candidate(dict(found.fits_header_cards()), int(found.matched_stars), self.name)
