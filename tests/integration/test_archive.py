"""`/archive/{prefix}`: all values below a prefix as one archive."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import os
import signal
import socket
import struct
import tarfile
import time
import zipfile
from pathlib import Path
from urllib.parse import quote, urlsplit

import psutil
import pytest

from master.web.keys import archives
from ops.cluster import Cluster
from tests.faults.test_copies import put_on
from tests.faults.tools import WORKER, log_text, processes, settle, tracebacks, wait_logged
from tests.integration.wire import CACHED, INLINE, SMALL, Client, good, payload, refused
from tests.support import Clusters, delete, get, http_request, put, unique, wait_for

MIB = 1 << 20
SIZES = {"empty": 0, "in the index": 100, "in the log": CACHED + 1, "file": SMALL + 1, "large.bin": 3 * INLINE}


def archive(cluster: Cluster, prefix: str, query: str = "") -> bytes:
    """The archive of a prefix."""
    answer = http_request("GET", f"{cluster.master_url}/archive/{quote(prefix)}{query}")
    assert answer.status == 200, answer
    return answer.body


def unpacked(data: bytes) -> dict[str, bytes]:
    """The members of a tar archive, in order."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar.getmembers()}  # type: ignore[union-attr]


def files(cluster: Cluster) -> set[Path]:
    """The value files of the first node."""
    return {path for path in (cluster.nodes[0].directory / "values").rglob("*") if path.is_file()}


def store(cluster: Cluster, folder: str) -> dict[str, bytes]:
    """Values of every kind below a folder, by the rest of their keys, in order."""
    stored = {}
    for name, size in SIZES.items():
        for key in (name, f"sub/{name}"):
            stored[key] = payload(size, seed=len(stored))
            assert put(cluster, folder + key, stored[key]).status == 201
    return dict(sorted(stored.items()))


def test_a_folder_is_one_tar_with_names_below_it_and_their_dates(cluster: Cluster) -> None:
    folder = unique("folder/")
    stored = store(cluster, folder)
    put(cluster, folder[:-1] + "-sibling", b"not in it")
    data = archive(cluster, folder)
    assert list(unpacked(data)) == list(stored)
    assert unpacked(data) == stored
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar.getmembers():
            assert abs(member.mtime - time.time()) < 120
            assert member.isfile()
    assert unpacked(archive(cluster, "/" + folder)) == stored


def test_the_same_as_zip(cluster: Cluster) -> None:
    folder = unique("folder/")
    stored = store(cluster, folder)
    with zipfile.ZipFile(io.BytesIO(archive(cluster, folder, "?format=zip"))) as file:
        assert file.testzip() is None
        assert {name: file.read(name) for name in file.namelist()} == stored
        assert file.namelist() == list(stored)


def test_a_zip_has_sizes_and_checksums_before_the_values(make_cluster: Clusters) -> None:
    cluster = make_cluster(nodes=1)
    stored = store(cluster, "zipped/")
    before = files(cluster)
    assert put(cluster, "zipped/lost", payload(SMALL + 100, seed=99)).status == 201
    (lost,) = files(cluster) - before
    lost.unlink()
    # A member with a data descriptor, behind its value, is misread by readers that do not see the directory
    with zipfile.ZipFile(io.BytesIO(archive(cluster, "zipped/", "?format=zip"))) as made:
        assert made.namelist() == [*stored, "MISSING"]
        assert made.testzip() is None
        assert {info.flag_bits for info in made.infolist()} == {0}
        for info in made.infolist():
            assert made.fp is not None
            made.fp.seek(info.header_offset + 14)
            assert struct.unpack("<LLL", made.fp.read(12)) == (info.CRC, info.file_size, info.file_size)


def test_any_prefix_will_do_and_names_begin_behind_its_last_folder(cluster: Cluster) -> None:
    folder = unique("folder/")
    for key in ("docs/a", "docs/b", "docs2", "other"):
        put(cluster, folder + key, key.encode())
    assert unpacked(archive(cluster, folder + "docs")) == {"docs/a": b"docs/a", "docs/b": b"docs/b", "docs2": b"docs2"}
    assert unpacked(archive(cluster, folder + "docs/a")) == {"a": b"docs/a"}


def test_the_headers_tell_the_type_and_a_name(cluster: Cluster) -> None:
    folder = unique('my "docs"/')
    put(cluster, folder + "a", b"1")
    url = f"{cluster.master_url}/archive/{quote(folder)}"
    for query, kind, name in (("", "application/x-tar", "tar"), ("?format=zip", "application/zip", "zip")):
        for method in ("GET", "HEAD"):
            answer = http_request(method, url + query)
            assert answer.status == 200
            assert answer.headers["Content-Type"] == kind
            assert answer.headers["Content-Disposition"] == f'attachment; filename="my _docs_.{name}"'
            assert bool(answer.body) is (method == "GET")


