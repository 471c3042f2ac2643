"""Extensions through a real master: what they answer, what they can do to others (nothing), and what is left of them."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from ops.cluster import Cluster
from tests.support import ROOT, Answer, Clusters, get, http_request, put, unique, wait_for

TIMEOUT = 4.0  # [extensions] timeout: short, and long enough for a busy machine to do what has to be done
MAX_BODY = 4 << 20
PROCESSES = 2

APPS = {
    "old": """
from pulzarutils.extension import Extension
class Old(Extension):
    def __init__(self, arguments, params, file_path=None):
        self.args = arguments
        self.params = params
    def execute(self):
        return {"my_arg": self.args, "my_params": self.params}
""",
    "body": """
import hashlib, os
from extensions import Extension
class Body(Extension):
    def execute(self):
        if self.file_path is None:
            return {"file": None}
        if "move" in self.params:
            os.unlink(self.file_path)
            return {"file": self.file_path}
        data = open(self.file_path, "rb").read()
        mode = os.stat(self.file_path).st_mode & 0o777
        return {"file": self.file_path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "mode": mode}
""",
    "deadly": """
import os
from extensions import Extension
class Deadly(Extension):
    def execute(self):
        os.kill(os.getpid(), 9)
""",
    "sleeper": """
import os, subprocess, time
from extensions import Extension
class Sleeper(Extension):
    def execute(self):
        child = subprocess.Popen(["setsid", "sleep", "600"])
        with open(self.params["pids"][0], "w") as file:
            file.write(f"{os.getpid()} {child.pid} {os.getppid()}\\n")
        time.sleep(float(self.params.get("secs", ["600"])[0]))
        child.kill()
        child.wait()
        return ["slept"]
""",
    "looper": """
from extensions import Extension
class Looper(Extension):
    def execute(self):
        total = 0
        while True:
            total += 1
""",
    "loud": """
from extensions import Extension
class Loud(Extension):
    def execute(self):
        print("a line for the log")
        print("\\x1b[2Ja line for\\x07 a terminal\\x7f")
        for _ in range(16384):
            print("x" * 79)
        return ["quiet"]
""",
    "large": """
from extensions import Extension
class Large(Extension):
    def execute(self):
        return ["x" * 1023] * (50 << 10)
""",
    "stream": """
from extensions import Extension
class Stream(Extension):
    def execute(self):
        for number in range(int(self.params["count"][0])):
            if number == int(self.params.get("bad", ["-1"])[0]):
                raise ValueError("in the middle")
            yield {"number": number, "text": "x" * 1000}
""",
    "raiser": """
from extensions import Extension
class Raiser(Extension):
    def __init__(self, arguments, params, file_path=None):
        if arguments == ["early"]:
            raise ValueError("in the constructor")
    def execute(self):
        raise KeyError("in execute")
""",
    "missing": "import nosuchlibrary",
    "broken": "class Broken:\n    def (:",
    "classless": "value = 1",
    "text": """
from extensions import Extension
class Text(Extension):
    def execute(self):
        return "text"
""",
    "refuser": """
from extensions import Extension, Refused
class Refuser(Extension):
    def execute(self):
        raise Refused(422, "not like this")
""",
    "keys": """
import itertools
from extensions import Extension, KeyExists, KeyMissing
class Keys(Extension):
    def execute(self):
        if self.params.get("limit"):
            found = self.store.keys(self.arguments[0], limit=int(self.params["limit"][0]))
        else:
            found = self.store.keys(self.params["prefix"][0], self.params.get("after", [""])[0])
        for entry in found:
            yield {"key": entry.key, "size": entry.size, "etag": entry.etag, "created": entry.created,
                   "expires": entry.expires, "content_type": entry.content_type,
                   "content_encoding": entry.content_encoding, "url": entry.url}
""",
    "writer": """
from extensions import Extension, KeyExists, KeyMissing
class Writer(Extension):
    def execute(self):
        key, answers = self.params["key"][0], []
        url = self.store.write(key, self.file_path, ttl="1h")
        try:
            self.store.write(key, b"again")
        except KeyExists as error:
            answers.append(error.status)
        try:
            self.store.read(key + ".none")
        except KeyMissing as error:
            answers.append(error.status)
        self.store.write(key, self.store.read(key).upper(), overwrite=True)
        self.store.save(key, self.file_path)
        return {"url": url, "answers": answers, "saved": open(self.file_path).read()}
