"""The removal of scratch directories, whatever a script has made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.runs.scratch import Scratch


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    (tmp_path / "work" / "scratch").mkdir(parents=True)
    return Scratch(str(tmp_path / "work"), "node")


def test_small_files_go_with_their_directory(scratch: Scratch) -> None:
    own = Path(scratch.path("run"))
    own.mkdir()
    (own / "file").write_text("small")
    assert scratch.remove(str(own)) == ""
    assert not own.exists()


def test_what_a_link_in_its_place_leads_to_is_not_touched(scratch: Scratch, tmp_path: Path) -> None:
    # Given a script that has put a link to a directory of somebody else in the place of its own
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("small")
    own = Path(scratch.path("run"))
    own.symlink_to(other)
    # When its directory is removed
    assert scratch.remove(str(own)) == ""
    # Then the link is gone, and what it led to is there
    assert not own.is_symlink()
    assert (other / "file").read_text() == "small"
