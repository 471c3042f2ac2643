"""What pages in browsers may do, with and without a browser: `Origin`, `Sec-Fetch-Site`, `Host`, CORS."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from ops.cluster import Cluster
from tests.integration import chromium
from tests.integration.chromium import Chromium
from tests.integration.wire import Client, good, payload, refused, target_of
from tests.support import Clusters, unique, wait_for

VALUE = b"a value"
LARGE = 2_000_000  # bytes: such a value goes to a node, and is read there
needs_chromium = pytest.mark.skipif(chromium.PROGRAM is None, reason="needs Debian's chromium")

FOREIGN = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Sec-Fetch-Site": "cross-site"},
]
CHANGES = [
    ("PUT", "/add_key/{key}?overwrite=1"),
    ("DELETE", "/delete_key/{key}"),
    ("PUT", "/get_node/{key}"),
    ("POST", "/launch_job/example/factorial"),
    ("POST", "/cancel_job/1"),
    ("POST", "/internal/restore"),
    ("PUT", "/extension/example/a"),
    ("DELETE", "/admin/network/node-1?keys=1"),
    ("PATCH", "/nothing"),
]


def jobs(master: Client) -> int:
    return sum(len(rows) for rows in good(master.request("GET", "/admin/jobs")).values())


@pytest.fixture
def key(master: Client) -> str:
    name = unique()
    good(master.put(name, VALUE), 201)
    return name


# Without a browser: every route.


@pytest.mark.parametrize("foreign", FOREIGN, ids=str)
@pytest.mark.parametrize(("method", "path"), CHANGES)
def test_a_foreign_page_changes_nothing(
    master: Client, key: str, method: str, path: str, foreign: dict[str, str]
) -> None:
    before = jobs(master)
    answer = master.request(method, path.format(key=key), b'{"number": 3}', foreign)
    assert "[server] cors" in refused(answer, 403)
    assert "access-control-allow-origin" not in answer.headers
    assert (master.get(key).body, jobs(master)) == (VALUE, before)


def test_the_servers_own_pages_and_programs_may_change_keys(master: Client) -> None:
    for headers in (
        {},
        {"Origin": f"http://{master.host}"},
        {"Origin": f"https://{master.host.upper()}"},
        {"Sec-Fetch-Site": "same-origin", "Origin": f"http://{master.host}"},
        {"Sec-Fetch-Site": "none"},
    ):
        good(master.put(unique(), VALUE, headers=headers), 201)


def test_a_foreign_page_may_read_no_response(cluster: Cluster, master: Client, key: str) -> None:
    node = good(master.put(unique(), payload(LARGE)), 201)["url"]
    with Client(node) as other:
        for client, path in (
            (master, f"/get_key/{key}"),
            (master, "/keys"),
            (master, "/nothing"),
            (other, target_of(node)),
            (other, "/health"),
        ):
            answer = client.request("GET", path, headers={"Origin": "https://evil.example"})
            assert not [name for name in answer.headers if name.startswith("access-control-")], path
            assert answer.headers["x-content-type-options"] == "nosniff"
            asking = {"Origin": "https://evil.example", "Access-Control-Request-Method": "PUT"}
            asked = client.request("OPTIONS", path, headers=asking)
            assert asked.status == 204
            assert not [name for name in asked.headers if name.startswith("access-control-")], path


def test_what_is_no_value_can_be_in_no_frame(cluster: Cluster, master: Client, key: str) -> None:
    with Client(cluster.nodes[0].url) as node:
        for client, path in ((master, "/keys"), (master, "/admin/status"), (master, "/nothing"), (node, "/health")):
            assert client.request("GET", path).headers["x-frame-options"] == "DENY"
    assert master.get(key).headers["content-security-policy"] == "sandbox; default-src 'none'"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:31414", "localhost.evil.example", "master"])
def test_a_host_that_is_no_name_of_the_server_is_421(cluster: Cluster, master: Client, key: str, host: str) -> None:
    for url in (cluster.master_url, cluster.nodes[0].url):
        with Client(url) as client:
            client.host = host
            for method, path in (("GET", f"/get_key/{key}"), ("GET", "/health"), ("OPTIONS", "/keys")):
                assert "[server] hosts" in client.request(method, path).body.decode(), (url, method, path)
                assert client.request(method, path).status == 421
    client = Client(cluster.master_url)
    client.host = host
    refused(client.request("DELETE", f"/delete_key/{key}"), 421)
    client.close()
    assert master.get(key).body == VALUE


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost:1", "LOCALHOST.", "pulzar.localhost", "[::1]:31414", "10.0.0.5", "{own}"]
)
def test_a_server_is_known_by_its_own_names_and_by_addresses(cluster: Cluster, host: str) -> None:
    for url in (cluster.master_url, cluster.nodes[0].url):
        with Client(url) as client:
            client.host = host.format(own=socket.gethostname())
            assert client.request("GET", "/health").status == 200


# With origins that may use it.

UI = "https://ui.example"


@pytest.fixture(scope="module")
def site() -> Iterator[int]:
    with chromium.site() as port:
        yield port


@pytest.fixture(scope="module")
def open_cluster(make_shared_cluster: Clusters, site: int) -> Cluster:
    origins = f"{UI}, http://localhost:{site}"
    return make_shared_cluster(env={"PULZAR_SERVER_CORS": origins, "PULZAR_SERVER_HOSTS": "store.example"})


def test_origins_of_the_list_are_answered_one_by_one(open_cluster: Cluster) -> None:
    with Client(open_cluster.master_url) as master, Client(open_cluster.nodes[0].url) as node:
        key = unique()
        stored = master.put(key, VALUE, headers={"Origin": UI})
        good(stored, 201)
        assert stored.headers["access-control-allow-origin"] == UI
        for client, path in ((master, f"/get_key/{key}"), (master, "/keys"), (master, "/no"), (node, "/health")):
            for origin in (UI, "https://evil.example", "null", None):
                answer = client.request("GET", path, headers={"Origin": origin} if origin else {})
                allowed = answer.headers.get("access-control-allow-origin")
                assert allowed == (UI if origin == UI else None), (path, origin)
                assert answer.headers["vary"] == "Origin"
        refused(master.put(key, b"other", "?overwrite=1", {"Origin": "https://evil.example"}), 403)
        refused(master.put(key, b"other", "?overwrite=1", {"Origin": f"{UI}.evil.example"}), 403)
        asking = {"Origin": UI, "Access-Control-Request-Method": "DELETE"}
        asked = master.request("OPTIONS", f"/delete_key/{key}", headers=asking)
        assert asked.headers["access-control-allow-origin"] == UI
        assert "DELETE" in asked.headers["access-control-allow-methods"]
        assert "Authorization" in asked.headers["access-control-allow-headers"]
        assert master.get(key).body == VALUE


def test_names_of_the_list_are_known(open_cluster: Cluster) -> None:
    for url in (open_cluster.master_url, open_cluster.nodes[0].url):
        with Client(url) as client:
            client.host = "store.example"
            assert client.request("GET", "/health").status == 200
            client.host = "other.example"
            assert client.request("GET", "/health").status == 421


# In a browser.

TRIES = """
const tried = {};
const attempt = async (name, url, options) => {
  try {
    const answer = await fetch(MASTER + url, options);
    tried[name] = answer.type === "opaque" ? "opaque" : answer.status + " " + (await answer.text()).slice(0, 100);
  } catch (error) { tried[name] = error.name; }
};
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    made = Chromium(tmp_path_factory.mktemp("chromium"))
    yield made
    made.close()