""",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the extensions."""
    folder = tmp_path_factory.mktemp("extensions")
    for name, text in APPS.items():
        (folder / f"{name}.py").write_text(text.lstrip())
    return folder


@pytest.fixture(scope="module")
def cluster(make_shared_cluster: Clusters, folder: Path) -> Cluster:
    """A cluster with these extensions, whose master has one web worker."""
    return make_shared_cluster(nodes=1, env=environment(folder))


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {
        "PULZAR_EXTENSIONS_DIR": str(folder),
        "PULZAR_EXTENSIONS_TIMEOUT": str(TIMEOUT),
        "PULZAR_EXTENSIONS_MAX_BODY": str(MAX_BODY),
        "PULZAR_EXTENSIONS_PROCESSES": str(PROCESSES),
        "PULZAR_SERVER_WORKERS": "1",
    } | more


def call(cluster: Cluster, path: str, body: bytes | None = None, **options: Any) -> Answer:
    """A GET of an extension, or a PUT with a body."""
    method = "GET" if body is None else "PUT"
    return http_request(method, f"{cluster.master_url}/extension/{path}", body, timeout=60, **options)


def refused(answer: Answer, status: int, message: str) -> None:
    """The answer is an error in its envelope, whose text fits the pattern."""
    assert (answer.status, answer.json["status"], answer.data) == (status, "ko", None), answer
    assert re.search(message, answer.msg), answer.msg


def files(cluster: Cluster) -> list[Path]:
    """Bodies that are on the master's disk."""
    return [path for path in (cluster.master_directory / "extensions").rglob("body-*") if path.is_file()]


def log_of(cluster: Cluster) -> str:
    return (cluster.logs / "master.log").read_text()


def pids_in(file: Path, count: int) -> list[int]:
    """The process ids that an extension wrote down."""

    def read() -> list[int]:
        return [int(word) for word in file.read_text().split()] if file.exists() else []

    return wait_for(lambda: pids if len(pids := read()) == count else None, 30, f"{count} process ids in {file}") or []


def living(pids: list[int]) -> list[int]:
    """Those that are no zombies either: whoever is to bury them may be a moment late."""
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found


# What it answers.


def test_an_extension_of_the_first_pulzar_gets_its_arguments_and_parameters(cluster: Cluster) -> None:
    answer = call(cluster, "old/a/b?x=1")
    assert (answer.status, answer.msg, answer.json["status"]) == (200, "ok", "ok")
    assert answer.data == {"my_arg": ["a", "b"], "my_params": {"x": ["1"]}}
    assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("path", "arguments", "params"),
    [
        ("old", [], {}),
        ("old/", [], {}),
        ("old/a/", ["a"], {}),
        ("old/a%20b/c+d/%C3%A9", ["a b", "c+d", "é"], {}),
        ("old/a%2Fb", ["a", "b"], {}),
        ("old?x=1&x=2&y=&z", [], {"x": ["1", "2"], "y": [""], "z": [""]}),
        ("old?q=%C3%A9+%26", [], {"q": ["é &"]}),
        ("old/..%2f..%2fetc%2fpasswd", ["..", "..", "etc", "passwd"], {}),
    ],
)
def test_path_and_query_are_decoded(
    cluster: Cluster, path: str, arguments: list[str], params: dict[str, list[str]]
) -> None:
    assert call(cluster, path).data == {"my_arg": arguments, "my_params": params}


@pytest.mark.parametrize(
    "name", ["nothing", "..", "%2e%2e", "__init__", "_store", "OLD", "Old", "old.py", "o%00ld", ""]
)
def test_what_is_no_extension_is_404(cluster: Cluster, name: str) -> None:
    refused(call(cluster, f"{name}/x"), 404, "no extension|no name of an extension")
    refused(call(cluster, f"{name}/x", b"body"), 404, "no extension|no name of an extension")


