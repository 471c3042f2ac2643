"""What a script finds around it: programs, modules and the names of both, the same on a node and by hand."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

# Scripts are modules of packages of this one, so that a folder may be called like any other module.
PACKAGE = "job_scripts"
SCRIPTS_VARIABLE = "PULZAR_SCRIPTS"

_PACKAGE_TEXT = f'''\
"""The scripts, for processes that a script starts: `{PACKAGE}.folder.script`."""

import os

__path__ = [os.environ.get("{SCRIPTS_VARIABLE}", "")]
'''


def prepare(directory: Path) -> None:
    """Fill a directory that stands on the path of scripts: with `jobs`, and with the package of the scripts.

    Raises `OSError`. There is nothing else in it: whatever a script imports by name is not ours.
    """
    shutil.rmtree(directory, ignore_errors=True)
    package = directory / PACKAGE
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(_PACKAGE_TEXT)
    (directory / "jobs").symlink_to(Path(__file__).resolve().parent)


def environment(given: Mapping[str, str], directory: Path, scripts: Path) -> dict[str, str]:
    """The variables that say where programs and modules are; `directory` is one that was prepared."""
    programs = os.path.dirname(sys.executable)
    path = given.get("PATH") or os.defpath
    modules = given.get("PYTHONPATH")
    return {
        # Programs that packages bring, and python3 itself, are those of the interpreter that runs the script.
        "PATH": path if path.split(os.pathsep)[0] == programs else f"{programs}{os.pathsep}{path}",
        "PYTHONPATH": f"{directory}{os.pathsep}{modules}" if modules else str(directory),
        SCRIPTS_VARIABLE: str(scripts),
    }