@pytest.mark.parametrize(
    ("target", "status", "reason"),
    [
        ("none/such/", 404, "no key begins with 'none/such/'"),
        ("none/?format=rar", 400, "format='rar' is no format of archives; give tar or zip"),
        ("%C3%BC", 400, "is no printable ASCII text of up to 383 characters"),
        ("a%0Ab", 400, "is no printable ASCII text"),
        ("a" * 384, 400, "of up to 383 characters"),
    ],
)
def test_requests_that_make_no_archive_are_refused_with_the_reason(
    master: Client, target: str, status: int, reason: str
) -> None:
    answer = master.request("GET", f"/archive/{target}")
    assert reason in refused(answer, status)
    assert master.request("HEAD", f"/archive/{target}").status == status


def test_an_archive_can_only_be_read(master: Client) -> None:
    answer = master.request("DELETE", "/archive/a")
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS"


def test_what_is_deleted_meanwhile_is_named_in_the_last_member(cluster: Cluster) -> None:
    folder = unique("folder/")
    # Given a folder that begins with a large value, and has more than is fetched ahead
    large = payload(12 * MIB, seed=1)
    assert put(cluster, folder + "0", large).status == 201
    names = [f"{number:03}" for number in range(100, 160)]
    for name in [*names, "MISSING"]:
        assert put(cluster, folder + name, name.encode() * 2000).status == 201
    parts = urlsplit(cluster.master_url)
    with contextlib.closing(http.client.HTTPConnection(parts.netloc, timeout=30)) as connection:
        connection.sock = narrow_socket(parts.hostname or "", parts.port or 0)
        connection.request("GET", f"/archive/{folder}")
        response = connection.getresponse()
        begun = response.read(1000)
        # When one is deleted while the client has not read the large one
        assert delete(cluster, folder + "150").status == 200
        data = begun + response.read()
    # Then all others are there
    found = unpacked(data)
    told = found.pop("MISSING_")
    assert found.keys() == {"0", "MISSING", *names} - {"150"}
    assert found["0"] == large
    assert told == b"150: it was deleted meanwhile, or its lifetime has ended\n"
    assert list(unpacked(data))[-1] == "MISSING_"


