"""How a library is installed that an extension imports and that is missing."""

from __future__ import annotations

import re
import sys
from pathlib import Path

_LISTED = Path(__file__).parents[2] / "requirements-extensions.txt"
_ROOT = _LISTED.parent
# A checkout has ops/up. What ops/install has made is updated by ops/install.
_UP = "./ops/up" if (_ROOT / "ops" / "up").exists() else f"{_ROOT}/ops/install --master"
# Packages whose name differs from that of their module.
_PACKAGES = {
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "dotenv": "python-dotenv",
    "PIL": "Pillow",
    "psycopg2": "psycopg2-binary",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "PyYAML",
}
_OURS = frozenset(("broker", "extensions", "jobs", "master", "pulzarutils"))


def installable(module: str) -> bool:
    """Whether a missing module may be a library: no part of Python, of Pulzar or of the extension."""
    top = module.partition(".")[0]
    return top not in _OURS and top not in sys.stdlib_module_names and not top.startswith("_")


def command(module: str) -> str:
    """The command that installs a module: Pulzar's own for what comes with it, else pip."""
    top = module.partition(".")[0]
    package = _PACKAGES.get(top, top)
    return _UP if package.lower() in _listed() else f"pip install {package}"


def _listed() -> set[str]:
    """The packages that come with `ops/up`, in lower case."""
    if not _LISTED.is_file():
        return set()
    lines = _LISTED.read_text(encoding="utf-8").splitlines()
    return {match[0].lower() for line in lines if (match := re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", line))}
