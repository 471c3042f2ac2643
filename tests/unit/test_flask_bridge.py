"""Flask behind the web server: what its requests are, and what becomes of its responses and errors."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from flask import Flask, abort, request

from broker import settings
from broker.http import responses
from broker.http.responses import Response
from broker.refusals import Conflict, TooLarge
from broker.server.client_timeouts import ClientTimeouts
from broker.server.request import Request
from master.web.flask_routes.app import create_app
from master.web.flask_routes.bridge import MAX_BYTES, Bridge
from master.web.flask_routes.context import ok


class Pieces:
    """A body that comes in pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self.left = list(pieces)

    async def whole(self) -> bytes:
        raise AssertionError("a body is read piece by piece")

    async def piece(self) -> bytes:
        return self.left.pop(0) if self.left else b""

    async def gone(self) -> None:
        raise AssertionError("nobody waits for that")


def make_request(method: str, path: str, body: Pieces, *headers: tuple[str, str]) -> Request:
    return Request(
        body,
        ClientTimeouts(30, 1),
        headers,
        version="1.1",
        method=method,
        path=path,
        query="x=1",
        client="[::1]:5000",
        server="127.0.0.1:31414",
        scheme="http",
    )


def run(application: Any, request: Request, **more: Any) -> Response:
    return asyncio.run(Bridge(application, 2, **more)(request))


class Application:
    """A WSGI application that keeps what it was asked."""

    def __init__(self, *, early: bool = True) -> None:
        self.early = early
        self.environ: dict[str, Any] = {}
        self.body = b""
        self.thread = ""
        self.closed = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Application:
        self.environ, self.body, self.thread = environ, environ["wsgi.input"].read(), threading.current_thread().name
        self.start = lambda: start_response("202 Accepted", [("X-A", "1"), ("X-A", "2")])
        if self.early:
            self.start()
        return self

    def __iter__(self) -> Iterator[bytes]:
        if not self.early:
            self.start()
        yield from (b"one, ", b"two")

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("early", [True, False])
def test_a_response_is_put_together_on_a_thread_and_its_body_closed(early: bool) -> None:
    application = Application(early=early)
    response = run(application, make_request("GET", "/keys", Pieces()))
    assert response == Response(202, [("X-A", "1"), ("X-A", "2")], b"one, two")
    assert application.closed == 1
    assert application.thread.startswith("flask")


def test_the_environment_has_what_wsgi_asks_for() -> None:
    application = Application()
    run(application, make_request("GET", "/keys", Pieces(), ("host", "master:31414"), ("x-a", "b")))
    wanted = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/keys",
        "SCRIPT_NAME": "",
        "QUERY_STRING": "x=1",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "31414",
        "REMOTE_ADDR": "[::1]",
        "REMOTE_PORT": "5000",
        "HTTP_HOST": "master:31414",
        "HTTP_X_A": "b",
        "CONTENT_LENGTH": "0",
        "wsgi.url_scheme": "http",
    }
    assert application.environ.items() >= wanted.items()


@pytest.mark.parametrize("header", [("content-length", "10"), ("transfer-encoding", "chunked")])
def test_a_body_is_whole_before_a_thread_has_the_request(header: tuple[str, str]) -> None:
    application = Application()
    run(application, make_request("POST", "/x", Pieces(b"hello", b"world"), header))
    assert application.body == b"helloworld"
    assert application.environ["CONTENT_LENGTH"] == "10"
    assert "HTTP_TRANSFER_ENCODING" not in application.environ


def test_only_the_body_of_a_post_is_read() -> None:
    application, body = Application(), Pieces(b"hello")
    asked = make_request("DELETE", "/x", body, ("content-length", "5"))
    run(application, asked)
    assert (application.body, body.left, asked.unread) == (b"", [b"hello"], True)


@pytest.mark.parametrize(
    ("header", "left"),
    [(("content-length", str(MAX_BYTES + 1)), 3), (("transfer-encoding", "chunked"), 1)],
    ids=["told", "chunked"],
)
def test_a_body_over_the_limit_is_refused_before_more_of_it_is_read(header: tuple[str, str], left: int) -> None:
    application, body = Application(), Pieces(bytes(MAX_BYTES), b"1", b"2")
    with pytest.raises(TooLarge, match=f"more than {MAX_BYTES} bytes"):
        run(application, make_request("POST", "/x", body, header))
    assert (len(body.left), application.environ) == (left, {})


