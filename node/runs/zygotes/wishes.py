"""What the runs of a script are to have loaded ahead, by its docstring, its imports and the settings."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from node.runs.zygotes import packages

AUTO, NONE = "auto", "none"
MOST_MODULES = 32  # of one script
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}(\.[A-Za-z_][A-Za-z0-9_]{0,63}){0,7}")
_SHOWN_CHARACTERS = 60
_OURS = frozenset({"jobs", "job_scripts"})


class Wish(NamedTuple):
    """Modules for the runs of one script."""

    modules: tuple[str, ...] = ()  # sorted
    often: tuple[str, ...] = ()  # the same and more, once the script runs often
    odd: tuple[str, ...] = ()  # words that name no module


def of(field: str, head: Iterable[str], for_all: Sequence[str]) -> Wish:
    """The wish of a script.

    `field`: what its docstring says after `Preload:`, "" for nothing. `head`: its imports (`jobs.reading.Text.head`).
    `for_all`: the words of the setting `[jobs] preload`.
    """
    words = re.split(r"[,\s]+", field.strip()) if field.strip() else []
    if NONE in words:
        return Wish()
    odd = tuple(word[:_SHOWN_CHARACTERS] for word in words if word != AUTO and not _NAME.fullmatch(word))
    named = {word for word in (*words, *for_all) if word != AUTO and _NAME.fullmatch(word)}
    imported = set(head)
    modules = named | {found for name in named for found in _below(name, imported)}
    everything = modules | (_installed(imported) if AUTO in (*words, *for_all) else set())
    return Wish(_sorted(everything if AUTO in words else modules), _sorted(everything), odd)


def _sorted(modules: Iterable[str]) -> tuple[str, ...]:
    """As they are loaded: a package before what is in it."""
    return tuple(sorted(modules)[:MOST_MODULES])


def _below(package: str, imported: Iterable[str]) -> set[str]:
    """The modules of a package among some imports, which are written `module` or `module:name`."""
    return {packages.module(each) for each in imported if f"{each.replace(':', '.')}.".startswith(f"{package}.")} | {
        package
    }


def _installed(imported: Iterable[str]) -> set[str]:
    """The modules among some imports that belong to an installed package."""
    tops = {each: re.split("[.:]", each)[0] for each in imported}
    foreign = {each for each, top in tops.items() if top not in sys.stdlib_module_names and top not in _OURS}
    return {packages.module(each) for each in foreign if packages.folders(tops[each]) is not None}
