"""What of a value is shown on the page of its key."""

from __future__ import annotations

import gzip
import json

import pytest

from master.web.ui.keys.preview import SHOWN_BYTES, Kind, embedded, of_text, wants_text


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [
        ("image/png", Kind.PICTURE),
        ("Image/JPEG; q=1", Kind.PICTURE),
        ("image/svg+xml", Kind.PICTURE),
        ("image/x+xml", Kind.NONE),
        ("audio/mpeg", Kind.SOUND),
        ("video/mp4; codecs=avc1", Kind.FILM),
        ("audio/x+xml", Kind.NONE),
        ("application/pdf", Kind.PDF),
        ("text/html", Kind.NONE),
        ("application/xhtml+xml", Kind.NONE),
        ("application/octet-stream", Kind.NONE),
        ("", Kind.NONE),
    ],
)
def test_only_types_that_can_do_nothing_else_are_embedded(content_type: str, kind: Kind) -> None:
    assert embedded(content_type) is kind


def test_texts_are_shown_as_they_are() -> None:
    page = b"<script>alert(1)</script>"
    assert wants_text("text/html")
    assert of_text("text/html", "", page, len(page)) == (Kind.TEXT, page.decode(), (), False, "")
    assert of_text("text/plain", "", b"abc", 4).cut
    assert of_text("text/plain; charset=latin-1", "", b"\xfc", 1).text == "ü"
    assert of_text("text/plain; charset=zlib_codec", "", b"abc", 3).text == "abc"
    assert of_text("text/plain", "", b"a\xff", 2).text == "a\ufffd"
    # A character that the end of what is read cuts is left out.
    assert of_text("text/plain", "", "aü".encode()[:2], 9).text == "a"


def test_a_value_of_unknown_type_is_shown_when_it_is_text() -> None:
    assert wants_text("application/octet-stream")
    assert of_text("application/octet-stream", "", b"plain\n", 6).kind is Kind.TEXT
    assert of_text("application/octet-stream", "", b"\x00\x01", 2).kind is Kind.NONE
    assert of_text("application/octet-stream", "", b"\xff\xfe", 2).kind is Kind.NONE


def test_json_gets_lines_and_never_too_many() -> None:
    assert of_text("application/json", "", b'{"a":[1]}', 9).text == json.dumps({"a": [1]}, indent=2)
    for bad in (b"{", b"[" * 60_000):
        assert of_text("application/json", "", bad, len(bad)) == (Kind.TEXT, bad.decode(), (), False, "")
    deep = b"[" * 900 + b",".join([b"1"] * 30_000) + b"]" * 900
    assert of_text("application/json", "", deep, len(deep)).kind is Kind.TEXT


def test_csv_is_a_table_with_a_bounded_number_of_cells() -> None:
    shown = of_text("text/csv", "", b"a;b\n1;x,y\n\n", 11)
    assert (shown.kind, shown.table, shown.cut) == (Kind.CSV, (["a", "b"], ["1", "x,y"]), False)
    wide = ("x" * 300 + ",") * 40 + "\n"
    shown = of_text("text/csv", "", wide.encode() * 200, len(wide) * 200)
    assert (len(shown.table), len(shown.table[0]), len(shown.table[0][0]), shown.cut) == (100, 30, 201, True)
    # The last line may be there in part.
    assert of_text("text/csv", "", b"a,b\n1,2\n3", 99).table == (["a", "b"], ["1", "2"])
    assert of_text("text/csv", "", b"\n", 1).kind is Kind.TEXT


def test_what_is_encoded_is_unpacked_up_to_a_limit() -> None:
    bomb = gzip.compress(b"a" * 10_000_000)
    shown = of_text("text/plain", "gzip", bomb, len(bomb))
    assert (len(shown.text), shown.cut) == (SHOWN_BYTES, True)
    assert of_text("text/plain", "gzip", gzip.compress(b"abc"), 99).text == "abc"
    assert "is not" in of_text("text/plain", "gzip", b"abc", 3).note
    assert "br" in of_text("text/plain", "br", b"abc", 3).note
