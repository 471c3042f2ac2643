"""Compiled modules: a package that was installed without them is compiled by one run, and not by all that follow.

Python would look for all of them in one other place (PYTHONPYCACHEPREFIX), and so compile again what has its compiled
modules beside it. Here a module has them beside it, or else in a directory of the node's. Scripts and the modules
beside them never have any (`jobs/loader.py`), nor do the programs that a run starts write some.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any


def keep(cache: str) -> None:
    """Have this process and its forks look for compiled modules, and keep them, below this directory too; "": nowhere."""
    if not cache:
        return
    inside: Any = importlib.import_module("importlib._bootstrap_external")
    beside_of = inside.cache_from_source

    def cache_from_source(path: str, *arguments: Any, **options: Any) -> str:
        beside: str = beside_of(path, *arguments, **options)
        if os.path.exists(beside):
            return beside
        folder, name = os.path.split(os.path.abspath(path))
        return f"{cache}/python{folder}/{os.path.basename(beside)}" if name else beside

    inside.cache_from_source = cache_from_source
    sys.dont_write_bytecode = False
