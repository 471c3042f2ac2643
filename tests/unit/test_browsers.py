"""Which pages may use a server, and by which names it is known."""

from __future__ import annotations

import pytest

from broker import settings
from broker.errors import SettingsError
from broker.http.browsers import Browsers, own_origin
from broker.refusals import Forbidden, Misdirected

NAMES = ["0.0.0.0", "Store.Example:31414", "::"]


def asked(method: str = "GET", host: str = "store.example", **headers: str) -> dict[str, str]:
    more = {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    return {"REQUEST_METHOD": method, "HTTP_HOST": host, **more}


@pytest.mark.parametrize(
    "host",
    ["store.example", "STORE.example.:1", "localhost", "a.localhost:5", "127.0.0.1:31414", "[::1]", "[fe80::1]:5", ""],
)
def test_a_name_of_the_server_is_known(host: str) -> None:
    Browsers([], NAMES).check(asked(host=host))


@pytest.mark.parametrize("host", ["store.example.evil", "evil", "1.2.3.4.evil.example", "127.0.0.1.nip.io", "0x7f.1"])
def test_another_name_is_not(host: str) -> None:
    browsers = Browsers(["*"], NAMES)
    for _ in range(2):
        with pytest.raises(Misdirected, match="hosts"):
            browsers.check(asked(host=host))


def test_however_many_names_are_tried_few_are_remembered() -> None:
    browsers = Browsers([], NAMES)
    for number in range(1_000):
        browsers.check(asked(host=f"{number}.localhost"))
    assert len(browsers._seen) <= 256


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH", "put", "BREW"])
def test_methods_that_may_change_something_need_an_origin_of_the_list(method: str) -> None:
    browsers = Browsers(["https://ui.example"], NAMES)
    for origin in ("https://ui.example", "http://store.example", "https://STORE.example"):
        browsers.check(asked(method, origin=origin, sec_fetch_site="cross-site"))
    for headers in ({"origin": "null"}, {"origin": "http://ui.example"}, {"origin": ""}, {"origin": "://"}):
        with pytest.raises(Forbidden, match="cors"):
            browsers.check(asked(method, **headers))
    with pytest.raises(Forbidden, match="another site"):
        browsers.check(asked(method, sec_fetch_site="cross-site"))
    browsers.check(asked(method, origin="null"), sent_here=True)
    browsers.check(asked(method))
    browsers.check(asked(method, sec_fetch_site="same-origin"))


def test_an_empty_host_is_no_origin() -> None:
    with pytest.raises(Forbidden):
        Browsers([], NAMES).check(asked("PUT", host="", origin="http://"))


def test_reading_needs_none_and_without_the_list_nobody_sees_the_response() -> None:
    browsers = Browsers([], NAMES)
    for method in ("GET", "HEAD", "OPTIONS"):
        environ = asked(method, origin="https://evil.example", sec_fetch_site="cross-site")
        browsers.check(environ)
        assert browsers.headers(environ) == [("X-Content-Type-Options", "nosniff")]
        assert browsers.allowed(environ, sent_here=True) == ""


def test_with_a_list_each_origin_is_told_itself() -> None:
    browsers = Browsers(["https://a.example", "https://b.example"], NAMES)
    for origin, told in (("https://a.example", "https://a.example"), ("https://c.example", None), ("null", None)):
        headers = dict(browsers.headers(asked(origin=origin)))
        assert (headers.get("Access-Control-Allow-Origin"), headers["Vary"]) == (told, "Origin")
    sent = dict(browsers.headers(asked(origin="null"), sent_here=True))
    assert (sent["Access-Control-Allow-Origin"], sent["Vary"]) == ("*", "Origin")
    assert "ETag" in sent["Access-Control-Expose-Headers"]


def test_any_origin_is_a_choice() -> None:
    browsers = Browsers(["*"], NAMES)
    environ = asked("DELETE", origin="https://evil.example", sec_fetch_site="cross-site")
    browsers.check(environ)
    assert dict(browsers.headers(environ))["Access-Control-Allow-Origin"] == "*"
    assert "Vary" not in dict(browsers.headers(environ))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CORS", "ui.example"),
        ("CORS", "https://ui.example/"),
        ("CORS", "https://ui.example, *"),
        ("CORS", "HTTPS://UI.example"),
        ("CORS", "null"),
        ("HOSTS", "store.example:80"),
        ("HOSTS", "*"),
        ("HOSTS", "http://store.example"),
    ],
)
def test_a_setting_that_would_match_nothing_is_refused(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=r"with commas|alone"):
        settings.load(environ={f"PULZAR_SERVER_{name}": value})


def test_the_settings_are_lists() -> None:
    environ = {"PULZAR_SERVER_CORS": "https://a.example,http://[::1]:80 ", "PULZAR_SERVER_HOSTS": "a.example, b"}
    loaded = settings.load(environ=environ).server
    assert loaded.cors == ("https://a.example", "http://[::1]:80")
    assert loaded.hosts == ("a.example", "b")
    assert settings.load(environ={"PULZAR_SERVER_CORS": "*"}).server.cors == ("*",)


def test_a_page_may_use_the_address_that_was_made_for_it_and_no_other_page_may() -> None:
    browsers, own = Browsers([], NAMES), "http://ui.example"
    for origin, told in ((own, own), ("http://evil.example", None), ("null", None), ("", None)):
        headers = dict(browsers.headers(asked(origin=origin), sent_here=True, page=own))
        assert headers.get("Access-Control-Allow-Origin") == told
        assert headers["Vary"] == "Origin"
    assert browsers.allowed(asked(origin=""), sent_here=True) == ""


@pytest.mark.parametrize(
    ("host", "origin", "own"),
    [
        ("store.example:1", "https://store.example:1", True),
        ("STORE.example", "http://store.EXAMPLE", True),
        ("store.example", "http://store.example:1", False),
        ("store.example", "http://evil.example", False),
        ("store.example", "null", False),
        ("", "http://", False),
    ],
)
def test_the_origin_of_the_server_s_own_page(host: str, origin: str, own: bool) -> None:
    assert own_origin(asked("POST", host, origin=origin)) == (origin if own else "")
