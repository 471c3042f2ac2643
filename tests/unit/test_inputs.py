"""The values that jobs work on are fetched, shared by runs, and fetched again when a run has changed one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from broker import settings
from node.jobs import inputs as inputs_module
from node.jobs.inputs import Inputs, NoInput
from node.storage.staging import Staging
from tests.support import wait_for


class Master(ThreadingHTTPServer):
    """Has values, and answers 404, 503, a redirect or too few bytes where it is told to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.values: dict[str, bytes] = {}
        self.away = 0  # answers that are 503
        self.short = 0  # answers that break off
        self.asked = 0
        self.gate = threading.Event()
        self.gate.set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Master

    def do_GET(self) -> None:
        server = self.server
        server.asked += 1
        key = self.path.partition("?")[0].removeprefix("/get_key/")
        if server.away:
            server.away -= 1
            self._answer(503, b"later")
        elif key.startswith("moved/"):
            self.send_response(307)
            self.send_header("Location", f"http://{server.address}/get_key/{key.removeprefix('moved/')}")
            self.end_headers()
        elif key in server.values:
            self._answer(200, server.values[key])
        else:
            self._answer(404, b"{}")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hash(body)}"')
        self.end_headers()
        if status == 200 and self.server.short:
            self.server.short -= 1
            body = body[:-1]
        self.wfile.write(body[: len(body) // 2])
        self.server.gate.wait(10)
        self.wfile.write(body[len(body) // 2 :])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def master() -> Iterator[Master]:
    server = Master()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.gate.set()
    server.shutdown()
    server.server_close()


def config(directory: Path, **more: str) -> settings.Settings:
    return settings.load(environ={"PULZAR_VOLUME_DIR": str(directory), "PULZAR_VOLUME_PORT": "1"} | more)


def make_inputs(directory: Path, master: Master, **more: str) -> Inputs:
    Staging(directory)  # makes the directory
    return Inputs(directory / "inputs", config(directory, PULZAR_SERVER_ADVERTISE=master.address, **more), "node-1")


def always() -> bool:
    return True


def test_a_value_is_fetched_and_gone_when_nobody_uses_it(tmp_path: Path, master: Master) -> None:
    master.values["a/b"] = b"x" * 3_000_000
    inputs = make_inputs(tmp_path, master)
    path = inputs.fetch("moved/a/b", always)
    assert path.read_bytes() == master.values["a/b"]
    assert path.stat().st_mode & 0o777 == 0o444
    inputs.tidy(0)
    assert path.exists()
    inputs.release(path)
    inputs.tidy(60)
    assert path.exists()
    inputs.tidy(0)
    assert list((tmp_path / "inputs").iterdir()) == []


def test_runs_on_the_same_value_share_a_copy_and_those_on_another_version_do_not(
    tmp_path: Path, master: Master
) -> None:
    master.values["a"] = b"first version"
    master.gate.clear()
    inputs = make_inputs(tmp_path, master)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(inputs.fetch("a", always))) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_for(lambda: master.asked == 3)
    master.gate.set()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(set(found)) == 1
    master.values["a"] = b"second version"
    other = inputs.fetch("a", always)
    assert (found[0].read_bytes(), other.read_bytes()) == (b"first version", b"second version")


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: (path.chmod(0o644), path.write_bytes(b"other")),
        lambda path: path.chmod(0o600),
        lambda path: path.unlink(),
        lambda path: (path.unlink(), path.write_bytes(b"value")),
        lambda path: (path.unlink(), path.symlink_to("/etc/passwd")),
        lambda path: path.rename(path.with_name("moved")),
    ],
)
def test_a_copy_that_a_run_has_changed_is_fetched_again(
    tmp_path: Path, master: Master, harm: Callable[[Path], object]
) -> None:
    master.values["a"] = b"value"
    inputs = make_inputs(tmp_path, master)
    # Given a copy that one run harms while another uses it
    first, also = inputs.fetch("a", always), inputs.fetch("a", always)
    assert first == also
    harm(first)
    # Then the next one, and its own second attempt, get the value
    inputs.release(first)
    second = inputs.fetch("a", always)
    assert (second.read_bytes(), second.stat().st_mode & 0o777) == (b"value", 0o444)
    assert inputs.fetch("a", always) == second
    # and what is left of the old one goes with its last user, whatever was to be kept
    inputs.release(also)
    inputs.tidy(60)
    assert [path.name for path in (tmp_path / "inputs").iterdir() if path.name != "moved"] == [second.name]
    inputs.release(second)
    inputs.release(second)
    inputs.tidy(0)
    assert not second.exists()


def test_a_master_that_is_away_or_breaks_off_is_asked_again(tmp_path: Path, master: Master) -> None:
    master.values["a"] = b"value"
    master.away, master.short = 2, 1
    assert make_inputs(tmp_path, master).fetch("a", always).read_bytes() == b"value"
    assert master.asked == 4


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_a_value_of_this_node_needs_no_master(tmp_path: Path, master: Master, host: str) -> None:
    # Given a node whose own data server is there, and a master that is not
    master.values["a"] = b"value"
    port = str(master.server_address[1])
    environment = {"PULZAR_SERVER_ADVERTISE": "127.0.0.1:1", "PULZAR_VOLUME_HOST": host, "PULZAR_VOLUME_PORT": port}
    Staging(tmp_path)
    assert (
        Inputs(tmp_path / "inputs", config(tmp_path, **environment), "node-1").fetch("a", always).read_bytes()
        == b"value"
    )


def test_redirects_that_never_end_are_not_followed_for_ever(
    tmp_path: Path, master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs_module, "PATIENCE_SECS", 0.0)
    with pytest.raises(NoInput, match="too many redirects"):
        make_inputs(tmp_path, master).fetch("moved/" * 20 + "a", always)


def test_a_key_that_is_unknown_is_so_at_once(tmp_path: Path, master: Master) -> None:
    with pytest.raises(NoInput, match="the key a/b is unknown"):
        make_inputs(tmp_path, master).fetch("a/b", always)
    assert master.asked == 1


def test_a_master_that_stays_away_is_not_waited_for_for_ever(
    tmp_path: Path, master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs_module, "PATIENCE_SECS", 0.5)
    master.away = 1_000_000
    with pytest.raises(NoInput, match=r"a can't be fetched: .* answers 503 later"):
        make_inputs(tmp_path, master).fetch("a", always)
    assert master.asked > 1


def test_a_value_without_room_is_not_fetched(tmp_path: Path, master: Master) -> None:
    master.values["a"] = b"value"
    with pytest.raises(NoInput, match="no room on this node for a copy of a, 5 bytes"):
        make_inputs(tmp_path, master, PULZAR_VOLUME_RESERVE="1T").fetch("a", always)


def test_a_value_that_nobody_wants_any_more_is_fetched_no_farther(tmp_path: Path, master: Master) -> None:
    master.values["a"] = b"x" * (64 << 20)
    inputs = make_inputs(tmp_path, master)
    left = [True, False]
    with pytest.raises(NoInput, match="not wanted"):
        inputs.fetch("a", lambda: len(left) > 1 and left.pop())
    assert list((tmp_path / "inputs").iterdir()) == []
