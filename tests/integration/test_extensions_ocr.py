"""The extension ocr, through the master, on pictures that are drawn here; and extensions that lack a library."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ops.cluster import Cluster
from tests.pictures import TEXT, packed, text
from tests.support import Answer, Clusters, http_request


def read(cluster: Cluster, picture: bytes, query: str = "", name: str = "picture.png") -> Answer:
    return http_request("PUT", f"{cluster.master_url}/extension/ocr/{name}{query}", picture, timeout=60)


def words(answer: Answer) -> str:
    """The text that was read, on one line."""
    assert answer.status == 200, answer
    return " ".join(answer.data["text"].split())


EXPECTED = " ".join(TEXT.split())


@pytest.mark.parametrize("size", [11, 14, 24, 48, 90])
def test_text_is_read_in_every_usual_size(cluster: Cluster, size: int) -> None:
    answer = read(cluster, packed(text(size=size)))
    assert words(answer) == EXPECTED
    assert set(answer.data) == {"text", "pages"}
    assert answer.msg == "ok"


def test_lines_are_kept(cluster: Cluster) -> None:
    assert read(cluster, packed(text())).data == {"text": TEXT, "pages": 1}


@pytest.mark.parametrize(
    ("drawn", "query"),
    [
        ({"ink": 255, "ground": 0}, ""),
        ({"ink": 255, "ground": 0}, "?invert=1"),
        ({"ink": 0, "ground": 255}, "?invert=0"),
        ({"ink": 120, "ground": 190}, ""),
        ({"ink": (250, 220, 0), "ground": (20, 30, 90), "mode": "RGB"}, ""),
        ({"turned": 2.0}, ""),
        ({"turned": -2.0}, ""),
    ],
)
def test_text_is_read_light_on_dark_in_colours_and_a_little_turned(
    cluster: Cluster, drawn: dict[str, Any], query: str
) -> None:
    assert words(read(cluster, packed(text(**drawn)), query)) == EXPECTED


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_text_is_read_in_every_format_whatever_the_name_says(cluster: Cluster, format: str) -> None:
    assert words(read(cluster, packed(text(), format), name="picture")) == EXPECTED


def transparent(ink: int) -> Image.Image:
    """Text on a ground that is transparent, and as light as the text."""
    shape = text(ink=255, ground=0)
    picture = Image.new("LA", shape.size, (ink, 0))
    picture.putalpha(shape)
    return picture


@pytest.mark.parametrize("ink", [0, 255])
def test_text_on_a_transparent_ground_is_read(cluster: Cluster, ink: int) -> None:
    assert words(read(cluster, packed(transparent(ink)))) == EXPECTED


def test_text_in_16_bits_is_read_also_when_it_uses_few_of_them(cluster: Cluster) -> None:
    # Given shades of grey from 0 to 1000 of 65535, as some scanners give them
    shades = (np.asarray(text(), np.uint16) * 4).astype(np.uint16)
    assert words(read(cluster, packed(Image.fromarray(shades)))) == EXPECTED


def test_text_that_a_camera_took_turned_is_read_upright(cluster: Cluster) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = text(mode="RGB", ink=(0, 0, 0), ground=(255, 255, 255)).transpose(Image.Transpose.ROTATE_90)
    assert words(read(cluster, packed(turned, "JPEG", exif=exif))) == EXPECTED


@pytest.mark.parametrize(
    ("search", "contains"),
    [("quick", True), ("QUICK%20brown", True), ("fox%20jumps", True), ("slow", False), ("", True)],
)
def test_search_says_whether_the_text_contains_something(cluster: Cluster, search: str, contains: bool) -> None:
    answer = read(cluster, packed(text()), f"?search={search}")
    assert answer.data == {"text": TEXT, "pages": 1, "contains": contains}


PAGES = ("the first page", "page in the middle", "this is the last")


def tiff(*pages: Image.Image, **options: Any) -> bytes:
    """A TIFF file of several pages."""
    return packed(pages[0], "TIFF", save_all=True, append_images=list(pages[1:]), **options)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "group4"])
def test_all_pages_of_a_tiff_are_read_with_form_feeds_between_them(cluster: Cluster, compression: str | None) -> None:
    # Given pages of different sizes, black and white as fax machines and scanners make them where that is asked for
    mode = "1" if compression == "group4" else "L"
    drawn = [text(words, size=20 + 8 * number).convert(mode) for number, words in enumerate(PAGES)]
    answer = read(cluster, tiff(*drawn, compression=compression), "?search=first%20page%20page%20in", "scan.tiff")
    assert answer.data == {"text": "\f".join(PAGES), "pages": 3, "contains": True}
    # And a page without text keeps its place
    blank = tiff(text(PAGES[0]), Image.new("L", (300, 200), 255), text(PAGES[2]))
    assert read(cluster, blank).data == {"text": f"{PAGES[0]}\f\f{PAGES[2]}", "pages": 3}


def test_a_damaged_page_is_named(cluster: Cluster) -> None:
    whole = tiff(*(text(words) for words in PAGES), compression="tiff_lzw")
    with Image.open(io.BytesIO(whole)) as opened:
        opened.seek(1)
        at = opened.tag_v2[273][0]  # type: ignore[attr-defined]
    answer = read(cluster, whole[:at] + bytes(200) + whole[at + 200 :])
    assert answer.status == 400
    assert answer.msg.startswith("page 2 of the picture sent can't be read")


def test_of_an_animation_the_first_frame_is_read(cluster: Cluster) -> None:
    frames = [text(words) for words in PAGES]
    moving = packed(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read(cluster, moving).data == {"text": PAGES[0], "pages": 1}


def test_a_picture_without_text_has_none(cluster: Cluster) -> None:
    for picture in (Image.new("L", (400, 300), 255), Image.new("L", (1, 1), 0), Image.new("L", (32000, 2), 9)):
        assert read(cluster, packed(picture), "?search=x").data == {"text": "", "pages": 1, "contains": False}


@pytest.mark.parametrize(
    ("body", "query", "message"),
    [
        (b"", "", "the body is empty; PUT a picture"),
        (b"no picture", "", "the picture sent is no picture that can be read; BMP, GIF, JPEG"),
        (packed(text())[:1000], "", "the picture sent can't be read, it is damaged or cut short"),
        (packed(Image.new("1", (7000, 6000))), "", "7000 x 6000 pixels; 40,000,000 in all"),
        (tiff(*[Image.new("1", (1, 1))] * 101), "", "more than 100 pages"),
        (tiff(text(), Image.new("1", (7000, 6000))), "", "page 2 of the picture sent has 7000 x 6000 pixels"),
        (packed(text()), "?invert=yes", "invert='yes' was received, and 0 or 1 is needed"),
    ],
)
def test_what_can_not_be_read_is_refused_with_the_reason(
    cluster: Cluster, body: bytes, query: str, message: str
) -> None:
    answer = read(cluster, body, query)
    assert (answer.status, answer.json["status"], answer.data) == (400, "ko", None)
    assert message in answer.msg


def test_a_get_is_told_to_send_a_picture(cluster: Cluster) -> None:
    answer = http_request("GET", f"{cluster.master_url}/extension/ocr/picture.png")
    assert answer.status == 400
    assert "PUT one" in answer.msg


def test_nothing_is_left_on_the_disk(cluster: Cluster) -> None:
    assert words(read(cluster, packed(text()))) == EXPECTED
    assert read(cluster, b"no picture").status == 400
    left = [path for path in (cluster.master_directory / "extensions").rglob("*") if path.is_file()]
    assert left == []


# Without what they need.


@pytest.fixture(scope="module")
def bare(make_shared_cluster: Clusters, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """A cluster whose master finds no OpenCV and no Tesseract."""
    blocked = tmp_path_factory.mktemp("blocked")
    (blocked / "cv2.py").write_text("raise ModuleNotFoundError(\"No module named 'cv2'\", name='cv2')\n")
    empty: Path = tmp_path_factory.mktemp("empty")
    return make_shared_cluster(nodes=1, env={"PYTHONPATH": str(blocked), "PATH": str(empty)})


def test_an_extension_without_its_python_library_says_which_command_installs_it(bare: Cluster) -> None:
    for name in ("image", "imagematching"):
        answer = http_request("PUT", f"{bare.master_url}/extension/{name}/x.png", b"x")
        assert (answer.status, answer.json["status"]) == (501, "ko")
        assert re.search(r"the Python library cv2 is not installed .*install it there with: \./ops/up$", answer.msg)


def test_ocr_without_tesseract_says_which_command_installs_it(bare: Cluster) -> None:
    answer = read(bare, packed(text()))
    assert (answer.status, answer.json["status"]) == (501, "ko")
    assert answer.msg.endswith(
        "Tesseract is not installed on the master; install it there with: apt-get install tesseract-ocr"
    )


def test_the_others_work_without_those(bare: Cluster) -> None:
    assert http_request("GET", f"{bare.master_url}/extension/example/a").status == 200
    assert http_request("GET", f"{bare.master_url}/extension/search/nothing").data == []
