"""What the extensions do with pictures, and with addresses of pictures; and that their libraries are there."""

from __future__ import annotations

import importlib
import io
import resource
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from extensions import Refused, _fetching, _matching, _parameters, _pictures
from extensions._fetching import fetch
from extensions._pictures import Pixels
from extensions._reach import Reach
from tests.pictures import cut, packed, reply, scene, serving, text
from tests.support import ROOT


@pytest.mark.parametrize("library", ["PIL", "cv2", "numpy", "psycopg2", "pyodbc", "pytesseract"])
def test_what_is_promised_to_extensions_can_be_imported(library: str) -> None:
    assert importlib.import_module(library)


# Opening.


def opened(data: bytes) -> Image.Image:
    return _pictures.load(io.BytesIO(data), "the picture")


def shades(picture: Image.Image, x: int, y: int) -> list[int]:
    """What `pixels` has at a place."""
    return list(map(int, _pictures.pixels(picture)[y, x]))


@pytest.mark.parametrize("format", ["PNG", "BMP", "WEBP", "TIFF", "PPM"])
def test_every_format_without_loss_gives_the_same_pixels(format: str) -> None:
    picture = scene(80, 60)
    options = {"lossless": True} if format == "WEBP" else {}
    assert np.array_equal(_pictures.pixels(opened(packed(picture, format, **options))), np.asarray(picture))


@pytest.mark.parametrize(("format", "mode"), [("JPEG", "RGB"), ("JPEG", "CMYK"), ("WEBP", "RGB"), ("GIF", "RGB")])
def test_formats_with_loss_give_nearly_the_same_pixels(format: str, mode: str) -> None:
    picture = scene(80, 60)
    found = _pictures.pixels(opened(packed(picture.convert(mode), format))).astype(int)
    assert np.abs(found - np.asarray(picture)).mean() < 12


def test_a_picture_lies_as_its_exif_data_say() -> None:
    # Given a picture that a camera turned by a quarter took
    picture = scene(60, 40)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    # Then it comes out upright
    found = opened(packed(turned, "PNG", exif=exif))
    assert found.size == (60, 40)
    assert np.array_equal(np.asarray(found), np.asarray(picture))


def test_what_is_transparent_is_white_where_pictures_are_compared() -> None:
    picture = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    picture.putpixel((1, 0), (0, 0, 255, 128))
    found = opened(packed(picture))
    assert shades(found, 0, 0) == [255, 255, 255]
    assert shades(found, 1, 0) == [127, 127, 255]
    # A palette with a transparent colour is no exception
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([9, 9, 9])
    assert shades(opened(packed(palette, transparency=0)), 0, 0) == [255, 255, 255]


@pytest.mark.parametrize(("ink", "ground"), [(255, 0), (0, 255)])
def test_what_is_transparent_contrasts_with_what_is_not_where_it_is_read(ink: int, ground: int) -> None:
    # Given a letter-like shape, all else being transparent
    picture = Image.new("RGBA", (9, 9), (ground, ground, ground, 0))
    picture.putpixel((4, 4), (ink, ink, ink, 255))
    found = _pictures.grey(opened(packed(picture)))
    assert (found.getpixel((4, 4)), found.getpixel((0, 0))) == (ink, ground)


def test_16_bits_are_cut_alike_where_pictures_are_compared_and_stretched_where_they_are_read() -> None:
    values = np.array([[0x0000, 0x0400, 0x0FFF]], np.uint16)  # 12 bits, as scanners have them
    found = opened(packed(Image.fromarray(values)))
    assert [shades(found, x, 0) for x in range(3)] == [[0], [4], [15]]
    assert list(np.asarray(_pictures.grey(found))[0]) == [0, 63, 255]


def test_numbers_with_a_point_are_pictures_too() -> None:
    values = np.array([[-1.0, 0.0, np.nan, 1.0]], np.float32)
    found = opened(packed(Image.fromarray(values), "TIFF"))
    assert [shades(found, x, 0) for x in range(4)] == [[0], [127], [127], [255]]
    assert list(np.asarray(_pictures.grey(found))[0]) == [0, 127, 127, 255]


