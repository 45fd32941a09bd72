"""The other end of `starloom.astrometry.wheel`: a script that imports the GPL wheel and nothing of ours."""

import json
import pathlib
import sys


def main(job_file: str, answer_file: str) -> None:
    """Solve a job; writes the cards of a linear WCS, or an empty dict."""
    import astrometry

    job = json.loads(pathlib.Path(job_file).read_text(encoding="utf-8"))
    with astrometry.Solver([pathlib.Path(path) for path in job["indexes"]]) as solver:
        solution = solver.solve(
            stars=list(zip(job["x"], job["y"], strict=True)),
            size_hint=astrometry.SizeHint(job["low"], job["high"]),
            position_hint=None,
            solution_parameters=astrometry.SolutionParameters(
                # The first match will do: our verifier judges. Its own SIP costs a second and was seen wrong.
                logodds_callback=lambda found: astrometry.Action.STOP,
                sip_order=0,
                tune_up_logodds_threshold=None,
            ),
        )
        cards = {}
        if solution.has_match():
            cards = {key: value for key, (value, _) in solution.best_match().wcs_fields.items()}
    pathlib.Path(answer_file).write_text(json.dumps(cards), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
