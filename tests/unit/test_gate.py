"""Who is let in: tokens and how they are sent, networks that are trusted, signed addresses; and the table of routes."""

from __future__ import annotations

import base64
import datetime
import re
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import psutil
import pytest

from broker import settings
from broker.errors import BadSignature, InvalidKey
from broker.http import signing
from broker.refusals import Forbidden, NotFound, Refused, Unauthorized, Unavailable
from broker.server.networks import Networks
from master import worker
from master.security import gate as gates
from master.security import tokens
from master.security.gate import Gate, open_tokens
from master.security.rights import Right
from master.security.routes import TABLE, NoRow, Routes, require_rows
from master.security.signed_requests import SignedRequests
from master.web.flask_routes import contract
from master.web.flask_routes.app import create_app, flask_routes
from master.web.ui.app import create_app as create_page
from master.web.ui.keys.uploads import Uploads
from master.web.ui.keys.values import Values

SECRET = b"s" * 32
DOCUMENT = contract.api()


def asked(method: str, target: str, authorization: str | None = None, client: str = "10.0.0.5:1") -> dict[str, str]:
    path, _, query = target.partition("?")
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query, "REMOTE_ADDR": client}
    return environ | ({"HTTP_AUTHORIZATION": authorization} if authorization is not None else {})


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class House:
    """A gate with a file of tokens."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "tokens"
        self.path.touch(0o600)
        self.lines: dict[str, str] = {}
        self.runs: dict[str, str] = {}  # names of tokens, by the tokens of runs
        found = open_tokens(str(self.path))
        self.gate = Gate(found, Networks([]), SignedRequests((SECRET,), found).verify, self.runs.get)

    def token(self, name: str, *rights: str, until: datetime.date | None = None) -> str:
        """A new token, sent as Bearer."""
        text, made = tokens.make(name, map(Right.parse, rights), until)
        self.lines[name] = made.line()
        self.write()
        return f"Bearer {text}"

    def write(self) -> None:
        self.path.write_text("\n".join(self.lines.values()) + "\n")
        assert self.gate._tokens
        self.gate._tokens.next_look = self.gate._fresh = 0.0

    def admit(self, *request: str | None) -> dict[str, str]:
        environ = asked(*request)  # type: ignore[arg-type]
        self.gate.admit(environ)
        return environ

    def refuses(self, *request: str | None) -> Refused:
        with pytest.raises(Refused) as refused:
            self.admit(*request)
        return refused.value


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_a_token_is_sent_as_bearer_or_as_the_password_of_basic(house: House) -> None:
    sent = house.token("ci", "read:")
    text = sent.split()[1]
    for header in (sent, f"bearer {text}", f"BEARER  {text} ", basic("ci", text), basic("", text), basic("x", text)):
        assert house.admit("GET", "/get_key/a", header)[gates.NAME] == "ci"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer x",
        "Bearer pz_ci_" + "0" * 48,
        "Basic",
        "Basic !",
        "Basic /w==",
        "Digest a",
        "pz_ci_x",
    ],
)
def test_without_a_known_token_it_is_401_and_says_how(house: House, header: str | None) -> None:
    house.token("ci", "read:")
    error = house.refuses("GET", "/get_key/a", header)
    assert isinstance(error, Unauthorized)
    assert "Authorization: Bearer" in str(error)
    assert dict(error.headers)["WWW-Authenticate"].startswith("Bearer")


def test_two_tokens_in_one_request_are_none(house: House) -> None:
    sent = house.token("ci", "read:")
    assert house.refuses("GET", "/get_key/a", f"{sent},{sent}").status == 401


def test_a_token_in_the_query_or_the_name_of_basic_counts_for_nothing(house: House) -> None:
    text = house.token("ci", "read:").split()[1]
    for name in ("token", "access_token", "password"):
        assert house.refuses("GET", f"/get_key/a?{name}={text}").status == 401
    assert house.refuses("GET", "/get_key/a", basic(text, "")).status == 401


def test_a_missing_right_is_403_and_named(house: House) -> None:
    sent = house.token("ci", "read:reports/")
    error = house.refuses("DELETE", "/delete_key/reports/a", sent)
    assert isinstance(error, Forbidden)
    assert "ci lacks the right delete:reports/a" in str(error)


def test_an_expired_token_is_401_and_says_when(house: House) -> None:
    today = datetime.datetime.now(datetime.UTC).date()
    sent = house.token("ci", "read:", until=today)
    house.admit("GET", "/get_key/a", sent)
    old = house.token("old", "read:", until=today - datetime.timedelta(1))
    error = house.refuses("GET", "/get_key/a", old)
    assert (error.status, f"until {today - datetime.timedelta(1)}" in str(error)) == (401, True)


def test_a_token_that_has_been_used_can_be_revoked(house: House) -> None:
    sent = house.token("ci", "read:")
    house.admit("GET", "/get_key/a", sent)
    house.lines.clear()
    house.write()
    assert house.refuses("GET", "/get_key/a", sent).status == 401


def test_a_right_that_is_taken_away_is_gone(house: House) -> None:
    sent = house.token("ci", "read:", "write:")
    house.admit("PUT", "/add_key/a", sent)
    house.lines["ci"] = house.lines["ci"].replace(" write:", "")
    house.write()
    assert house.refuses("PUT", "/add_key/a", sent).status == 403


def test_without_the_file_it_is_503(house: House) -> None:
    sent = house.token("ci", "read:")
    house.admit("GET", "/get_key/a", sent)
    house.path.unlink()
    assert house.gate._tokens
    house.gate._tokens.next_look = house.gate._fresh = 0.0
    assert isinstance(house.refuses("GET", "/get_key/a", sent), Unavailable)


def test_paths_without_a_route_are_404_for_who_has_a_token_and_401_for_others(house: House) -> None:
    sent = house.token("ci", "read:")
    for path in (
        "/nothing",
        "/ui/nothing",
        "/get_key",
        "//get_key/a",
        "/keys/",
        "/KEYS",
        "/admin/jobs/1/2",
        "/admin/status/",
        "*",
    ):
        assert isinstance(house.refuses("GET", path, sent), NotFound), path
        assert house.refuses("GET", path).status == 401, path


def test_the_router_says_which_methods_a_path_has(house: House) -> None:
    sent = house.token("ci", "jobs")
    for path in ("/get_key/a", "/keys", "/admin/jobs/1"):
        house.admit("PATCH", path, sent)
        assert house.refuses("PATCH", path).status == 401


@pytest.mark.parametrize(
    ("target", "needed"),
    [
        ("/keys", ["read:"]),
        ("/keys?prefix=a/b", ["read:a/b"]),
        ("/keys?prefix=/a/b", ["read:a/b"]),
        ("/keys?prefix=a%2Fb&delimiter=/", ["read:a/b"]),
        ("/keys?prefix=", ["read:"]),
        ("/keys?prefix=a&prefix=b", ["read:a", "read:b"]),
        ("/stats", ["read:"]),
        ("/stats/", ["read:"]),
        ("/stats/a/b", ["read:a/b"]),
        ("/stats//a/b", ["read:a/b"]),
        ("/archive/", ["read:"]),
        ("/archive/a/?format=zip", ["read:a/"]),
        ("/keys?deleted=1&prefix=a/", ["read:a/"]),
        ("/extension/search/x", ["extension:search", "read:"]),
        ("/extension/search/x?prefix=a/", ["extension:search", "read:a/"]),
        ("/extension/ocr/x?prefix=a/", ["extension:ocr"]),
        ("/get_node/a/b", ["write:a/b"]),
        ("/get_key//a/b", ["read:a/b"]),
    ],
)
def test_the_right_is_needed_for_all_that_is_asked_for(house: House, target: str, needed: list[str]) -> None:
    house.admit("GET", target, house.token("all", *needed))
    for number in range(len(needed)):
        fewer = [*needed[:number], *needed[number + 1 :], "metrics"]
        error = house.refuses("GET", target, house.token("fewer", *fewer))
        assert f"the right {needed[number]};" in str(error)
    for right in needed:
        if right.startswith("read:"):
            narrower = house.token("narrow", *[one if one != right else f"{right}x" for one in needed])
            assert house.refuses("GET", target, narrower).status == 403


@pytest.mark.parametrize(
    ("target", "needed"),
    [
        ("/copy/a/x?to=b/y", ["read:a/x", "write:b/y"]),
        ("/copy/a/?to=b/", ["read:a/", "write:b/"]),
        ("/copy//a/x?to=/b/y", ["read:a/x", "write:b/y"]),
        ("/copy/a/x?to=b/y&to=c/z", ["read:a/x", "write:b/y", "write:c/z"]),
        ("/copy/a/x?to=b%2Fy", ["read:a/x", "write:b/y"]),
        ("/move/a/x?to=b/y", ["read:a/x", "write:b/y", "delete:a/x"]),
        ("/move/a/?to=b/", ["read:a/", "write:b/", "delete:a/"]),
        ("/undelete/a/x?version=5", ["write:a/x"]),
        ("/admin/backup", ["backup"]),
    ],
)
def test_each_right_of_a_request_is_needed(house: House, target: str, needed: list[str]) -> None:
    house.admit("POST", target, house.token("all", *needed))
    for number in range(len(needed)):
        fewer = house.token("fewer", *needed[:number], *needed[number + 1 :], "metrics")
        assert f"the right {needed[number]};" in str(house.refuses("POST", target, fewer))


def test_a_bad_key_is_400_for_who_has_a_token(house: House) -> None:
    sent = house.token("ci", "read:")
    with pytest.raises(InvalidKey):
        house.admit("GET", "/get_key/a//b", sent)


def test_who_may_launch_may_see_and_cancel_his_own_jobs(house: House) -> None:
    sent = house.token("ci", "launch:reports/*")
    for method, path in (("GET", "/admin/jobs/5"), ("POST", "/cancel_job/5")):
        assert house.admit(method, path, sent)[gates.OWN] == "ci"
        assert gates.OWN not in house.admit(method, path, house.token("boss", "jobs", "launch:*"))
    assert house.admit("GET", "/admin/jobs", sent)[gates.LAUNCHES] == "launch:reports/*"
    assert house.refuses("GET", "/admin/jobs", house.token("reader", "read:")).status == 403
    assert house.refuses("POST", "/launch_job/other/x", sent).status == 403
    house.admit("POST", "/launch_job/reports/x.py", sent)


def test_a_body_may_ask_for_more(house: House) -> None:
    environ = house.admit("POST", "/launch_job/a/b", house.token("ci", "launch:*", "read:in/"))
    house.gate.require(environ, Right("read", "in/a"))
    with pytest.raises(Forbidden, match="lacks the right read:out/a"):
        house.gate.require(environ, Right("read", "out/a"))


def test_what_a_node_has_signed_is_let_in(house: House) -> None:
    now = int(time.time())
    here = {signing.NODE: signing.AT_MASTER}
    good = signing.sign(SECRET, "GET", "a b", here, now + 60)
    house.admit("GET", f"/get_key/a b?{good}")
    house.admit("HEAD", f"/get_key/a b?{good}")
    for method, target in (
        ("GET", f"/get_key/a c?{good}"),
        ("GET", f"/get_key/a b?{good[:-1]}"),
        ("GET", f"/get_key/a b?x=1&{good}"),
        ("GET", f"/get_key/a b?{signing.sign(SECRET, 'GET', 'a b', here, now - 1)}"),
        ("GET", f"/get_key/a b?{signing.sign(b'x' * 32, 'GET', 'a b', here, now + 60)}"),
        ("GET", f"/get_key/a b?{signing.sign(SECRET, 'PUT', 'a b', here | {'url': 'm'}, now + 60)}"),
        ("GET", f"/get_key/a b?{signing.sign(SECRET, 'GET', 'a b', {}, now + 60)}"),
        ("GET", f"/get_key/a b?{signing.sign(SECRET, 'GET', 'a b', {'node': 'node-1'}, now + 60)}"),
    ):
        with pytest.raises(Exception, match=r"URL"):
            house.admit(method, target)
    with pytest.raises(BadSignature):
        house.admit("PUT", f"/add_key/a b?{good}")
    for method, path in (("DELETE", "/delete_key/a b"), ("GET", "/keys"), ("GET", "/nothing")):
        assert house.refuses(method, f"{path}?{good}").status == 401
    # Who has a token may have a parameter of that name.
    assert house.admit("GET", "/get_key/a?signature=mine", house.token("ci", "read:"))[gates.NAME] == "ci"


def test_a_token_that_was_looked_at_lately_is_let_in_as_any_other(house: House) -> None:
    sent = house.token("ci", "read:a/", "write:a/b")
    routes = [("GET", "get_key"), ("HEAD", "get_key"), ("HEAD", "add_key"), ("PUT", "add_key"), ("GET", "get_node")]
    targets = [(method, f"/{route}/{key}") for method, route in routes for key in ("a/x", "/a/x", "a/b", "b")]

    def outcome(method: str, target: str) -> object:
        try:
            return house.admit(method, target, sent)[gates.NAME]
        except (Refused, InvalidKey) as error:
            return str(error)

    for method, target in targets:
        house.gate._sent.clear()
        first = outcome(method, target)
        house.admit("GET", "/get_key/a/x", sent)
        assert house.gate._sent, "it is remembered"
        assert outcome(method, target) == first, target
    # And a revoked one is not, as soon as the file is looked at
    house.lines.clear()
    house.write()
    assert house.refuses("GET", "/get_key/a/x", sent).status == 401


def test_a_run_acts_for_who_launched_it_as_long_as_both_are_there(house: House) -> None:
    house.token("ci", "read:a/")
    run = signing.sign_run(SECRET, 5, 1)
    house.runs[run] = "ci"
    for _ in range(2):
        assert house.admit("GET", "/get_key/a/x", f"Bearer {run}")[gates.NAME] == "ci"
    assert house.refuses("GET", "/get_key/b", f"Bearer {run}").status == 403
    house.runs[run] = ""
    assert house.refuses("GET", "/get_key/a/x", f"Bearer {run}").status == 401
    house.runs[run] = "ci"
    house.admit("GET", "/get_key/a/x", f"Bearer {run}")
    house.runs.clear()
    assert house.refuses("GET", "/get_key/a/x", f"Bearer {run}").status == 401


def test_the_token_of_a_run_is_that_of_one_attempt() -> None:
    run = signing.sign_run(SECRET, 5, 2)
    assert signing.run_of((b"new", SECRET), run) == (5, 2)
    for other in (
        run[:-1],
        run + "0",
        run.replace("_5_", "_6_"),
        run.replace("_2_", "_3_"),
        run.replace("_5_", "_05_"),
        "",
    ):
        assert signing.run_of(SECRET, other) is None
    assert signing.run_of(b"other", run) is None


# Without a file of tokens


@pytest.mark.parametrize(
    ("client", "served"),
    [
        ("127.0.0.1:5", True),
        ("127.8.0.1:5", True),
        ("[::1]:5", True),
        ("::1:5", True),
        ("[::ffff:127.0.0.1]:5", True),
        ("10.1.2.3:5", True),
        ("[::ffff:10.1.2.3]:5", True),
        ("[fd00::5]:5", True),
        ("[fe80::1%eth0]:5", False),
        ("11.0.0.1:5", False),
        ("[2001:db8::1]:5", False),
        ("", False),
        ("unix:", False),
    ],
)
def test_without_tokens_trusted_networks_are_served_and_no_others(client: str, served: bool) -> None:
    gate = Gate(None, Networks(["10.0.0.0/8", "fd00::/8"]), SignedRequests((SECRET,), None).verify, {}.get)
    for method, target in (("GET", "/keys"), ("PUT", "/add_key/a"), ("POST", "/internal/restore"), ("GET", "/nothing")):
        environ = asked(method, target, client=client)
        if not served:
            with pytest.raises(Unauthorized, match=r"\[security\] trust"):
                gate.admit(environ)
        elif target == "/nothing":
            with pytest.raises(NotFound):
                gate.admit(environ)
        else:
            gate.admit(environ)
    for path in ("/health", "/openapi.json"):
        gate.admit(asked("GET", path, client=client))


def test_this_machine_is_trusted_by_whichever_address_it_reaches_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    here = [SimpleNamespace(address="203.0.113.7"), SimpleNamespace(address="fe80::7%eth0")]
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"eth0": here})
    networks = Networks([])
    for client, own in (("203.0.113.7:5", True), ("[fe80::7%eth0]:5", True), ("203.0.113.8:5", False)):
        assert (client in networks) == own


def test_without_tokens_one_that_is_sent_counts_for_nothing() -> None:
    gate = Gate(None, Networks([]), SignedRequests((SECRET,), None).verify, {}.get)
    gate.admit(asked("GET", "/keys", "Bearer pz_x_y", "127.0.0.1:1"))
    with pytest.raises(Unauthorized):
        gate.admit(asked("GET", "/keys", "Bearer pz_x_y"))


@pytest.mark.parametrize("value", ["10.0.0.1/8", "all", "10.0.0.0/33", "10.0.0.0/8;fd00::/8"])
def test_a_network_that_is_none_is_refused_at_the_start(value: str) -> None:
    with pytest.raises(settings.SettingsError, match=r"networks like 10\.0\.0\.0/8"):
        settings.load(environ={"PULZAR_SECURITY_TRUST": value})


def test_a_clients_token_in_the_environment_is_no_setting() -> None:
    assert settings.load(environ={"PULZAR_TOKEN": "pz_x_y"}) == settings.load(environ={})


# The table


def routes() -> set[tuple[str, str]]:
    """Every route that the master has."""
    app = create_app(
        SimpleNamespace(settings=settings.load(environ={}), ledger=Mock(), job_files=Mock(), secrets=Mock())
    )  # type: ignore[arg-type]
    names = ("archives", "transfers", "deleted", "links", "lifetimes", "restic", "events", "waits")
    hot = worker.routes(Mock(), Mock(), Mock(), Mock(), Mock(), **{name: Mock() for name in names})
    of_page = Values(*[Mock()] * 4, 1.0).routes() | Uploads(*[Mock()] * 3).routes()
    page = set(flask_routes(create_page(Mock()))) | {("GET", path) for path in ("/", "/ui", "/ui/static/<file>")}
    return (
        {(method, path) for path, handlers in (hot | of_page).items() for method in handlers}
        | set(flask_routes(app))
        | page
    )


def test_every_route_has_a_row_and_every_row_a_route() -> None:
    require_rows(routes())
    found = Routes()
    for method, path in routes():
        shape = re.sub(r"<[^>]*>", "x", path)
        assert found.find(method, f"{shape}x" if shape.endswith("/") and shape not in ("/", gates.PAGE) else shape), (
            path
        )
    # One handler takes all paths below /restic/, of which each kind has a row.
    rows = [(method, re.sub("^/restic/.*", "/restic/", path)) for method, path in TABLE]
    require_rows(rows, dict.fromkeys([*routes(), ("GET", "/none")]))  # type: ignore[arg-type]


def test_every_documented_operation_has_a_row_and_every_row_is_documented() -> None:
    methods = ("get", "put", "post", "delete", "head", "patch")
    documented = {
        (method.upper(), path) for path, item in DOCUMENT["paths"].items() for method in item if method in methods
    }
    require_rows(documented)
    api = [(method, path) for method, path in TABLE if path not in ("/", "/ui") and not path.startswith("/ui/")]
    require_rows(api, dict.fromkeys(documented))  # type: ignore[arg-type]


def test_a_route_without_a_row_does_not_start() -> None:
    with pytest.raises(NoRow, match="GET /admin/new"):
        require_rows([("GET", "/keys"), ("GET", "/admin/new")])
    with pytest.raises(NoRow, match="DELETE /keys"):
        require_rows([("DELETE", "/keys")])
