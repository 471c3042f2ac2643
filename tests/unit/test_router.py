"""Which handler a request gets, and what the hot routes of the master make of errors."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from broker.errors import InvalidKey
from broker.http import responses
from broker.http.browsers import Browsers
from broker.http.responses import Response
from broker.http.router import Router
from broker.refusals import MethodNotAllowed, NotFound, Unauthorized, Unavailable
from broker.server.client_timeouts import ClientTimeouts
from broker.server.request import Request
from master.security.gate import Gate
from master.web.application import Application

ROUTES = {
    "/get_key/": {"GET": "read", "HEAD": "read"},
    "/internal/commit/": {"POST": "commit"},
    "/health": {"GET": "health"},
}


@pytest.mark.parametrize(
    ("method", "path", "found"),
    [
        ("GET", "/get_key/a", "read"),
        ("HEAD", "/get_key/a/b", "read"),
        ("GET", "/get_key/", "read"),
        ("POST", "/internal/commit/a/b", "commit"),
        ("GET", "/health", "health"),
        ("GET", "/get_key", None),
        ("GET", "/get_keys", None),
        ("GET", "/get_keys/a", None),
        ("GET", "/health/", None),
        ("GET", "/health/a", None),
        ("GET", "/internal/commits", None),
        ("GET", "/internal/", None),
        ("GET", "get_key/a", None),
        ("GET", "/", None),
        ("GET", "//", None),
        ("GET", "*", None),
        ("GET", "", None),
    ],
)
def test_a_path_has_its_own_handler_or_none(method: str, path: str, found: str | None) -> None:
    assert Router(ROUTES).handler(path, method) == found


@pytest.mark.parametrize(
    ("method", "path", "allowed", "shown"),
    [
        ("PUT", "/get_key/a", "GET, HEAD, OPTIONS", "/get_key/…"),
        ("get", "/get_key/a", "GET, HEAD, OPTIONS", "/get_key/…"),
        ("GET", "/internal/commit/a", "OPTIONS, POST", "/internal/commit/…"),
        ("PUT", "/health", "GET, OPTIONS", "/health"),
    ],
)
def test_a_method_that_a_path_has_not_is_refused_with_those_it_has(
    method: str, path: str, allowed: str, shown: str
) -> None:
    with pytest.raises(MethodNotAllowed) as error:
        Router(ROUTES).handler(path, method)
    assert error.value.headers == [("Allow", allowed)]
    assert str(error.value) == f"{method} is not possible on {shown}; {allowed} is"


def test_options_tells_the_methods_of_a_path_and_all_of_one_without_a_route() -> None:
    router = Router(ROUTES)
    for path, allowed in (
        ("/get_key/a", "GET, HEAD, OPTIONS"),
        ("/internal/commit/a", "OPTIONS, POST"),
        ("/health", "GET, OPTIONS"),
        ("/nothing", ", ".join(responses.ALL_METHODS)),
        ("*", ", ".join(responses.ALL_METHODS)),
    ):
        assert dict(router.options(path, page=False).headers)["Allow"] == allowed


class Headers(list[tuple[str, str]]):
    """The headers of a request, as RSGI gives them."""

    def keys(self) -> list[str]:
        return [name for name, _ in self]

    def items(self) -> list[tuple[str, str]]:
        return list(self)


class Site:
    """The hot application with two routes, and Flask behind them."""

    def __init__(self) -> None:
        self.handled: list[Request] = []
        self.error: Exception | None = None
        router = Router({"/get_key/": {"GET": self.handle, "HEAD": self.handle}, "/slow/": {"GET": self.handle_later}})
        self.gate = Mock(spec=Gate)
        self.application = Application(
            router,
            self.flask,  # type: ignore[arg-type]
            Mock(),
            ClientTimeouts(5, 1),
            browsers=Browsers(["*"], []),
            gate=self.gate,
            audit=None,
            page_of_error=lambda _error, _environ: None,
            on_loop=lambda _loop: None,
        )

    def handle(self, request: Request) -> Response:
        self.handled.append(request)
        if self.error:
            raise self.error
        return responses.make_plain(200, None, "hot", [])

    async def handle_later(self, request: Request) -> Response:
        return self.handle(request)

    def flask(self, _request: Request) -> Response:
        return responses.make_plain(200, None, "flask", [])

    def ask(self, method: str, path: str, *headers: tuple[str, str]) -> tuple[int, dict[str, str], bytes]:
        scope = SimpleNamespace(method=method, path=path, headers=Headers(headers))
        scope.http_version, scope.query_string, scope.client, scope.server = "1.1", "", "127.0.0.1:5", "127.0.0.1:6"
        scope.scheme = "http"
        protocol = Mock()
        asyncio.run(self.application.__rsgi__(scope, protocol))  # type: ignore[arg-type]
        ((status, said, body),) = [call.args for call in protocol.response_bytes.call_args_list]
        return status, dict(said), body

    def message(self, method: str, path: str) -> tuple[int, Any]:
        status, _, body = self.ask(method, path)
        return status, json.loads(body)["msg"]


def test_what_has_no_hot_route_is_left_to_flask() -> None:
    site = Site()
    assert site.message("GET", "/get_key/a") == (200, "hot")
    assert site.message("GET", "/slow/a") == (200, "hot")
    for path in ("/get_keys", "/get_key", "/slower", "/admin/status", "/"):
        assert site.message("GET", path) == (200, "flask")


@pytest.mark.parametrize("path", ["/get_key/a", "/slow/a"])
@pytest.mark.parametrize(
    ("error", "status", "message", "headers"),
    [
        (NotFound("there is no key a"), 404, "there is no key a", {}),
        (Unavailable("busy"), 503, "busy", {"Retry-After": "1"}),
        (InvalidKey("the key is empty"), 400, "the key is empty", {}),
        (ValueError("secret"), 500, "something went wrong in the master; its log says what", {}),
    ],
)
def test_an_error_becomes_a_response_in_the_envelope(
    path: str, error: Exception, status: int, message: str, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    site = Site()
    site.error = error
    found, said, body = site.ask("GET", path)
    assert (found, json.loads(body)) == (status, {"data": None, "msg": message, "status": "ko"})
    assert said.items() >= ({"Access-Control-Allow-Origin": "*", "X-Content-Type-Options": "nosniff"} | headers).items()
    assert ("request failed" in caplog.text and "ValueError: secret" in caplog.text) == (status == 500)


def test_an_error_of_a_head_has_no_body() -> None:
    site = Site()
    site.error = NotFound("there is no key a")
    status, said, body = site.ask("HEAD", "/get_key/a")
    assert (status, body) == (404, b"")
    assert int(said["Content-Length"]) > 0


@pytest.mark.parametrize("path", ["/get_key/a", "/keys", "/nothing"])
def test_a_request_that_is_not_let_in_reaches_no_handler(path: str) -> None:
    site = Site()
    site.gate.admit.side_effect = Unauthorized("no token was received")
    status, said, body = site.ask("GET", path)
    assert (status, json.loads(body)["msg"], site.handled) == (401, "no token was received", [])
    assert said["WWW-Authenticate"] == 'Bearer realm="pulzar", Basic realm="pulzar"'
    assert said["X-Content-Type-Options"] == "nosniff"


def test_a_request_with_bad_headers_reaches_no_handler() -> None:
    site = Site()
    status, _, body = site.ask("GET", "/get_key/a", ("host", "two,hosts"))
    assert (status, site.handled) == (400, [])
    assert "hosts were received" in json.loads(body)["msg"]


def test_options_is_answered_before_any_handler() -> None:
    site = Site()
    status, said, body = site.ask("OPTIONS", "/get_key/a")
    assert (status, said["Allow"], body) == (204, "GET, HEAD, OPTIONS", b"")
    assert site.ask("OPTIONS", "/nothing")[1]["Allow"] == ", ".join(responses.ALL_METHODS)
    assert not site.handled
