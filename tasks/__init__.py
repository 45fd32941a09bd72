"""Prefect tasks: thin adapters that add retries, timeouts and artifacts to one library call each."""

import logging

# Prefect hands the library's lines to a run's log (PREFECT_LOGGING_EXTRA_LOGGERS) but not its own level: without
# this only warnings would arrive.
logging.getLogger("starloom").setLevel(logging.INFO)
