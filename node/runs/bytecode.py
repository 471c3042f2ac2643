"""Compiled modules: a package that was installed without them is compiled by one run, and not by every later one.

PYTHONPYCACHEPREFIX would make Python look for all of them in another place, and compile again those that are beside
their modules. Here Python looks beside a module first, else in a directory of the node's. Scripts and the modules
beside them never get any (`jobs/loader.py`). Programs that a run starts write none.
"""

from __future__ import annotations

import importlib
import os
import sys


def keep(cache: str) -> None:
    """Make this process and its forks find and keep compiled modules below this directory too; "" changes nothing."""
    if not cache:
        return
    importer = vars(importlib.import_module("importlib._bootstrap_external"))
    beside_of = importer["cache_from_source"]

    def cache_from_source(path: str, *arguments: object, **options: object) -> str:
        beside: str = beside_of(path, *arguments, **options)
        if os.path.exists(beside):
            return beside
        folder, name = os.path.split(os.path.abspath(path))
        return f"{cache}/python{folder}/{os.path.basename(beside)}" if name else beside

    importer["cache_from_source"] = cache_from_source
    sys.dont_write_bytecode = False
