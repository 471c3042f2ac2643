"""Where image_url may lead: keys of the cluster and hosts that are listed, by the address that is connected to."""

from __future__ import annotations

import contextlib
import io
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from extensions import Refused
from extensions._fetching import fetch
from extensions._reach import Reach
from tests.pictures import reply, serving

MASTER, NODE = "10.1.1.1:31414", "http://10.1.1.2:31415"
NAMES = {
    "store.example": ["10.1.1.1"],
    "node.example": ["10.1.1.2"],
    "evil.example": ["127.0.0.1"],
    "pictures.example": ["192.0.2.7"],
    "localhost": ["127.0.0.1", "::1"],
}


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What names stand for; nothing else has a name."""
    known, real = dict(NAMES), socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *args: Any, **more: Any) -> Any:
        if host in known:
            return [entry for address in known[host] for entry in real(address, port, *args, **more)]
        with contextlib.suppress(socket.gaierror):
            return real(host, port, *args, flags=socket.AI_NUMERICHOST, **more)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known


def reach(listed: str = "", listening: str = "10.1.1.1:31414", master: str = MASTER) -> Reach:
    return Reach(f"http://{master}", listening, listed, lambda: [NODE])


def leads(reach: Reach, host: str, port: int, path: str = "/get_key/a.png") -> list[str]:
    return reach.addresses(f"http://{host}:{port}{path}", host, port, path)


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize(
    ("host", "port", "addresses"),
    [
        ("10.1.1.1", 31414, ["10.1.1.1"]),
        ("store.example", 31414, ["10.1.1.1"]),
        ("::ffff:10.1.1.1", 31414, ["::ffff:10.1.1.1"]),
        ("10.1.1.2", 31415, ["10.1.1.2"]),
        ("node.example", 31415, ["10.1.1.2"]),
    ],
)
def test_keys_of_the_cluster_are_within_reach_by_whatever_name(host: str, port: int, addresses: list[str]) -> None:
    assert leads(reach(), host, port) == addresses


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize(
    ("host", "port", "path"),
    [
        ("127.0.0.1", 31414, "/get_key/a"),
        ("localhost", 31414, "/get_key/a"),
        ("evil.example", 31414, "/get_key/a"),
        ("::1", 31414, "/get_key/a"),
        ("0.0.0.0", 31414, "/get_key/a"),
        ("::ffff:127.0.0.1", 31414, "/get_key/a"),
        ("10.1.1.1", 15672, "/get_key/a"),
        ("10.1.1.1", 31415, "/get_key/a"),
        ("10.1.1.2", 31414, "/get_key/a"),
        ("10.1.1.1", 31414, "/admin/status"),
        ("10.1.1.1", 31414, "/get_keys"),
        ("10.1.1.2", 31415, "/"),
        ("192.0.2.7", 80, "/get_key/a"),
        ("169.254.169.254", 80, "/get_key/a"),
        ("unknown.example", 31414, "/get_key/a"),
    ],
)
def test_all_else_is_refused_in_the_same_words(host: str, port: int, path: str) -> None:
    with pytest.raises(
        Refused, match=r"is no key of this cluster.*http://10\.1\.1\.1:31414/get_key/….*\[extensions\] fetch"
    ) as caught:
        leads(reach(), host, port, path)
    assert caught.value.status == 400


@pytest.mark.usefixtures("names")
def test_a_master_that_listens_on_every_address_is_known_by_all_of_this_machine() -> None:
    for listening in ("0.0.0.0:31414", "[::]:31414", ":31414"):
        assert leads(reach(listening=listening), "127.0.0.1", 31414) == ["127.0.0.1"]
        with pytest.raises(Refused):
            leads(reach(listening=listening), "127.0.0.1", 31415)
    assert leads(reach(listening="localhost:31414"), "localhost", 31414) == ["127.0.0.1", "::1"]


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize(
    ("listed", "host", "port", "within"),
    [
        ("pictures.example", "pictures.example", 80, True),
        ("pictures.example", "pictures.example", 8080, True),
        ("pictures.example", "192.0.2.7", 80, True),
        ("192.0.2.7", "pictures.example", 80, True),
        ("other.example, pictures.example:80", "pictures.example", 80, True),
        ("pictures.example:80", "pictures.example", 8080, False),
        ("pictures.example:80", "evil.example", 80, False),
        ("evil.example", "evil.example", 80, True),
        ("[::1]:80", "::1", 80, True),
        ("[::1]:80", "::1", 81, False),
        ("*", "127.0.0.1", 22, True),
    ],
)
def test_listed_hosts_are_within_reach_with_any_path(listed: str, host: str, port: int, within: bool) -> None:
    if within:
        assert leads(reach(listed), host, port, "/any")
    else:
        with pytest.raises(Refused):
            leads(reach(listed), host, port, "/any")


def test_a_host_that_is_listed_and_has_no_address_is_a_failure_of_its_own(names: dict[str, list[str]]) -> None:
    del names["pictures.example"]
    with pytest.raises(OSError, match="not known"):
        leads(reach("pictures.example"), "pictures.example", 80)


@contextlib.contextmanager
def counted(answer: Callable[[socket.socket, str], None]) -> Iterator[tuple[str, list[str]]]:
    """A server, and the paths that it was asked for."""
    asked: list[str] = []

    def one(connection: socket.socket, path: str) -> None:
        asked.append(path)
        answer(connection, path)

    with serving(one) as url:
        yield url, asked


def test_each_redirect_is_looked_at() -> None:
    # Given a listed server that sends on to one that is not
    with counted(lambda connection, _: reply(connection, b"secret")) as (inner, asked):
        away = {"Location": f"{inner}/internal"}
        with counted(lambda connection, _: reply(connection, b"", "302 Found", **away)) as (outer, _):
            listed = outer.removeprefix("http://")
            with pytest.raises(Refused, match=r"/internal', which is no key of this cluster"):
                fetch(f"{outer}/a.png", io.BytesIO(), Reach(f"http://{MASTER}", MASTER, listed, list))
            # Then that one was never asked; and where both are listed, it is
            assert asked == []
            file = io.BytesIO()
            both = f"{listed},{inner.removeprefix('http://')}"
            fetch(f"{outer}/a.png", file, Reach(f"http://{MASTER}", MASTER, both, list))
            assert file.read() == b"secret"
            assert asked == ["/internal"]


def test_a_name_that_changes_its_address_is_connected_to_where_it_was_looked_at(names: dict[str, list[str]]) -> None:
    with counted(lambda connection, _: reply(connection, b"secret")) as (inner, asked):
        port = int(inner.rpartition(":")[2])
        # Given a name that leads to a key of the cluster when it is asked first, and to this machine from then on
        answers = iter([["10.1.1.1"]])

        class Changing(dict[str, list[str]]):
            def __contains__(self, name: object) -> bool:
                return name == "changing.example" or super().__contains__(name)

            def __getitem__(self, name: str) -> list[str]:
                return next(answers, ["127.0.0.1"]) if name == "changing.example" else super().__getitem__(name)

        changing = Changing(names)
        at = Reach(f"http://10.1.1.1:{port}", f"10.1.1.1:{port}", "", list)
        real = socket.getaddrinfo
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                socket,
                "getaddrinfo",
                lambda host, port, *a, **k: real(changing[host][0] if host in changing else host, port, *a, **k),
            )
            connected: list[Any] = []
            patch.setattr(socket, "create_connection", lambda address, **_: connected.append(address) or refuse())
            with pytest.raises(Refused, match="can't be fetched"):
                fetch(f"http://changing.example:{port}/get_key/a.png", io.BytesIO(), at)
        # Then only the address that was looked at is connected to
        assert connected == [("10.1.1.1", port)]
        assert asked == []


def refuse() -> Any:
    raise ConnectionRefusedError("nobody is there")