def test_a_body_of_the_limit_is_taken() -> None:
    application = Application()
    run(application, make_request("POST", "/x", Pieces(bytes(MAX_BYTES)), ("content-length", str(MAX_BYTES))))
    assert len(application.body) == MAX_BYTES


def test_an_error_of_the_application_closes_its_body_and_comes_through() -> None:
    application = Application()
    application.start = Mock(side_effect=OSError("no"))  # type: ignore[method-assign]

    def broken(environ: dict[str, Any], _start_response: Any) -> Application:
        application.early = False
        return application

    with pytest.raises(OSError, match="no"):
        run(broken, make_request("GET", "/x", Pieces()))
    assert application.closed == 1


@pytest.fixture
def flask() -> Flask:
    context = SimpleNamespace(settings=settings.load(environ={}), ledger=Mock(), job_files=Mock(), secrets=Mock())
    app = create_app(context)  # type: ignore[arg-type]

    @app.get("/raise/<name>")
    def fail(name: str) -> Any:
        errors: dict[str, Exception] = {"refused": Conflict("it is there"), "bug": ValueError("secret")}
        if name in errors:
            raise errors[name]
        return abort(int(name), "that is why")

    @app.post("/echo")
    def echo() -> Any:
        return ok(request.get_data(as_text=True), "done", 202)

    return app


def ask(flask: Flask, method: str, path: str) -> tuple[int, dict[str, str], Any]:
    response = run(flask.wsgi_app, make_request(method, path, Pieces(b"body"), ("content-length", "4")))
    return response.status, dict(response.headers), json.loads(response.body) if response.body else None


def test_the_envelope_of_flask_is_that_of_the_hot_routes(flask: Flask) -> None:
    response = run(flask.wsgi_app, make_request("POST", "/echo", Pieces(b"body"), ("content-length", "4")))
    hot = responses.make_plain(202, "body", "done", [])
    assert (response.status, json.loads(response.body)) == (hot.status, json.loads(hot.body))
    # And the headers are the same, but for the length: lists have no blanks
    told, hot_told = (
        {name: text for name, text in headers if name != "Content-Length"}
        for headers in (response.headers, hot.headers)
    )
    assert told == hot_told


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/nothing", 404, "no such path: /nothing; see /openapi.json for those there are"),
        ("/raise/refused", 409, "it is there"),
        ("/raise/418", 418, "that is why"),
        ("/raise/bug", 500, "something went wrong in the master; its log says what"),
    ],
)
def test_an_error_of_flask_becomes_the_same_response_as_elsewhere(
    flask: Flask, path: str, status: int, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    found, headers, envelope = ask(flask, "GET", path)
    assert (found, envelope) == (status, {"data": None, "msg": message, "status": "ko"})
    assert headers["X-Frame-Options"] == "DENY"
    assert ("request failed" in caplog.text and "ValueError: secret" in caplog.text) == (status == 500)
    assert ask(flask, "HEAD", path)[::2] == (status, None)


def test_a_wrong_method_is_405_with_those_that_are_right(flask: Flask) -> None:
    status, headers, envelope = ask(flask, "POST", "/admin/status")
    assert (status, set(headers["Allow"].split(", "))) == (405, {"GET", "HEAD", "OPTIONS"})
    assert envelope["msg"] == f"POST is not possible on /admin/status; {headers['Allow']} is"


@pytest.mark.parametrize("length", [True, False])
def test_a_body_that_may_be_longer_waits_in_a_file_that_is_gone_afterwards(tmp_path: Path, length: bool) -> None:
    app = Flask("test")
    app.add_url_rule("/long", view_func=lambda: ok(len(request.get_data())), methods=["POST"])
    pieces = [b"x" * 65_536] * 40
    limit = 65_536 * 40

    def sent(path: str, most: int) -> Response:
        headers = [("content-length", str(limit))] if length else [("transfer-encoding", "chunked")]
        limits = {"most": lambda asked: most if asked == "/long" else MAX_BYTES, "directory": tmp_path}
        return run(app.wsgi_app, make_request("POST", path, Pieces(*pieces), *headers), **limits)

    assert json.loads(sent("/long", limit).body)["data"] == limit
    with pytest.raises(TooLarge, match=f"more than {limit - 1} bytes"):
        sent("/long", limit - 1)
    with pytest.raises(TooLarge, match=f"more than {MAX_BYTES} bytes"):
        sent("/other", limit)
    assert list(tmp_path.iterdir()) == []
