"""The Dask cluster that makes a stack's tiles (extra `dask`), asked whether it is there."""

from __future__ import annotations

import asyncio
import time

from starloom.errors import StarloomError, Unavailable

#: How long a run waits for a scheduler and its first worker before it gives its mission back.
PATIENCE_S = 60.0
ASK_AGAIN_S = 1.0


def count_workers(address: str, timeout_s: float) -> int:
    """Return how many workers a scheduler has, as soon as it has one.

    Parameters
    ----------
    address
        ``tcp://host:port``, or ``tls://host:port`` with Dask's own settings of certificates.
    timeout_s
        For the scheduler's answer and its first worker.

    Raises
    ------
    Unavailable
        ``dask-unavailable``: the scheduler does not answer; ``no-dask-workers``: nobody works for it.
    StarloomError
        ``no-dask``: the extra is not installed.
    """
    try:
        return asyncio.run(_count(address, timeout_s))
    except ImportError as error:
        raise StarloomError(
            "STARLOOM_DASK_SCHEDULER needs Dask",
            code="no-dask",
            hint="Install the extra `dask`: pip install 'starloom[hub,dask]'.",
        ) from error
    except (
        OSError,
        TypeError,
        ValueError,
    ) as error:  # the latter: TLS without certificates
        raise Unavailable(
            f"the Dask scheduler {address} does not answer: {error}",
            code="dask-unavailable",
            hint="Is `dask scheduler` running? An address tls://… needs certificates (docs/production.md).",
        ) from error


async def _count(address: str, timeout_s: float) -> int:
    from distributed import Security, rpc

    deadline = time.monotonic() + timeout_s
    arguments = Security().get_connection_args("client")
    async with rpc(address, timeout=timeout_s, connection_args=arguments) as scheduler:
        while True:
            # Without the number only five are told of.
            found = len((await scheduler.identity(n_workers=-1))["workers"])
            if found:
                return found
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"no worker is at the Dask scheduler {address}",
                    code="no-dask-workers",
                    hint="Start one (`dask worker ADDRESS`), or unset STARLOOM_DASK_SCHEDULER: threads take over.",
                )
            await asyncio.sleep(ASK_AGAIN_S)
