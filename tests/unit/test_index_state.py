"""Whether the index in a data directory may be opened."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from node.storage.index import state
from tests.unit.volume import Volume

# Writes the first bytes of a file over and over, as they are, until its standard input ends.
WRITER = """
import os, select, sys
fd = os.open(sys.argv[1], os.O_RDWR)
first = os.pread(fd, 64, 0)
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    for _ in range(1000):
        os.pwrite(fd, first, 0)
"""


def test_an_index_that_is_being_written_may_be_opened(tmp_path: Path) -> None:
    # Given an index in use, to which its own process writes all the time: the kernel sets its two times one by one
    volume = Volume(tmp_path / "data")
    storage = volume.open()
    index = tmp_path / "data" / "index"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(index / "data.mdb")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout
        assert writer.stdout.readline() == b"ready\n"
        # When others look at it
        found = {state.objection(index) for _ in range(6000)}
        assert writer.stdin
        writer.stdin.close()
    # Then none of them takes it for one that something else has touched
    assert found == {""}
    # And a file with another time of modification is still refused
    storage.close()
    os.utime(index / "data.mdb", ns=(0, 0))
    assert state.objection(index) == "its file was touched by something else"
