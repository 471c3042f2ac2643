"""The paths of restic's protocol: which key a file has, and which right a request needs."""

from __future__ import annotations

import pytest

from broker.refusals import BadRequest
from master.security.restic_paths import Place, parse
from master.security.rights import Right
from master.security.routes import Routes

NAME = "0f" * 32


@pytest.mark.parametrize(
    ("path", "place", "key"),
    [
        ("/restic/laptop/", Place("laptop"), "restic/laptop/"),
        ("/restic/laptop", Place("laptop"), "restic/laptop/"),
        ("/restic/office/pc.7/", Place("office/pc.7"), "restic/office/pc.7/"),
        ("/restic/laptop/config", Place("laptop", "config"), "restic/laptop/config"),
        ("/restic/laptop/locks/", Place("laptop", "locks"), "restic/laptop/locks/"),
        ("/restic/a/b/index", Place("a/b", "index"), "restic/a/b/index/"),
        (f"/restic/a/b/data/{NAME}", Place("a/b", "data", NAME), f"restic/a/b/data/{NAME}"),
        (f"/restic/a/keys/{NAME}", Place("a", "keys", NAME), f"restic/a/keys/{NAME}"),
    ],
)
def test_a_path_says_which_key_is_meant(path: str, place: Place, key: str) -> None:
    assert parse(path) == place
    assert place.key == key


@pytest.mark.parametrize(
    "path",
    [
        "/restic/",
        "/restic//",
        "/restic/config",
        "/restic/data/",
        f"/restic/data/{NAME}",
        f"/restic/../data/{NAME}",
        f"/restic/.hidden/data/{NAME}",
        f"/restic/a//data/{NAME}",
        f"/restic/a b/data/{NAME}",
        f"/restic/ü/data/{NAME}",
        f"/restic/{'a' * 65}/data/{NAME}",
        f"/restic/a/b/c/d/e/data/{NAME}",
        f"/restic/a/data/{NAME[:-1]}",
        f"/restic/a/data/{NAME.upper()}",
        f"/restic/a/data/{NAME}/{NAME}",
        "/restic/a/data/../config",
    ],
)
def test_other_paths_are_refused(path: str) -> None:
    with pytest.raises(BadRequest, match="restic"):
        parse(path)


@pytest.mark.parametrize(
    ("method", "path", "right"),
    [
        ("GET", f"data/{NAME}", "read"),
        ("HEAD", "config", "read"),
        ("GET", "snapshots/", "read"),
        ("POST", "", "write"),
        ("POST", f"locks/{NAME}", "write"),
        ("DELETE", f"locks/{NAME}", "write"),
        ("DELETE", f"snapshots/{NAME}", "delete"),
        ("DELETE", "config", "delete"),
    ],
)
def test_each_request_needs_the_right_for_its_key(method: str, path: str, right: str) -> None:
    environ = {"PATH_INFO": f"/restic/laptop/{path}", "REQUEST_METHOD": method, "QUERY_STRING": ""}
    found = Routes().find(method, environ["PATH_INFO"])
    assert found is not None
    assert found.row.need is not None
    assert found.row.need(environ, found.prefix) == (Right(right, f"restic/laptop/{path}"),)
