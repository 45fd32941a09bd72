"""``python -m starloom`` is the ``starloom`` command."""

from starloom.cli import main

main()
