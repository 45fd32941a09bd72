"""Starloom: the processing hub of a community telescope network."""

__version__ = "0.1.0"
