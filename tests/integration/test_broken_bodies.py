"""Bodies that are cut off or malformed: nothing may come of them, whoever is asked, also when the client stays."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest

from ops.cluster import Cluster
from tests.integration.wire import Client, Closed, good, payload, refused, target_of
from tests.support import Clusters, unique, wait_for

CHUNKED = "Transfer-Encoding: chunked"

# What comes after a good head; none of these is a whole chunked body.
MALFORMED = {
    "a bad size in the first chunk": b"zz\r\nhello\r\n0\r\n\r\n",
    "a bad size in the second chunk": b"5\r\nhello\r\nzz\r\n",
    "more bytes than the size": b"5\r\nhello!!\r\n0\r\n\r\n",
    "a line that ends without a carriage return": b"5\nhello\n0\n\n",
    "a size too large for any number": b"fffffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "a negative size": b"-5\r\nhello\r\n0\r\n\r\n",
}
CUT_OFF = {
    "in a chunk": b"5\r\nhel",
    "between chunks": b"5\r\nhello\r\n",
    "in the last chunk": b"5\r\nhello\r\n0\r\n",
}
Send = Callable[[str, bytes], Client]


@pytest.fixture(params=["master", "node"])
def send(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Send]:
    """Sends the head of a PUT of a key, to a master or a node, and what comes after it."""
    clients: list[Client] = []

    def begin(key: str, body: bytes) -> Client:
        url = f"{cluster.master_url}/add_key/{key}"
        if request.param == "node":
            with Client(cluster.master_url) as master:
                url = good(master.request("GET", f"/get_node/{key}"))["node"]
        client = Client(url)
        clients.append(client)
        client.send(f"PUT {target_of(url)} HTTP/1.1\r\nHost: {client.host}\r\n{CHUNKED}\r\n\r\n".encode() + body)
        return client

    yield begin
    for client in clients:
        client.close()


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_chunked_body_is_refused_and_not_stored(send: Send, master: Client, body: bytes) -> None:
    key = unique()
    client = send(key, body)
    answer = client.receive("PUT")
    assert "malformed" in refused(answer, 400)
    assert answer.headers["connection"] == "close"
    refused(master.get(key), 404)


@pytest.mark.parametrize("size", [2 << 20])
def test_a_large_chunked_body_with_a_bad_end_is_refused_and_not_stored(send: Send, master: Client, size: int) -> None:
    key, value = unique(), payload(size)
    client = send(key, b"%x\r\n%s\r\nnonsense\r\n" % (size, value))
    refused(client.receive("PUT"), 400)
    refused(master.get(key), 404)


@pytest.mark.parametrize("body", CUT_OFF.values(), ids=CUT_OFF)
@pytest.mark.parametrize("how", ["closes", "resets", "says the end"])
def test_a_chunked_body_that_is_cut_off_is_not_stored(
    send: Send, master: Client, cluster: Cluster, body: bytes, how: str
) -> None:
    key = unique()
    client = send(key, body)
    {"closes": client.close, "resets": client.reset, "says the end": client.finish_sending}[how]()
    # Whatever became of it has become of it when another client of the same key is answered.
    good(master.put(key, b"other"), 201)
    assert master.get(key).body == b"other"
    wait_for(
        lambda: not [path for node in cluster.nodes for path in (node.directory / "staging").iterdir()],
        what="what was received is removed",
    )
    assert master.get(key).body == b"other"


def test_a_chunked_body_with_extensions_of_its_chunks_is_good(send: Send, master: Client) -> None:
    key = unique()
    good(send(key, b'5;name=value\r\nhello\r\n1;a="b c"\r\n!\r\n0;last\r\n\r\n').receive("PUT"), 201)
    assert master.get(key).body == b"hello!"


def test_a_body_with_trailers_is_whole_or_refused_but_never_cut(send: Send, master: Client) -> None:
    key = unique()
    answer = send(key, b"5\r\nhello\r\n0\r\nX-Checksum: abc\r\n\r\n").receive("PUT")
    if answer.status == 201:
        assert master.get(key).body == b"hello"
    else:
        assert "trailers" in refused(answer, 400)
        refused(master.get(key), 404)


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_a_launch_with_a_malformed_body_launches_nothing(master: Client, body: bytes) -> None:
    before = good(master.request("GET", "/admin/all_jobs?limit=1"))
    head = f"POST /launch_job/example/factorial HTTP/1.1\r\nHost: {master.host}\r\n{CHUNKED}\r\n\r\n"
    refused(master.raw(head.encode() + body, "POST"), 400)
    assert good(master.request("GET", "/admin/all_jobs?limit=1")) == before


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_an_extension_is_not_run_with_a_malformed_body(
    make_shared_cluster: Clusters, extension_cluster: Cluster, body: bytes
) -> None:
    with Client(extension_cluster.master_url) as client:
        head = f"PUT /extension/seen/x HTTP/1.1\r\nHost: {client.host}\r\n{CHUNKED}\r\n\r\n"
        refused(client.raw(head.encode() + body, "PUT"), 400)
    with Client(extension_cluster.master_url) as client:
        assert good(client.request("PUT", "/extension/seen/x", [b"whole"])) == {"runs": 1, "body": "whole"}
        good(client.request("PUT", "/extension/seen/again", b""))


@pytest.fixture(scope="module")
def extension_cluster(make_shared_cluster: Clusters, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """A cluster with an extension that counts its runs and tells the body; `again` makes it begin anew."""
    folder = tmp_path_factory.mktemp("extensions")
    (folder / "seen.py").write_text(
        "from pathlib import Path\n"
        "from extensions import Extension\n"
        "class Seen(Extension):\n"
        "    def execute(self):\n"
        "        count = Path(__file__).with_name('count')\n"
        "        if self.arguments == ['again']:\n"
        "            count.write_text('')\n"
        "            return []\n"
        "        with count.open('a') as file:\n"
        "            file.write('x')\n"
        "        return {'runs': len(count.read_text()), 'body': Path(self.file_path).read_text()}\n"
    )
    return make_shared_cluster(nodes=1, env={"PULZAR_EXTENSIONS_DIR": str(folder)})


# HTTP/2


def test_http_2_is_not_spoken(cluster: Cluster, master: Client) -> None:
    with Client(cluster.master_url) as client:
        client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        try:
            answer = client.receive()
        except Closed:
            return
        assert answer.status in (400, 505)


@pytest.mark.parametrize("where", ["master", "node"])
def test_curl_that_insists_on_http_2_stores_nothing(cluster: Cluster, master: Client, where: str) -> None:
    key = unique()
    url = f"{cluster.master_url}/add_key/{key}"
    if where == "node":
        url = good(master.request("GET", f"/get_node/{key}"))["node"]
    command = ["curl", "-sS", "--max-time", "20", "--http2-prior-knowledge", "-X", "PUT", "-T", "-", url]
    done = subprocess.run(command, input=b"value", capture_output=True, check=False)
    assert done.returncode != 0
    refused(master.get(key), 404)
