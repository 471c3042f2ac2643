"""What tests wait with: a condition that looks for something too early is not true yet."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.support import wait_for


def test_a_file_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    # Given a file that comes after the first look
    file = tmp_path / "file"
    looked = threading.Event()

    def text() -> str:
        looked.set()
        return file.read_text()

    def write() -> None:
        looked.wait(30)
        (tmp_path / "new").write_text("text")
        (tmp_path / "new").rename(file)

    writer = threading.Thread(target=write)
    writer.start()
    # When a test waits for its text, then it gets it
    assert wait_for(text) == "text"
    writer.join()


@pytest.mark.parametrize("missing", [KeyError("node-1"), IndexError("no row"), FileNotFoundError("no file")])
def test_what_never_comes_is_named(missing: Exception) -> None:
    def condition() -> bool:
        raise missing

    with pytest.raises(AssertionError, match=r"a thing did not come true within 0\.05 s; last: .*n"):
        wait_for(condition, 0.05, "a thing")


@pytest.mark.parametrize("wrong", [AssertionError("wrong"), PermissionError("not allowed"), TypeError("no number")])
def test_what_is_wrong_ends_the_wait_at_once(wrong: Exception) -> None:
    times = 0

    def condition() -> bool:
        nonlocal times
        times += 1
        raise wrong

    with pytest.raises(type(wrong)):
        wait_for(condition)
    assert times == 1
