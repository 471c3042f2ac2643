"""How LMDB files are opened: always in the same format, and with a clear word when there is no address space for them."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from broker import lmdb_files
from broker.errors import NoAddressSpace
from master.index.index import Entry
from master.index.index import Index as MasterIndex
from master.jobs.ledger import Ledger
from node.storage.index.index import Index
from tests.support import ROOT, clean_environment
from tests.unit.volume import Volume

FORMAT = slice(16, 24)  # of data.mdb: a magic number and the version of the format
FIRST = bytes.fromhex("dec0efbe 01000000")
SPACE = 4 << 30  # of address space, more than the programs need by themselves

OPEN = """
import sys
from pathlib import Path
from master.index.index import Entry
from master.index.index import Index as MasterIndex
from master.jobs.ledger import Ledger
from node.storage.index.index import Index
place = Path(sys.argv[1])
for name in ("index", "ledger", "node"):
    (place / name).mkdir()
MasterIndex(place / "index", 1 << 24, write=True).close()
Ledger(place / "ledger", True, 1 << 24).close()
Index(place / "node").close()
"""


def python(
    *arguments: str, space: int = resource.RLIM_INFINITY, **environment: str
) -> subprocess.CompletedProcess[str]:
    """What a Python of its own says that may have so much address space."""
    return subprocess.run(
        ["prlimit", f"--as={space if space >= 0 else 'unlimited'}", sys.executable, *arguments],
        cwd=ROOT,
        env=clean_environment() | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_environment_does_not_choose_another_format(tmp_path: Path) -> None:
    # Given a variable that makes lmdb write files that older versions and Debian's tools can't read
    done = python("-c", OPEN, str(tmp_path), LMDB_DEFAULT_LIB_VERSION="1")
    assert done.returncode == 0, done.stderr
    # Then all files are as ever
    for name in ("index", "ledger", "node"):
        assert (tmp_path / name / "data.mdb").read_bytes()[FORMAT] == FIRST, name
    # And the variable does make others of it, where nothing else is said
    plain = "import lmdb, sys; lmdb.open(sys.argv[1]).close()"
    assert python("-c", plain, str(tmp_path / "plain"), LMDB_DEFAULT_LIB_VERSION="1").returncode == 0
    assert (tmp_path / "plain" / "data.mdb").read_bytes()[FORMAT] != FIRST


def test_files_that_the_variable_made_otherwise_are_opened_all_the_same(tmp_path: Path) -> None:
    lmdb.open(str(tmp_path), lib_version=1).close()
    env = lmdb_files.open_map(tmp_path, 1 << 24)
    with env.begin(write=True) as tables:
        tables.put(b"key", b"value")
    env.close()


@pytest.mark.skipif(not shutil.which("mdb_stat"), reason="apt-get install lmdb-utils")
def test_the_tools_of_debian_read_an_index_while_it_is_written(tmp_path: Path) -> None:
    index = MasterIndex(tmp_path, 1 << 24, write=True)
    with index.write() as tables:
        tables.put_entry(b"key", None, Entry(1, "node", 1, 1, 1, 0, 5, "", bytes(32), b"value"))
        done = subprocess.run(["mdb_stat", "-s", "entries", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Entries: 0" in done.stdout
    done = subprocess.run(["mdb_dump", "-s", "entries", str(tmp_path)], capture_output=True, text=True, check=False)
    assert b"value".hex() in done.stdout, done.stderr
    index.close()


@pytest.mark.parametrize(
    ("settings", "noun", "size", "setting"),
    [
        ({}, "index", "274,877,906,944", "[server] index_map"),
        ({"PULZAR_SERVER_INDEX_MAP": "64M"}, "ledger", "68,719,476,736", "[jobs] ledger_map"),
    ],
)
def test_a_master_with_too_little_address_space_names_the_setting_and_removes_nothing(
    tmp_path: Path, settings: dict[str, str], noun: str, size: str, setting: str
) -> None:
    done = python("-m", "master", space=SPACE, PULZAR_SERVER_DIR=str(tmp_path), **settings)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last == (
        f"pulzar master: the {noun} in {tmp_path / noun} can't be opened: {size} bytes of address space are needed, and "
        f"this process can't have them (see ulimit -v, LimitAS=). Give {setting} less than {size}, or raise that limit"
    )


def test_with_both_settings_lower_it_opens_both(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from master.index.index import Index
from master.jobs.ledger import Ledger
Index(Path({str(tmp_path / "index")!r}), 64 << 20, write=True).close()
Ledger(Path({str(tmp_path / "ledger")!r}), True, 64 << 20).close()
"""
    done = python("-c", code, space=SPACE)
    assert done.returncode == 0, done.stderr


