"""Files of a cluster that other programs read at any time."""

from __future__ import annotations

import os
import threading
from pathlib import Path


def write(path: Path, text: str) -> None:
    """Replace a file at once: a reader sees the old or the new text. Only its owner may read it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
