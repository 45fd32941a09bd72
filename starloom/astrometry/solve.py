"""Solving: propose a linear WCS for a star list, near a hint."""

from __future__ import annotations

import seiza

from starloom.astrometry.detect import StarList
from starloom.astrometry.seams import Candidate, CatalogProvider, Hint, Unsolved

# The solver looks at its brightest stars only; more cost time and bring noise.
MAX_STARS = 300


class SeizaSolver:
    """The hinted pattern matcher of the `seiza` package: both parities, any rotation."""

    name = "seiza"

    def solve(self, stars: StarList, hint: Hint, catalog: CatalogProvider, *, budget_s: float = 5.0) -> Candidate:
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

        Raises
        ------
        Unsolved
            ``no-match``: nothing fits, or nothing was found in time.
        """
        if hint.scale_arcsec is None:
            raise Unsolved("the solver needs a plate scale to start from", code="no-match")
        ny, nx = stars.shape
        few = stars.brightest(MAX_STARS)
        rows = list(zip(few.x.tolist(), few.y.tolist(), few.flux.tolist(), strict=True))
        try:
            found = seiza.solve(
                rows,
                catalog.seiza(),
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