def in_page(browser: Chromium, cluster: Cluster, script: str) -> Any:
    return browser.run(f"const MASTER = {json.dumps(cluster.master_url)}; {TRIES} {script} return tried;")


@needs_chromium
def test_in_a_browser_a_foreign_page_reads_and_changes_nothing(
    cluster: Cluster, master: Client, key: str, browser: Chromium, site: int
) -> None:
    # Given a page of another site, and a key and a large one in the store
    large, before = unique(), jobs(master)
    good(master.put(large, payload(LARGE)), 201)
    browser.open(f"http://localhost:{site}/")
    # When it reads
    tried = in_page(
        browser,
        cluster,
        f"""
        for (const url of ["/keys", "/get_key/{key}", "/get_key/{large}", "/get_node/{key}", "/admin/status"]) {{
          await attempt(url, url, {{}});
          await attempt("blind " + url, url, {{ mode: "no-cors" }});
        }}
        """,
    )
    # Then it sees nothing
    assert {name: seen for name, seen in tried.items() if seen not in ("TypeError", "opaque")} == {}
    # When it writes, deletes, launches and restores, as pages may without asking first and by asking
    tried = in_page(
        browser,
        cluster,
        f"""
        const plain = {{ method: "POST", mode: "no-cors", body: '{{"number": 3}}' }};
        for (const url of ["/launch_job/example/factorial", "/internal/restore", "/cancel_job/1"]) {{
          await attempt("blind " + url, url, plain);
          await attempt(url, url, {{ method: "POST", body: "{{}}" }});
        }}
        await attempt("put", "/add_key/{key}?overwrite=1", {{ method: "PUT", body: "evil" }});
        await attempt("new", "/add_key/{key}.new", {{ method: "PUT", body: "evil" }});
        await attempt("delete", "/delete_key/{key}", {{ method: "DELETE" }});
        const form = document.createElement("form");
        const frame = document.createElement("iframe");
        frame.name = form.target = "there";
        form.method = "post"; form.enctype = "text/plain";
        form.action = MASTER + "/launch_job/example/factorial";
        document.body.append(frame, form);
        const loaded = new Promise((resolve) => (frame.onload = resolve));
        form.submit();
        await loaded;
        """,
    )
    assert {name: seen for name, seen in tried.items() if seen not in ("TypeError", "opaque")} == {}
    # Then nothing has changed
    assert master.get(key).body == VALUE
    refused(master.get(f"{key}.new"), 404)
    assert master.get(large).body == payload(LARGE)
    assert jobs(master) == before
    assert not any(row["restoring"] for row in good(master.request("GET", "/internal/restore"))["nodes"])