def narrow_socket(host: str, port: int) -> socket.socket:
    """A connection whose client's side takes little that is not read."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
    made.settimeout(60)
    made.connect((host, port))
    return made


def test_a_client_that_reads_slowly_is_not_buffered_and_one_that_goes_ends_it(make_cluster: Clusters) -> None:
    cluster = make_cluster(nodes=1, env={"PULZAR_SERVER_WORKERS": "1"})
    for number in range(4):
        assert put(cluster, f"slow/{number}", payload(32 * MIB, seed=number)).status == 201
    worker = psutil.Process(processes(cluster.master, WORKER)[0])
    assert get(cluster, "slow/0").status == 200
    before = worker.memory_info().rss
    parts = urlsplit(cluster.master_url)
    with contextlib.closing(narrow_socket(parts.hostname or "", parts.port or 0)) as connection:
        connection.sendall(b"GET /archive/slow/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        connection.recv(1000, socket.MSG_WAITALL)
        # Time enough to take all of it, were it taken.
        time.sleep(1.5)
        assert worker.memory_info().rss - before < 30 * MIB
    wait_logged(cluster.master, "the client of a response is gone", "archive of slow/")
    # And whole ones do not take more
    digests = {hashlib.sha256(archive(cluster, "slow/")).hexdigest() for _ in range(2)}
    assert len(digests) == 1
    assert worker.memory_info().rss - before < 60 * MIB
    assert not tracebacks(cluster)


def test_archives_beyond_the_most_are_refused_at_once_until_one_has_ended(make_cluster: Clusters) -> None:
    # Given one web worker, and as many clients that read nothing as it has archives
    cluster = make_cluster(nodes=1, env={"PULZAR_SERVER_WORKERS": "1", "PULZAR_SERVER_CLIENT_TIMEOUT": "60"})
    for number in range(4):
        assert put(cluster, f"stalled/{number}", payload(6 * INLINE, seed=number)).status == 201
    address = urlsplit(cluster.master_url)
    stalled = []
    with contextlib.ExitStack() as stack:
        for _ in range(archives.MOST):
            sock = stack.enter_context(socket.create_connection((address.hostname, address.port), 30))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.sendall(b"GET /archive/stalled/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert sock.recv(12) == b"HTTP/1.1 200"
            stalled.append(sock)
        # When one more asks, then it is told to come again, and others are served
        with Client(cluster.master_url) as master:
            answer = master.request("GET", "/archive/stalled/")
            assert f"{archives.MOST} archives are being sent" in refused(answer, 503)
            assert answer.headers["retry-after"] == str(archives.BUSY_SECS)
            assert master.request("HEAD", "/archive/stalled/").status == 200
        assert get(cluster, "stalled/0").status == 200
        # And when one has gone, there is room
        stalled[0].close()
        wait_for(
            lambda: http_request("GET", f"{cluster.master_url}/archive/stalled/").status == 200, what="room for one"
        )


def test_values_of_a_node_that_is_gone_are_named_and_the_others_are_there(make_cluster: Clusters) -> None:
    cluster = make_cluster()
    values = put_on(cluster, 0, "half", 20, size=CACHED + 100)
    cached = put_on(cluster, 1, "half/cached", 1, size=100)
    everything = {
        row["key"]: row["nodes"][0]
        for row in http_request("GET", f"{cluster.master_url}/keys?prefix=half/&limit=1000").data["keys"]
    }
    # Given a node that is gone
    cluster.kill_node(1)
    # When an archive is asked for, before that is noticed and after
    for _ in range(2):
        found = unpacked(archive(cluster, "half/"))
        told = dict(line.split(": ", 1) for line in found.pop("MISSING").decode().splitlines())
        # Then what is on the other one, or in the index, is in it, and all else is named
        assert {f"half/{name}" for name in found} >= values.keys()
        assert found.keys() | told.keys() == {key.removeprefix("half/") for key in everything}
        assert not found.keys() & told.keys()
        assert all(everything[f"half/{name}"] == cluster.nodes[1].id for name in told)
        assert all(f"node {cluster.nodes[1].id}" in reason for reason in told.values()), told
        wait_for(
            lambda: not http_request("GET", f"{cluster.master_url}/admin/network/{cluster.nodes[1].id}").data["synch"]
        )
    assert all(get(cluster, key).body == value for key, value in values.items())
    assert cached.keys() <= everything.keys()
    assert not tracebacks(cluster)


def test_a_damaged_value_is_named(make_cluster: Clusters) -> None:
    cluster = make_cluster(nodes=1)
    assert put(cluster, "rot/a", payload(SMALL + 100, seed=1)).status == 201
    assert put(cluster, "rot/b", b"whole").status == 201
    (file,) = (path for path in (cluster.nodes[0].directory / "values").rglob("*") if path.is_file())
    with file.open("r+b") as damaged:
        damaged.seek(5000)
        damaged.write(b"rot")
    found = unpacked(archive(cluster, "rot/"))
    assert found["b"] == b"whole"
    assert found["MISSING"].startswith(b"a: node ")
    assert b"damaged" in found["MISSING"]
    assert found.keys() == {"b", "MISSING"}


def test_a_node_that_breaks_in_the_middle_of_a_value_breaks_the_archive(make_cluster: Clusters) -> None:
    cluster = make_cluster(nodes=1)
    # Given a large value
    assert put(cluster, "broken/large", payload(48 * MIB, seed=1)).status == 201
    assert put(cluster, "broken/other", b"small").status == 201
    parts = urlsplit(cluster.master_url)
    for query in ("", "?format=zip"):
        with contextlib.closing(http.client.HTTPConnection(parts.netloc, timeout=30)) as connection:
            connection.sock = narrow_socket(parts.hostname or "", parts.port or 0)
            connection.request("GET", f"/archive/broken/{query}")
            response = connection.getresponse()
            begun = response.read(1000)
            assert len(begun) == 1000
            # When its node is killed while the value is on its way
            cluster.kill_node(0)
            # Then the connection breaks, and the archive does not end well
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                response.read()
        assert "a response was cut short" in log_text(cluster.master)
        cluster.start_node(0)
        settle(cluster)
    assert len(archive(cluster, "broken/")) > 48 * MIB


def test_a_node_that_stands_still_ends_the_archive_after_a_while(make_cluster: Clusters) -> None:
    cluster = make_cluster(nodes=1, env={"PULZAR_SERVER_CLIENT_TIMEOUT": "2"})
    assert put(cluster, "still/a", payload(CACHED + 100, seed=1)).status == 201
    assert put(cluster, "still/b", b"cached").status == 201
    pid = cluster.nodes[0].process.pid
    assert pid
    os.killpg(pid, signal.SIGSTOP)
    try:
        found = unpacked(archive(cluster, "still/"))
    finally:
        os.killpg(pid, signal.SIGCONT)
    assert found.keys() == {"b", "MISSING"}
    settle(cluster)
    assert unpacked(archive(cluster, "still/")).keys() == {"a", "b"}
    assert good(Client(cluster.master_url).request("GET", "/keys?prefix=still/"))