def test_other_methods_are_405_and_options_says_which_there_are(cluster: Cluster) -> None:
    url = f"{cluster.master_url}/extension/old"
    for method in ("POST", "DELETE", "PATCH", "HEAD"):
        answer = http_request(method, url, b"" if method != "HEAD" else None)
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, OPTIONS, PUT")
    answer = http_request("OPTIONS", url)
    assert (answer.status, answer.headers["Allow"]) == (204, "GET, OPTIONS, PUT")


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("raiser/early", 500, "ValueError: in the constructor"),
        ("raiser", 500, "KeyError: 'in execute'"),
        ("missing", 501, "nosuchlibrary.*pip install nosuchlibrary"),
        ("broken", 500, r"broken\.py, line 2"),
        ("classless", 500, r"classless\.py has no class Classless"),
        ("text", 500, "returned str"),
        ("refuser", 422, "^not like this$"),
    ],
)
def test_what_goes_wrong_in_an_extension_is_told(cluster: Cluster, path: str, status: int, message: str) -> None:
    refused(call(cluster, path), status, message)


def test_an_exception_is_in_the_log_with_its_traceback(cluster: Cluster) -> None:
    call(cluster, "raiser")
    assert "in execute" in call(cluster, "raiser").msg
    line = next(line for line in log_of(cluster).splitlines() if "extension failed" in line and "in execute" in line)
    assert "extension=raiser" in line
    assert "Traceback (most recent call last)" in line
    assert "raiser.py" in line


# Bodies.


@pytest.mark.parametrize("size", [0, 1, 100_000, MAX_BODY])
def test_a_body_is_a_file_while_the_request_lasts(cluster: Cluster, size: int) -> None:
    body = os.urandom(size)
    got = call(cluster, "body/name.bin", body).data
    assert (got["size"], got["sha256"], got["mode"]) == (size, hashlib.sha256(body).hexdigest(), 0o600)
    assert not Path(got["file"]).exists()
    assert not files(cluster)


def test_a_get_has_no_file_and_a_moved_one_is_no_error(cluster: Cluster) -> None:
    assert call(cluster, "body").data == {"file": None}
    assert call(cluster, "body?move=1", b"body").status == 200
    assert not files(cluster)


def test_no_body_is_left_when_the_extension_fails(cluster: Cluster) -> None:
    for path in ("raiser", "deadly", "missing", "looper"):
        assert call(cluster, path, b"body").status >= 500
        assert not files(cluster)


def test_a_body_that_is_too_long_is_refused_before_it_is_read(cluster: Cluster) -> None:
    parts = urlsplit(cluster.master_url)
    with contextlib.closing(socket.create_connection((parts.hostname, parts.port), timeout=30)) as connection:
        connection.sendall(
            f"PUT /extension/body HTTP/1.1\r\nHost: localhost\r\nContent-Length: {1 << 30}\r\nExpect: 100-continue\r\n\r\n".encode()
        )
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413"), answer
    assert f"max_body allows {MAX_BODY}".encode() in answer


def test_a_chunked_body_that_never_ends_is_refused_and_nothing_is_left(cluster: Cluster) -> None:
    connection = http.client.HTTPConnection(urlsplit(cluster.master_url).netloc, timeout=60)
    sent = 0

    def gigabyte() -> Iterator[bytes]:
        nonlocal sent
        while sent < 1 << 30:
            sent += 1 << 20
            yield bytes(1 << 20)

    with contextlib.closing(connection):
        with contextlib.suppress(ConnectionError):  # the master has heard enough
            connection.request("PUT", "/extension/body", gigabyte(), encode_chunked=True)
        if connection.sock:
            with contextlib.suppress(ConnectionError, http.client.HTTPException):
                response = connection.getresponse()
                assert response.status == 413
                assert "max_body allows" in json.load(response)["msg"]
    assert sent > MAX_BODY
    wait_for(lambda: not files(cluster), what="the end of the body")
    assert call(cluster, "old").status == 200


