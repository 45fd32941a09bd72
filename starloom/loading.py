"""What is loaded on first use: names of packages, so that a command imports only what it needs, and tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.resources import files
from typing import Any


def on_first_use(package: str, home: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a package's ``__getattr__`` (PEP 562).

    Parameters
    ----------
    package
        The package's ``__name__``.
    home
        The module of the package in which each public name lives.
    """

    def load(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{home[name]}"), name)

    return load


def shipped_yaml(package: str, *path: str) -> Any:
    """Return the content of a YAML file that ships within a package."""
    # Here, because commands that read no table have no time for the parser; in C it takes a sixth of the time.
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = files(package).joinpath(*path).read_text(encoding="utf-8")
    return yaml.load(text, Loader=loader)  # noqa: S506