@needs_chromium
@pytest.mark.parametrize("framed", ["/admin/status", "/nothing", "/openapi.json", "/extension/example/psize"])
def test_in_a_browser_no_page_has_the_master_in_a_frame(
    cluster: Cluster, browser: Chromium, site: int, framed: str
) -> None:
    browser.open(f"http://localhost:{site}/")
    in_page(
        browser,
        cluster,
        f"const FRAMED = '{framed}';"
        """
        const frame = document.createElement("iframe");
        const loaded = new Promise((resolve) => (frame.onload = frame.onerror = resolve));
        frame.src = MASTER + FRAMED;
        document.body.append(frame);
        await loaded;
        """,
    )
    frames = wait_for(browser.frames, what="the frame")
    assert all(text.startswith("chrome-error://") and "psize" not in text for text in frames), frames


@needs_chromium
def test_in_a_browser_a_name_that_leads_here_is_of_no_use(
    cluster: Cluster, master: Client, key: str, browser: Chromium
) -> None:
    # Given a page at a foreign name and the master's port: to the browser they are of one origin
    port = urlsplit(cluster.master_url).port
    browser.open(f"http://evil.example:{port}/health")
    tried = browser.run(
        f"""
        const read = await fetch("/get_key/{key}");
        const gone = await fetch("/delete_key/{key}", {{ method: "DELETE" }});
        return [read.status, await read.text(), gone.status];
        """
    )
    assert (tried[0], tried[2]) == (421, 421)
    assert VALUE.decode() not in tried[1]
    assert master.get(key).body == VALUE


@needs_chromium
def test_in_a_browser_pages_of_the_list_work_also_through_redirects(
    open_cluster: Cluster, browser: Chromium, site: int
) -> None:
    key = unique()
    browser.open(f"http://localhost:{site}/")
    tried = in_page(
        browser,
        open_cluster,
        f"""
        await attempt("put", "/add_key/{key}", {{ method: "PUT", body: "small" }});
        await attempt("get", "/get_key/{key}", {{}});
        await attempt("large", "/add_key/{key}.large", {{ method: "PUT", body: "x".repeat({LARGE}) }});
        await attempt("read large", "/get_key/{key}.large", {{}});
        const told = await (await fetch(MASTER + "/get_node/{key}.direct")).json();
        const direct = await fetch(told.data.node, {{ method: "PUT", body: "y".repeat({LARGE}) }});
        tried.direct = direct.status + "";
        await attempt("delete", "/delete_key/{key}", {{ method: "DELETE" }});
        """,
    )
    told = {name: seen[:6] for name, seen in tried.items()}
    assert told == {
        "put": '201 {"',
        "get": "200 sm",
        "large": '201 {"',
        "read large": "200 xx",
        "direct": "201",
        "delete": '200 {"',
    }, tried
