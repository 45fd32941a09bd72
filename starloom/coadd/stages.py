"""What a plan can only learn from resampled pixels: trails, and the PSFs that proper co-addition needs."""

from __future__ import annotations

from collections.abc import Callable

from starloom.coadd.engine import Engine
from starloom.coadd.plan import StackPlan

Progress = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)``; stages are ``read``, ``streaks``, ``tiles`` and ``write``."""


def prepared(plan: StackPlan, progress: Progress | None = None) -> StackPlan:
    """Return the plan with its frames' streaks and PSFs, as far as its options ask for them.

    Raises
    ------
    BadInput
        What `Engine` raises.
    """
    # Proper co-addition cannot be laid out before there are PSFs, and plain pixels do for both.
    plain = plan.model_copy(update={"options": plan.options.model_copy(update={"combine": "clipped"})})
    if plan.options.streaks and len(plan.used) > 1:
        from starloom.coadd.streaks import find_streaks

        with Engine(plain) as engine:

            def told(done: int, total: int) -> None:
                if progress:
                    progress("streaks", done, total)

            plan = find_streaks(
                plan,
                engine.resampled,
                threads=engine.layout.threads,
                memory_bytes=plan.options.memory_bytes,
                progress=told,
            )
    if plan.options.combine == "proper":
        from starloom.coadd.psf import with_psfs

        with Engine(plain.model_copy(update={"frames": plan.frames})) as engine:
            plan = with_psfs(plan, engine.resampled)
    return plan