def test_grey_and_black_and_white_have_one_channel() -> None:
    for mode in ("L", "1"):
        assert _pictures.pixels(opened(packed(Image.new(mode, (2, 2), 255)))).shape == (2, 2, 1)


def png_of(width: int, height: int) -> bytes:
    """A small file that says it has so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"these are words", "no picture that can be read"),
        (b"", "no picture that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture that can be read"),
        (packed(scene())[:5000], "damaged or cut short"),
        (packed(scene(), "JPEG")[:5000], "damaged or cut short"),
        (packed(scene(), "WEBP")[:5000], "can't be read|no picture"),
        (packed(scene(), "BMP")[:5000], "damaged or cut short"),
        (png_of(7000, 6000), "7000 x 6000 pixels; 40,000,000"),
        (png_of(33000, 1), "33000 x 1 pixels"),
        (png_of(100_000, 100_000), "damaged|100000 x 100000"),
    ],
)
def test_what_is_no_picture_is_refused_before_it_can_do_harm(data: bytes, message: str) -> None:
    with pytest.raises(Refused, match=message) as caught:
        opened(data)
    assert caught.value.status == 400


def tiff_of(width: int, height: int, kind: int) -> bytes:
    """A small compressed file of 100 x 100 pixels in one tile that it says is so large, in numbers of a kind."""
    numbers = {256: 100, 257: 100, 258: 8, 259: 5, 262: 1, 277: 1, 322: width, 323: height, 324: 0, 325: 64}
    sides = 10 + 12 * len(numbers) + 4
    tags = b""
    for tag, value in numbers.items():
        if kind == SLONG8 and tag in (322, 323):
            tags += struct.pack("<HHII", tag, SLONG8, 1, sides + 8 * (tag - 322))
        else:
            tags += struct.pack("<HHII", tag, LONG, 1, sides + 16 if tag == 324 else value)
    return (
        struct.pack("<4sIH", b"II*\0", 8, len(numbers))
        + tags
        + bytes(4)
        + struct.pack("<qq", width, height)
        + bytes(64)
    )


LONG, SLONG8 = 4, 17  # of the second Pillow knows nothing, and libtiff does


def most_memory() -> int:
    """The most that this process has had at once since the last call, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


@pytest.mark.parametrize("kind", [LONG, SLONG8])
def test_a_small_file_can_not_make_a_decoder_take_much_memory(kind: int) -> None:
    limit = resource.getrlimit(resource.RLIMIT_AS)
    most_memory()
    before = most_memory()
    with pytest.raises(Refused, match="can't be read") as caught:
        opened(tiff_of(65536, 16384, kind))
    assert caught.value.status == 400
    assert most_memory() - before < 200 << 20  # and not the 1 GiB of the tile
    # What has no such tile is decoded as before, with the memory that the process may have
    assert resource.getrlimit(resource.RLIMIT_AS) == limit
    assert opened(packed(scene(80, 60))).size == (80, 60)
    assert resource.getrlimit(resource.RLIMIT_AS) == limit


SMALL = """
import sys
from extensions import Refused, _pictures
_pictures.DECODING_BYTES = 8 << 20
try:
    _pictures.load(sys.argv[1], "the picture")
except Refused as error:
    print(error.status, error)
"""


