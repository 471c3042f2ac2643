"""The environment of a script: programs and modules, the same on a node and by hand."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

# Scripts are modules of this package. A folder may have the name of any other module.
PACKAGE = "job_scripts"
SCRIPTS_VARIABLE = "PULZAR_SCRIPTS"

_PACKAGE_TEXT = f'''\
"""The scripts, for processes that a script starts: `{PACKAGE}.folder.script`."""

import os

__path__ = [os.environ.get("{SCRIPTS_VARIABLE}", "")]
'''


def prepare(directory: Path) -> None:
    """Fill a directory for the path of scripts with `jobs` and the package of the scripts. Raises `OSError`.

    It has nothing else, to keep our own packages away from scripts.
    """
    shutil.rmtree(directory, ignore_errors=True)
    package = directory / PACKAGE
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(_PACKAGE_TEXT)
    (directory / "jobs").symlink_to(Path(__file__).resolve().parent)


def environment(given: Mapping[str, str], directory: Path, scripts: Path) -> dict[str, str]:
    """The variables with the paths of programs and modules. `prepare` made `directory`."""
    programs = os.path.dirname(sys.executable)
    path = given.get("PATH") or os.defpath
    modules = given.get("PYTHONPATH")
    return {
        # python3 and the programs of packages are those of the interpreter that runs the script.
        "PATH": path if path.split(os.pathsep)[0] == programs else f"{programs}{os.pathsep}{path}",
        "PYTHONPATH": f"{directory}{os.pathsep}{modules}" if modules else str(directory),
        SCRIPTS_VARIABLE: str(scripts),
    }