NODE = """
import sys
from pathlib import Path
from node.storage.disk.layout import Layout
from node.errors import TooSmall
from node.storage.recovery import make_ready, recover
places = Layout.of(Path(sys.argv[1]))
make_ready(places)
try:
    recover(places)
except TooSmall as error:
    print(error)
"""


def test_a_node_with_too_little_address_space_keeps_its_index(tmp_path: Path) -> None:
    # Given a node with an index that may be trusted
    volume = Volume(tmp_path)
    volume.open().close()
    before = next(tmp_path.rglob("data.mdb")).stat().st_ino
    # When it starts with less address space than the index needs
    done = python("-c", NODE, str(tmp_path), space=1 << 30)
    # Then it says so, and has not removed the index to build a new one
    assert "1,073,741,824 bytes of address space are needed" in done.stdout, done.stderr
    assert next(tmp_path.rglob("data.mdb")).stat().st_ino == before


GROWING = """
import resource, sys
from pathlib import Path
from node.storage.index.rows import Entry, Stat
from node.storage.index.update import IndexUpdate
from node.errors import TooSmall
from node.storage.index.index import Index
index = Index(Path(sys.argv[1]), map_bytes=64 << 20)
pages = int(Path("/proc/self/statm").read_text().split()[0])
unlimited = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (100 << 20), unlimited[1]))
def fill(number, keys):
    with index.snapshot() as view:
        changes = IndexUpdate(view)
        changes.stats[1] = Stat(b"uidofit!", 1, 0, 64)
        for key in range(keys):
            changes.place(b"%d-%d" % (number, key), Entry(1, 64, 100, 1, 1, 0, 10, 1, False, ""), 0)
    index.commit(changes)
done = 0
try:
    while done < 100:
        fill(done, 20_000)
        done += 1
except TooSmall as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, unlimited)
with index.snapshot() as view:
    print(done > 0, len(view.entries(b"", 10_000_000)) == done * 20_000)  # all that was done, and nothing of the rest
index.close()
"""


def test_an_index_that_can_not_grow_says_so_and_keeps_what_it_has(tmp_path: Path) -> None:
    done = python("-c", GROWING, str(tmp_path))
    assert done.returncode == 0, done.stderr
    reason, kept = done.stdout.splitlines()
    assert "134,217,728 bytes of address space are needed" in reason
    assert kept == "True True"


def test_room_for_a_map_is_told_without_taking_it() -> None:
    lmdb_files.check_room(1 << 40)
    with pytest.raises(NoAddressSpace, match=r"1,125,899,906,842,624 bytes of address space"):
        lmdb_files.check_room(1 << 50)


def test_all_that_is_opened_is_opened_like_this(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise lmdb.MemoryError("Cannot allocate memory")

    monkeypatch.setattr(lmdb, "open", refuse)
    for opening in (
        lambda: MasterIndex(tmp_path, 1 << 24, write=True),
        lambda: Ledger(tmp_path, True, 1 << 24),
        lambda: Index(tmp_path),
    ):
        with pytest.raises(Exception, match=r"16,777,216 bytes|1,073,741,824 bytes"):
            opening()
