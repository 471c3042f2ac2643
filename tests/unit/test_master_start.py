"""The data directory of a master: one process has it, and a clear error says why another can't."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from broker.errors import SettingsError
from master.__main__ import hold


def test_a_directory_is_one_masters_until_that_lets_go(tmp_path: Path) -> None:
    held = hold(tmp_path / "new" / "data")
    with pytest.raises(SettingsError, match="in use by another master; every master needs its own"):
        hold(tmp_path / "new" / "data")
    os.close(held)
    os.close(hold(tmp_path / "new" / "data"))


def test_what_is_no_directory_can_not_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SettingsError, match=r"\[server\] dir = .* can't be used: "):
            hold(path)
