from __future__ import annotations

from tests.dispatch.server import prefect_server

__all__ = ["prefect_server"]
