"""Prefect tasks: thin adapters that add retries, timeouts and artifacts to one library call each."""
