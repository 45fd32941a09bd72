"""On the path of the simulated night's worker alone: once the tasks are loaded, pixels are canned.

Python imports ``sitecustomize`` by itself as it starts; every run of Prefect is a process of its own.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder

WAITED_FOR = ("tasks.frames", "tasks.stack")


class Canning(MetaPathFinder):
    """Calls `benchmarks.night_stub` when a module of the tasks has been loaded."""

    def find_spec(self, name, path=None, target=None):
        if name not in WAITED_FOR:
            return None
        spec = PathFinder.find_spec(name, path, target)
        load = spec.loader.exec_module

        def load_and_can(module):
            load(module)
            from benchmarks import night_stub

            night_stub.install(name)

        spec.loader.exec_module = load_and_can
        return spec


sys.meta_path.insert(0, Canning())