def test_a_picture_that_needs_more_memory_than_is_given_is_refused(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(png_of(6000, 6000))
    # In a process of its own: this one may have as much that it has used before
    done = subprocess.run(
        [sys.executable, "-c", SMALL, tmp_path / "picture.png"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "400 the picture takes more than 8 MiB of memory to be read\n", done.stderr


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of what it overlooks
def test_damage_anywhere_in_a_file_is_refused_or_overlooked_but_is_no_failure() -> None:
    pick = np.random.default_rng(7)
    results = set()
    for format in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"):
        good = packed(scene(60, 40), format)
        for _ in range(60):
            bad = bytearray(good[: pick.integers(1, len(good))] if pick.random() < 0.2 else good)
            for at in pick.integers(0, min(len(bad), 200), 4):
                bad[at] = pick.integers(256)
            try:
                found = opened(bytes(bad))
                results.add(_pictures.grey(found).size[0] * _pictures.pixels(found).shape[0] > 0)
            except Refused as error:
                results.add(error.status)
    assert results == {True, 400}


def paged(tmp_path: Path, *pages: Image.Image, **options: Any) -> str:
    """A TIFF file of several pages."""
    path = tmp_path / "pages.tiff"
    pages[0].save(path, "TIFF", save_all=True, append_images=list(pages[1:]), **options)
    return str(path)


def test_pages_come_in_their_order_each_as_it_is(tmp_path: Path) -> None:
    pages = [scene(60, 40), Image.new("1", (30, 20), 1), Image.new("L", (10, 50), 7)]
    found = list(_pictures.sent_pages(paged(tmp_path, *pages)))
    assert [(page.mode, page.size) for page in found] == [(page.mode, page.size) for page in pages]
    assert all(np.array_equal(np.asarray(one), np.asarray(other)) for one, other in zip(found, pages, strict=True))


def test_smaller_copies_and_masks_are_no_pages(tmp_path: Path) -> None:
    # Given a page that its scanner added a thumbnail to, and one more page
    copy = scene(12, 8)
    copy.encoderinfo = {"tiffinfo": {254: 1}}
    found = list(_pictures.sent_pages(paged(tmp_path, scene(120, 80), copy, scene(60, 40))))
    assert [page.size for page in found] == [(120, 80), (60, 40)]


def test_pages_are_limited_before_any_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Image.new("1", (9, 9))
    assert len(list(_pictures.sent_pages(paged(tmp_path, *[small] * _pictures.MOST_PAGES)))) == 100
    with pytest.raises(Refused, match="more than 100 pages"):
        next(_pictures.sent_pages(paged(tmp_path, *[small] * (_pictures.MOST_PAGES + 1))))
    monkeypatch.setattr(_pictures, "MOST_PIXELS_OF_PAGES", 200)
    assert len(list(_pictures.sent_pages(paged(tmp_path, small, small)))) == 2
    with pytest.raises(Refused, match="more than 200 pixels in all pages"):
        next(_pictures.sent_pages(paged(tmp_path, small, small, small)))


def test_a_file_whose_pages_lead_in_a_circle_has_an_end(tmp_path: Path) -> None:
    path = Path(paged(tmp_path, Image.new("L", (9, 9), 1), Image.new("L", (9, 9), 2)))
    data = bytearray(path.read_bytes())
    first = struct.unpack_from("<I", data, 4)[0]
    second_at = first + 2 + 12 * struct.unpack_from("<H", data, first)[0]
    second = struct.unpack_from("<I", data, second_at)[0]
    struct.pack_into("<I", data, second + 2 + 12 * struct.unpack_from("<H", data, second)[0], first)
    path.write_bytes(data)
    assert len(list(_pictures.sent_pages(str(path)))) == 2


def test_no_limit_of_memory_is_left_behind_between_pages(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_AS)
    for _ in _pictures.sent_pages(paged(tmp_path, scene(60, 40), scene(60, 40))):
        assert resource.getrlimit(resource.RLIMIT_AS) == limit


def test_a_disk_that_fails_is_no_fault_of_the_picture(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        _pictures.load(tmp_path / "gone", "the picture")


def test_a_request_without_a_picture_says_how_to_send_one(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for path in (None, str(tmp_path / "empty")):
        with pytest.raises(Refused, match=r"PUT (one|a picture), for example with curl"):
            _pictures.sent(path)


# Matching.


def noise(height: int, width: int, channels: int, seed: int = 1) -> Pixels:
    """Something like a picture, without two places alike."""
    rough = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return np.asarray(cv2.GaussianBlur(rough, (5, 5), 0).reshape(height, width, channels))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("region", [8_000_000, 5000, 500])
def test_the_correlation_is_that_of_opencv_in_however_many_pieces_it_is_made(
    channels: int, region: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_matching, "_REGION_PIXELS", region)
    base = noise(90, 120, channels)
    template = base[33:63, 41:80].copy()
    rows = np.array(list(_matching._correlations(base, template)))
    assert np.abs(rows - cv2.matchTemplate(base, template, cv2.TM_CCOEFF_NORMED)).max() < 1e-4
    match = _matching.find(base, template)
    assert match is not None
    assert (match.x, match.y) == (41, 33)
    assert match.score == pytest.approx(1, abs=1e-6)


def test_likeness_to_one_colour_is_the_distance_that_opencv_has() -> None:
    base, template = noise(60, 80, 3), np.full((9, 7, 3), (10, 120, 250), np.uint8)
    rows = np.array(list(_matching._distances(base, template)))
    squares = cv2.matchTemplate(base, template, cv2.TM_SQDIFF)
    assert np.abs(rows - (1 - np.sqrt(squares / template.size) / 255)).max() < 1e-4


def test_a_template_of_one_colour_is_found_where_that_colour_is() -> None:
    base = noise(200, 300, 3)
    base[120:150, 210:250] = (200, 30, 30)
    template = np.full((30, 40, 3), (200, 30, 30), np.uint8)
    assert _matching.find(base, template) == (210, 120, 1.0)
    # And a colour of the same lightness is another one
    other = _matching.find(base[120:150, 210:250].copy(), np.full((30, 40, 3), (30, 100, 100), np.uint8))
    assert other is not None
    assert other.score < 0.6


def test_a_picture_is_not_found_on_a_ground_of_one_colour() -> None:
    match = _matching.find(np.full((100, 100, 3), 250, np.uint8), noise(20, 20, 3))
    assert match == (0, 0, 0.0)


def test_little_contrast_on_a_light_ground_is_enough() -> None:
    base = np.full((400, 500, 1), 250, np.uint8)
    base[100:140, 200:260] = 251
    base[110:120, 220:230] = 249
    assert _matching.find(base, base[95:145, 190:270].copy()) == (190, 95, pytest.approx(1))


def test_the_first_of_equal_places_counts() -> None:
    base = np.zeros((100, 100, 1), np.uint8)
    for y, x in ((60, 10), (10, 70), (10, 30)):
        base[y : y + 8, x : x + 8] = noise(8, 8, 1)
    match = _matching.find(base, noise(8, 8, 1))
    assert match is not None
    assert (match.x, match.y) == (30, 10)


def test_a_template_that_does_not_fit_in_has_no_place() -> None:
    base = noise(50, 60, 1)
    assert _matching.find(base, noise(51, 10, 1)) is None
    assert _matching.find(base, noise(10, 61, 1)) is None
    assert _matching.find(base, base.copy()) == (0, 0, pytest.approx(1))


def test_a_grey_picture_and_one_with_colours_are_compared_in_grey() -> None:
    base, part = scene(), cut(scene(), 150, 90, 120, 80)
    for pictures in ((base, ImageOps.grayscale(part)), (ImageOps.grayscale(base), part)):
        match = _matching.find(*map(_pictures.pixels, pictures))
        assert match is not None
        assert (match.x, match.y) == (150, 90)
        assert match.score > 0.999


# Parameters.


@pytest.mark.parametrize("given", ["", "9", "9.99", "101", "-10", "1e2", "nan", "٨٠", "80 ", "8" * 5000])
def test_a_number_out_of_bounds_is_refused_with_what_was_received(given: str) -> None:
    with pytest.raises(Refused, match=r"percent='.*' was received, and a number from 10 to 100 is needed"):
        _parameters.number({"percent": [given]}, "percent", 80, 10, 100)


def test_numbers_within_bounds_are_read() -> None:
    assert _parameters.number({}, "percent", 80, 10, 100) == 80
    for given, meant in (("10", 10), ("100", 100), ("87.5", 87.5)):
        assert _parameters.number({"percent": [given]}, "percent", 80, 10, 100) == meant


# Fetching.


EVERYWHERE = Reach("", "", "*", list)


def fetched(url: str, reach: Reach = EVERYWHERE, **limits: Any) -> bytes:
    file = io.BytesIO()
    fetch(url, file, reach, **limits)
    return file.read()


def test_redirects_are_followed_to_the_end() -> None:
    def answer(connection: socket.socket, path: str) -> None:
        match path:
            case "/there":
                reply(connection, b"", "307 Temporary Redirect", Location="/on%20the/way?a=b%20c")
            case "/on%20the/way?a=b%20c":
                reply(connection, b"", "302 Found", Location="/%C3%A9nd")
            case "/%C3%A9nd":
                reply(connection, b"content")

    with serving(answer) as url:
        assert fetched(f"{url}/there") == b"content"
        assert fetched(f"{url}/énd") == b"content"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1/x",
        "file:///etc/passwd",
        "/etc/passwd",
        "x",
        "http://",
        "http://[::1/x",
        "http://a:b/",
        "http://a..b/",
        "http://a b/",
        "http://a\0b/",
        "https://a\x7fb/",
    ],
)
def test_only_addresses_of_the_web_are_asked(url: str) -> None:
    with pytest.raises(Refused, match=r"no address|an address with http:// or https:// is needed") as caught:
        fetched(url)
    assert caught.value.status == 400

    # Nor does a redirect lead anywhere else
    with (
        serving(lambda connection, _: reply(connection, b"", "302 Found", Location="file:///etc/passwd")) as server,
        pytest.raises(Refused, match=r"leads to 'file:///etc/passwd'"),
    ):
        fetched(server)


def drip(connection: socket.socket, first: bytes) -> None:
    """Send a byte now and then, until the other side has gone."""
    connection.sendall(first)
    while True:
        connection.sendall(b"x")
        time.sleep(0.05)


def pour(connection: socket.socket, first: bytes) -> None:
    """Send as much as the other side takes."""
    connection.sendall(first)
    while True:
        connection.sendall(bytes(1 << 16))


def keep_silent(connection: socket.socket, path: str) -> None:
    connection.recv(1)


ENDLESS = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        (lambda c, _: reply(c, b"", "404 Not Found"), 400, "was answered 404 Not Found"),
        (lambda c, _: reply(c, b"", "503 Busy"), 502, "was answered 503 Busy"),
        (lambda c, _: reply(c, b"", "302 Found", Location="/again"), 502, "more than 5 times"),
        (lambda c, _: reply(c, bytes(1001)), 400, "longer than 1,000 bytes"),
        (lambda c, _: pour(c, ENDLESS), 400, "longer than 1,000 bytes"),
        (lambda c, _: reply(c, b"short", **{"Content-Length": "10"}), 502, "can't be fetched"),
        (lambda c, _: c.sendall(b"SSH-2.0-OpenSSH\r\n"), 502, "can't be fetched"),
        (lambda c, _: None, 502, "can't be fetched"),
        (keep_silent, 502, "was not there within 1 s"),
        (lambda c, _: drip(c, ENDLESS), 502, "was not there within 1 s"),
        (lambda c, _: drip(c, b"HTTP/1.1 200 OK\r\nX-Long: "), 502, "was not there within 1 s"),
        (lambda c, _: drip(c, b"HTTP/1.1 "), 502, "was not there within 1 s"),
    ],
)
def test_a_server_that_does_not_answer_as_it_should_is_cut_short(
    answer: Callable[[socket.socket, str], None], status: int, message: str
) -> None:
    began = time.monotonic()
    with serving(answer) as url, pytest.raises(Refused, match=message) as caught:
        fetched(f"{url}/picture.png", secs=1.0, most=1000)
    assert caught.value.status == status
    assert time.monotonic() - began < 40


def test_a_server_that_says_nothing_to_a_greeting_by_tls_is_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    def say_nothing(connection: socket.socket, _: str) -> None:
        raise AssertionError("no request was expected")

    with serving(say_nothing) as url, pytest.raises(Refused, match=r"was not there within 1 s|can't be fetched"):
        fetched(url.replace("http:", "https:"), secs=1.0)


def test_nobody_at_an_address_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Refused, match=r"can't be fetched: .*[Rr]efused") as caught:
        fetched(f"http://127.0.0.1:{port}/")
    assert caught.value.status == 502


def test_the_limits_are_below_those_of_a_request() -> None:
    from broker import settings

    known = settings.load(environ={})
    assert known.extensions.timeout / 2 > _fetching.SECS


def test_drawn_text_has_ink(tmp_path: Path) -> None:
    # What the other tests of pictures rely on: the font is there, and draws.
    low, high = text().getextrema()
    assert (low, high) == (0, 255)