def test_a_chunked_body_a_little_too_long_is_answered_413(cluster: Cluster) -> None:
    connection = http.client.HTTPConnection(urlsplit(cluster.master_url).netloc, timeout=60)
    with contextlib.closing(connection):
        connection.request("PUT", "/extension/body", iter([bytes(MAX_BODY), b"x"]), encode_chunked=True)
        assert connection.getresponse().status == 413
    assert not files(cluster)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_cut_off_runs_nothing(cluster: Cluster, folder: Path, tmp_path: Path, chunked: bool) -> None:
    parts = urlsplit(cluster.master_url)
    head = "Transfer-Encoding: chunked" if chunked else "Content-Length: 200000"
    with contextlib.closing(socket.create_connection((parts.hostname, parts.port), timeout=30)) as connection:
        connection.sendall(
            f"PUT /extension/sleeper?pids={tmp_path}/pids&secs=0 HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode()
        )
        connection.sendall(b"186a0\r\n" + bytes(50_000) if chunked else bytes(50_000))
        wait_for(lambda: files(cluster), what="the file of the body")
    wait_for(lambda: not files(cluster), what="the end of the body")
    assert not (tmp_path / "pids").exists()


# Long answers.


def test_an_answer_of_50_mb_arrives_whole(cluster: Cluster) -> None:
    data = call(cluster, "large").data
    assert len(data) == 50 << 10
    assert set(data) == {"x" * 1023}


