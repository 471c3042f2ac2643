"""The extension image, through the master: pictures in larger ones, of this store and of other servers."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import numpy as np
import pytest
from PIL import Image

from ops.cluster import Cluster, Rabbit
from tests.pictures import cut, packed, reply, scene, serving
from tests.support import Answer, Clusters, get, http_request, put, unique

BOX = (233, 117, 120, 90)
PLACE = {"x": 233, "y": 117, "w": 120, "h": 90}


def match(cluster: Cluster, picture: bytes, url: str, app: str = "image", **params: Any) -> Answer:
    query = urlencode({"image_url": url} | params)
    return http_request("PUT", f"{cluster.master_url}/extension/{app}/part.png?{query}", picture, timeout=60)


def stored(cluster: Cluster, data: bytes, name: str = "base.png") -> str:
    """The address of a picture that is a key of the store."""
    key = unique(name)
    assert put(cluster, key, data).status == 201
    return f"{cluster.master_url}/get_key/{quote(key)}"


@pytest.fixture(scope="module")
def base() -> Image.Image:
    return scene()


@pytest.fixture(scope="module")
def base_url(cluster: Cluster, base: Image.Image) -> str:
    """The larger picture, a key of the store whose GET is a redirect to its node."""
    url = stored(cluster, packed(base))
    assert http_request("GET", url, redirects=0).status in (302, 307)
    return url


@pytest.fixture(scope="module")
def part(base: Image.Image) -> bytes:
    return packed(cut(base, *BOX))


@pytest.mark.parametrize("app", ["image", "imagematching"])
def test_a_part_is_found_at_its_place(cluster: Cluster, base_url: str, part: bytes, app: str) -> None:
    answer = match(cluster, part, base_url, app, percent=90)
    assert (answer.status, answer.msg) == (200, "ok")
    assert answer.data == {"found": True, "percent_of_match": 0.9, "score": 1.0, "coordinates": PLACE, "msg": None}


@pytest.mark.parametrize(("percent", "fraction"), [({}, 0.8), ({"percent": "100"}, 1.0), ({"percent": "10"}, 0.1)])
def test_the_percentage_is_80_unless_another_one_is_asked_for(
    cluster: Cluster, base_url: str, part: bytes, percent: dict[str, str], fraction: float
) -> None:
    data = match(cluster, part, base_url, **percent).data
    assert (data["found"], data["percent_of_match"], data["coordinates"]) == (True, fraction, PLACE)


def test_the_corners_and_the_whole_are_places_too(cluster: Cluster, base: Image.Image, base_url: str) -> None:
    width, height = base.size
    for box in ((0, 0, 70, 50), (width - 70, height - 50, 70, 50), (0, height - 50, width, 50), (0, 0, width, height)):
        data = match(cluster, packed(cut(base, *box)), base_url, percent=99).data
        assert data["coordinates"] == dict(zip("xywh", box, strict=True))


def test_what_is_not_in_it_is_not_found(cluster: Cluster, base_url: str) -> None:
    other = packed(cut(scene(seed=2), *BOX))
    data = match(cluster, other, base_url).data
    assert (data["found"], data["coordinates"], data["percent_of_match"]) == (False, {}, 0.8)
    assert 0 <= data["score"] < 0.8
    assert data["msg"].startswith("not found: the best place reaches ")
    assert data["msg"].endswith("80.00% was asked for")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP"])
def test_formats_may_differ_and_loss_costs_little(
    cluster: Cluster, base: Image.Image, part: bytes, format: str
) -> None:
    url = stored(cluster, packed(base, format), f"base.{format.lower()}")
    data = match(cluster, part, url, percent=90).data
    assert (data["found"], data["coordinates"]) == (True, PLACE)
    again = match(cluster, packed(cut(base, *BOX), format), url, percent=90).data
    assert (again["found"], again["coordinates"]) == (True, PLACE)


def test_alpha_grey_and_16_bits_are_compared(cluster: Cluster, base: Image.Image) -> None:
    # Given a picture that becomes transparent to the right
    seen = base.convert("RGBA")
    seen.putalpha(Image.linear_gradient("L").rotate(90).resize(base.size))
    data = match(cluster, packed(cut(seen, *BOX)), stored(cluster, packed(seen)), percent=99).data
    assert data["coordinates"] == PLACE
    # One in shades of grey, and a part with colours of it
    grey = stored(cluster, packed(base.convert("L")))
    assert match(cluster, packed(cut(base, *BOX)), grey, percent=90).data["coordinates"] == PLACE
    # One of 16 bits
    deep = Image.fromarray(np.asarray(base.convert("L"), np.uint16) * 256 + 7)
    url = stored(cluster, packed(deep))
    assert match(cluster, packed(cut(deep, *BOX)), url, percent=100).data["coordinates"] == PLACE
    assert match(cluster, packed(cut(base.convert("L"), *BOX)), url, percent=99).data["coordinates"] == PLACE


def test_one_colour_is_found_where_it_is_and_not_everywhere(cluster: Cluster, base: Image.Image) -> None:
    # Given a picture with an area of one colour
    marked = base.copy()
    marked.paste((255, 0, 255), (400, 300, 440, 330))
    url = stored(cluster, packed(marked))
    data = match(cluster, packed(Image.new("RGB", (40, 30), (255, 0, 255))), url, percent=99).data
    assert (data["found"], data["coordinates"]) == (True, {"x": 400, "y": 300, "w": 40, "h": 30})
    # A colour that is nowhere, for which the correlation coefficient is not defined, is not found
    data = match(
        cluster, packed(Image.new("RGB", (40, 30), (0, 255, 255))), stored(cluster, packed(base)), percent=99
    ).data
    assert data["found"] is False
    assert data["score"] < 0.99


def test_a_picture_larger_than_the_base_is_not_found(cluster: Cluster, base: Image.Image, base_url: str) -> None:
    for size in ((641, 100), (100, 421), (900, 900)):
        data = match(cluster, packed(base.resize(size)), base_url).data
        assert (data["found"], data["coordinates"], data["score"]) == (False, {}, 0.0)
        assert data["msg"] == (
            f"not found: the picture sent, {size[0]} x {size[1]} pixels, does not fit into the one at image_url, 640 x 420"
        )


@pytest.mark.parametrize(
    ("query", "body", "message"),
    [
        ("", None, "image_url is missing"),
        ("image_url=", None, "image_url is missing"),
        ("image_url=base.png", None, "an address with http:// or https:// is needed"),
        ("image_url=file:///etc/passwd", None, "an address with http:// or https:// is needed"),
        ("image_url=ftp://127.0.0.1/x.png", None, "an address with http:// or https:// is needed"),
        (
            "image_url=http://127.0.0.1:9/&percent=9",
            None,
            "percent='9' was received, and a number from 10 to 100 is needed",
        ),
        ("image_url=http://127.0.0.1:9/&percent=101", None, "a number from 10 to 100 is needed"),
        ("image_url=http://127.0.0.1:9/&percent=nan", None, "a number from 10 to 100 is needed"),
        ("image_url=http://127.0.0.1:9/", b"no picture", "the picture sent is no picture that can be read"),
        ("image_url=http://127.0.0.1:9/", b"", "the body is empty"),
    ],
)
def test_what_is_asked_wrongly_is_refused_before_anything_is_fetched(
    cluster: Cluster, part: bytes, query: str, body: bytes | None, message: str
) -> None:
    url = f"{cluster.master_url}/extension/image/part.png?{query}"
    answer = http_request("PUT", url, part if body is None else body)
    assert (answer.status, answer.json["status"], answer.data) == (400, "ko", None)
    assert message in answer.msg


def test_a_key_that_is_missing_and_one_that_is_no_picture_are_told(cluster: Cluster, part: bytes) -> None:
    missing = f"{cluster.master_url}/get_key/{unique('missing.png')}"
    answer = match(cluster, part, missing)
    assert answer.status == 400
    assert answer.msg == f"'{missing}' was answered 404 Not Found"
    words = match(cluster, part, stored(cluster, b"these are words", "notes.txt"))
    assert words.status == 400
    assert "the picture at image_url is no picture that can be read" in words.msg


@pytest.fixture(scope="module")
def stranger(base: Image.Image) -> Iterator[str]:
    """A server that is no part of Pulzar."""

    def answer(connection: socket.socket, path: str) -> None:
        match path:
            case "/base.png":
                reply(connection, packed(base))
            case "/bomb.png":
                reply(connection, packed(Image.new("1", (7000, 6000))))
            case "/away.png":
                reply(connection, b"", "302 Found", Location="file:///etc/passwd")
            case "/long.png":
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                while True:
                    connection.sendall(bytes(1 << 20))
            case "/never.png":
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n\x89PNG\r\n\x1a\n")
                while True:
                    connection.sendall(b"x")
                    time.sleep(0.05)

    with serving(answer) as url:
        yield url


@pytest.fixture(scope="module")
def welcoming(make_shared_cluster: Clusters) -> Cluster:
    """A cluster whose image_url may lead to servers of this machine."""
    return make_shared_cluster(nodes=1, env={"PULZAR_EXTENSIONS_FETCH": "pictures.example, 127.0.0.1"})


def test_the_base_may_be_anywhere_that_is_listed(welcoming: Cluster, stranger: str, part: bytes) -> None:
    assert match(welcoming, part, f"{stranger}/base.png").data["coordinates"] == PLACE


def test_nothing_else_of_the_machine_is_within_reach(
    cluster: Cluster, rabbit: Rabbit, stranger: str, part: bytes
) -> None:
    master, port = cluster.master_url, cluster.base_port
    for url in (
        f"{stranger}/base.png",
        f"{master}/admin/status",
        f"{master}/",
        f"{rabbit.console_url}api/overview",
        f"http://127.0.0.1:{rabbit.amqp_port}/get_key/a",
        f"http://0.0.0.0:{port}/get_key/a",
        f"http://no-such-host.invalid:{port}/get_key/a",
    ):
        answer = match(cluster, part, url)
        assert (answer.status, answer.data) == (400, None), url
        assert "is no key of this cluster" in answer.msg
        assert "[extensions] fetch" in answer.msg


def test_a_key_is_found_by_any_name_of_the_master_and_at_its_node(
    cluster: Cluster, base: Image.Image, part: bytes
) -> None:
    key = unique("base.png")
    at_node = put(cluster, key, packed(base)).data["url"]
    assert urlsplit(at_node).port != cluster.base_port
    for url in (at_node, f"http://localhost:{cluster.base_port}/get_key/{quote(key)}"):
        assert match(cluster, part, url).data["coordinates"] == PLACE


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("bomb.png", 400, "the picture at image_url has 7000 x 6000 pixels; 40,000,000 in all"),
        ("away.png", 400, "image_url leads to 'file:///etc/passwd'; an address with http:// or https:// is needed"),
        ("long.png", 400, "is longer than 67,108,864 bytes, which is the limit"),
        ("never.png", 502, "was not there within 20 s"),
    ],
)
def test_what_another_server_can_do_is_limited(
    welcoming: Cluster, stranger: str, part: bytes, path: str, status: int, message: str
) -> None:
    answer = match(welcoming, part, f"{stranger}/{path}")
    assert answer.status == status
    assert message in answer.msg
    # And it has disturbed nobody
    assert get(welcoming, unique("none")).status == 404