def test_a_client_that_reads_slowly_does_not_fill_the_memory_of_the_master(cluster: Cluster) -> None:
    worker = psutil.Process(worker_of(cluster))
    parts = urlsplit(cluster.master_url)
    assert call(cluster, "old").status == 200
    before = worker.memory_info().rss
    with contextlib.closing(socket.create_connection((parts.hostname, parts.port), timeout=30)) as connection:
        connection.sendall(b"GET /extension/large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        connection.recv(1000, socket.MSG_WAITALL)
        # Time enough to take all of it, were it taken.
        time.sleep(1.5)
        assert worker.memory_info().rss - before < 30 << 20
    assert call(cluster, "old").status == 200


def test_items_of_an_iterator_become_a_list(cluster: Cluster) -> None:
    for count in (0, 1, 3, 5_000):
        data = call(cluster, f"stream?count={count}").data
        assert [item["number"] for item in data] == list(range(count))


def test_an_error_at_the_beginning_of_a_stream_is_a_500(cluster: Cluster) -> None:
    refused(call(cluster, "stream?count=10&bad=5"), 500, "ValueError: in the middle")


def test_an_error_in_the_middle_of_a_stream_breaks_the_answer_off(cluster: Cluster) -> None:
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        call(cluster, "stream?count=20000&bad=5000")
    wait_for(lambda: "response was cut short" in log_of(cluster), what="the line in the log")
    assert call(cluster, "old").status == 200


# What it can do to others.


def test_an_extension_that_kills_its_process_disturbs_no_other_request(cluster: Cluster, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(call, cluster, f"sleeper?secs=1.5&pids={tmp_path}/pids")
        pids_in(tmp_path / "pids", 3)
        refused(call(cluster, "deadly"), 500, r"killed by signal 9 \(SIGKILL\)")
        answer = slow.result()
    assert answer.data == ["slept"]
    assert call(cluster, "old").status == 200


def test_an_extension_that_runs_too_long_is_ended_with_all_its_children(cluster: Cluster, tmp_path: Path) -> None:
    since = time.monotonic()
    refused(call(cluster, f"sleeper?pids={tmp_path}/pids"), 504, r"longer than 4 s.*\[extensions\] timeout")
    assert time.monotonic() - since >= TIMEOUT
    assert not living(pids_in(tmp_path / "pids", 3))
    refused(call(cluster, "looper"), 504, "longer than 4 s")


def test_a_request_waits_for_a_process_that_is_busy_and_not_for_ever(cluster: Cluster, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        busy = [pool.submit(call, cluster, f"sleeper?secs=2&pids={tmp_path}/{n}") for n in range(PROCESSES)]
        for number in range(PROCESSES):
            pids_in(tmp_path / str(number), 3)
        assert call(cluster, "old").status == 200
        assert [answer.result().status for answer in busy] == [200] * PROCESSES
        # Twice as many as there are processes, and half as many again: the last ones don't get their turn.
        asked = [pool.submit(call, cluster, "looper") for _ in range(3 * PROCESSES)]
        answers = [future.result() for future in asked]
    statuses = sorted(answer.status for answer in answers)
    assert set(statuses) == {503, 504}, statuses
    late = next(answer for answer in answers if answer.status == 503)
    refused(late, 503, r"no process for extensions was free within 4 s; \[extensions\] processes")
    assert int(late.headers["Retry-After"]) >= 1


def test_what_an_extension_prints_is_in_the_log_and_nowhere_else(cluster: Cluster) -> None:
    assert call(cluster, "loud").data == ["quiet"]
    log = log_of(cluster)
    assert 'extension printed extension=loud text="a line for the log"' in log
    assert r'text="\u001b[2Ja line for\u0007 a terminal\u007f"' in log
    assert all(character == "\n" or character.isprintable() for character in log)
    assert "extension printed more than is logged extension=loud" in log
    assert log.count("x" * 79) < 1000


def test_a_client_that_goes_away_ends_the_work(cluster: Cluster, tmp_path: Path) -> None:
    parts = urlsplit(cluster.master_url)
    with contextlib.closing(socket.create_connection((parts.hostname, parts.port), timeout=30)) as connection:
        connection.sendall(f"GET /extension/sleeper?pids={tmp_path}/pids HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        pids = pids_in(tmp_path / "pids", 3)
        since = time.monotonic()
    wait_for(lambda: not living(pids), what="the end of the work")
    assert time.monotonic() - since < TIMEOUT * 5


def test_keys_are_served_while_extensions_use_all_of_the_processor(cluster: Cluster) -> None:
    key = unique()
    assert put(cluster, key, b"value").status == 201
    stop = threading.Event()

    def burn() -> None:
        while not stop.is_set():
            call(cluster, "looper")

    burners = [threading.Thread(target=burn) for _ in range(PROCESSES)]
    for burner in burners:
        burner.start()
    try:
        wait_for(lambda: workers_of_extensions(cluster, busy=True) >= PROCESSES, 30, "busy processes")
        took = []
        for _ in range(200):
            since = time.monotonic()
            assert get(cluster, key).body == b"value"
            took.append(time.monotonic() - since)
    finally:
        stop.set()
        for burner in burners:
            burner.join()
    took.sort()
    # An extension has 4 s, and who had to wait for one would wait each time.
    assert took[len(took) // 2] < 1.0, took[-10:]


# Editing.


def test_edits_count_from_the_next_request_on_and_broken_ones_can_be_mended(cluster: Cluster, folder: Path) -> None:
    file = folder / "edited.py"
    refused(call(cluster, "edited"), 404, "there is no extension 'edited'")
    good = "from extensions import Extension\nclass Edited(Extension):\n    def execute(self):\n        return [{}]\n"
    for number in range(3):
        file.write_text(good.format(number))
        for _ in range(PROCESSES + 1):
            assert call(cluster, "edited").data == [number]
    file.write_text("class Edited(:\n")
    refused(call(cluster, "edited"), 500, r"edited\.py, line 1")
    file.write_text(good.format(7))
    assert call(cluster, "edited").data == [7]
    file.unlink()
    refused(call(cluster, "edited"), 404, "there is no extension 'edited'")


# The store.


def test_an_extension_walks_over_the_keys_of_a_prefix(cluster: Cluster) -> None:
    prefix = unique("walk")
    for number in range(5):
        assert put(cluster, f"{prefix}/{number}.txt", b"x" * number, "ttl=1h" if number == 4 else "").status == 201
    assert put(cluster, f"{prefix}/9.txt", b"x", "ttl=1s").status == 201
    wait_for(lambda: get(cluster, f"{prefix}/9.txt").status == 404, what="the end of a lifetime")
    rows = call(cluster, f"keys?prefix={prefix}/").data
    assert [(row["key"], row["size"]) for row in rows] == [(f"{prefix}/{n}.txt", n) for n in range(5)]
    listed = http_request("GET", f"{cluster.master_url}/keys?prefix={prefix}/").data["keys"]
    for row, entry in zip(rows, listed, strict=True):
        assert {name: row[name] for name in entry if name != "nodes"} == {
            name: value for name, value in entry.items() if name != "nodes"
        }
        assert http_request("GET", row["url"]).body == b"x" * row["size"]
    after = call(cluster, f"keys?prefix={prefix}/&after={prefix}/2.txt").data
    assert [row["key"] for row in after] == [f"{prefix}/3.txt", f"{prefix}/4.txt"]
    assert len(call(cluster, "keys/tests?limit=2").data) == 2


def test_an_extension_reads_and_writes_values(cluster: Cluster) -> None:
    key = unique("written.txt")
    data = call(cluster, f"writer?key={key}", b"small letters").data
    assert data["answers"] == [409, 404]
    assert data["saved"] == "SMALL LETTERS"
    assert get(cluster, key).body == b"SMALL LETTERS"
    assert data["url"].endswith(f"/get_key/{key}")


def snippets() -> dict[str, str]:
    """The extensions that the docs show, by name of the file."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "extensions.md").read_text(), re.DOTALL)
    found = {match[1]: block for block in blocks if (match := re.match(r"# extensions/(\w+\.py)\n", block))}
    assert set(found) >= {"wordcount.py", "digest.py"}
    return found


def test_the_extension_of_the_docs_has_ten_lines_and_works(cluster: Cluster, folder: Path) -> None:
    text = snippets()["wordcount.py"]
    assert sum(bool(line.strip()) for line in text.splitlines()[1:]) <= 10
    (folder / "wordcount.py").write_text(text)
    answer = call(cluster, "wordcount?most=2", b"one two two Three three three\n")
    assert answer.data == {"three": 3, "two": 2}
    refused(call(cluster, "wordcount"), 400, "PUT a text, and its words are counted")


def test_the_other_extension_of_the_docs_uses_the_store(cluster: Cluster, folder: Path) -> None:
    (folder / "digest.py").write_text(snippets()["digest.py"])
    prefix = unique("digest")
    for number in range(3):
        assert put(cluster, f"{prefix}/{number}", b"value %d" % number).status == 201
    catalog = f"{cluster.master_url}/admin/job_catalog"
    wait_for(lambda: http_request("GET", catalog).data, 30, "the catalog of job scripts")
    data = call(cluster, f"digest/{prefix}").data
    assert data["beginnings"] == {f"{prefix}/{number}": f"value {number}" for number in range(3)}
    assert get(cluster, f"digests/{prefix}.json").json == {f"{prefix}/{number}": 7 for number in range(3)}
    job = f"{cluster.master_url}/admin/jobs/{data['job_id']}"
    ended = wait_for(
        lambda: row if (row := http_request("GET", job).data)["status"] != "pending" else None, 60, "the job"
    )
    assert (ended or {})["status"] == "completed"


# The end of the master.


def worker_of(cluster: Cluster) -> int:
    """Process id of the only web worker."""
    assert cluster.master.pid
    children = psutil.Process(cluster.master.pid).children()
    return next(child.pid for child in children if any("spawn_main" in part for part in child.cmdline()))


def workers_of_extensions(cluster: Cluster, busy: bool = False) -> int:
    """How many processes of extensions there are, or are working."""
    found = 0
    for child in psutil.Process(worker_of(cluster)).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            guarded = bool(child.children()) is False and "master.extensions.guard" in child.cmdline()
            found += guarded and (not busy or child.status() == psutil.STATUS_RUNNING)
    return found


@pytest.mark.parametrize("whom", ["worker", "master"])
def test_no_process_and_no_body_is_left_when_the_master_or_its_worker_is_killed(
    make_shared_cluster: Clusters, folder: Path, tmp_path: Path, whom: str
) -> None:
    cluster = make_shared_cluster(nodes=1, env=environment(folder, PULZAR_EXTENSIONS_TIMEOUT="60"))

    def ask() -> None:
        with contextlib.suppress(ConnectionError, http.client.HTTPException):
            call(cluster, f"sleeper?pids={tmp_path}/pids", b"body")

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        pids = pids_in(tmp_path / "pids", 3)
        assert len(living(pids)) == 3
        assert len(files(cluster)) == 1
        assert cluster.master.pid
        os.kill(worker_of(cluster) if whom == "worker" else cluster.master.pid, signal.SIGKILL)
        wait_for(lambda: not living(pids), 30, "the end of every process of the extension")
        asked.result()
    if whom == "master":
        cluster.master.start()
    wait_for(lambda: _answers(cluster), 60, "the master to answer again")
    assert not files(cluster)


def _answers(cluster: Cluster) -> bool:
    try:
        return call(cluster, "old").status == 200
    except (OSError, http.client.HTTPException):
        return False
