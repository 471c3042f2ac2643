"""What a value is: Content-Type and Content-Encoding, kept in one text, and guessed from the name."""

from __future__ import annotations

import pytest

from broker.http import content_types
from broker.refusals import BadRequest


def read(content_type: str = "", encoding: str = "") -> tuple[str, str]:
    """What is kept of two headers."""
    return content_types.unpack(content_types.read({"CONTENT_TYPE": content_type, "HTTP_CONTENT_ENCODING": encoding}))


@pytest.mark.parametrize("content_type", ["", "text/plain; charset=utf-8"])
@pytest.mark.parametrize("encoding", ["", "gzip", "gzip, br"])
def test_type_and_encoding_come_back_from_the_text_that_is_kept(content_type: str, encoding: str) -> None:
    assert content_types.unpack(content_types.pack(content_type, encoding)) == (content_type, encoding)
    assert read(content_type, encoding) == (content_type, encoding)


def test_what_was_kept_before_there_were_encodings_is_a_type() -> None:
    assert content_types.pack("text/plain", "") == "text/plain"
    assert content_types.unpack("text/plain") == ("text/plain", "")
    assert content_types.check("text/plain") == "text/plain"


def test_headers_that_say_nothing_are_not_kept() -> None:
    assert content_types.read({}) == ""
    assert read("application/x-www-form-urlencoded; charset=utf-8", "identity") == ("", "")
    assert read(" text/plain ", " ,identity , gzip,, Identity") == ("text/plain", "gzip")


@pytest.mark.parametrize("encoding", ["gzip deflate", "gz/ip", "g\xe9", '"gzip"', "a" * 101, "gzip, " * 30])
def test_an_encoding_that_can_not_be_kept_is_refused(encoding: str) -> None:
    with pytest.raises(BadRequest, match="Content-Encoding"):
        read("", encoding)


@pytest.mark.parametrize("encoding", ["aws-chunked", "gzip, AWS-Chunked"])
def test_the_framing_of_s3_is_no_encoding(encoding: str) -> None:
    with pytest.raises(BadRequest, match=r"nothing was stored\. Send the bytes themselves"):
        read("", encoding)


@pytest.mark.parametrize("given", ["multipart/form-data; boundary=x", "Multipart/Form-Data"])
def test_a_form_is_refused_with_how_to_send_the_file_itself(given: str) -> None:
    with pytest.raises(BadRequest, match=r"curl -T FILE .* data=open"):
        read(given)


@pytest.mark.parametrize("given", ["a" * 201, "text/\xe9", "text/\x00"])
def test_a_type_that_can_not_be_kept_is_refused(given: str) -> None:
    with pytest.raises(BadRequest, match="Content-Type"):
        read(given)


def test_a_type_that_was_given_is_not_guessed() -> None:
    assert content_types.type_of("a.txt", "text/mine\ngzip") == ("text/mine", "gzip")


@pytest.mark.parametrize(
    ("key", "encoding", "kind"),
    [
        ("a.json", "gzip", "application/json"),
        ("a.json.gz", "gzip", "application/json"),
        ("a.json.gz", "", "application/gzip"),
        ("a.json.zst", "ZSTD", "application/json"),
        ("a.json.gz", "br", "application/gzip"),
        ("gz", "gzip", content_types.DEFAULT_TYPE),
    ],
)
def test_a_guessed_type_is_that_of_what_is_encoded(key: str, encoding: str, kind: str) -> None:
    assert content_types.type_of(key, content_types.pack("", encoding)) == (kind, encoding)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("a.txt", "text/plain"),
        ("A.TXT", "text/plain"),
        ("a/b.json", "application/json"),
        ("x.tar.gz", "application/gzip"),
        ("pic.webp", "image/webp"),
        ("a", content_types.DEFAULT_TYPE),
        ("a.unknown", content_types.DEFAULT_TYPE),
        (".json", content_types.DEFAULT_TYPE),
        ("x.json/a", content_types.DEFAULT_TYPE),
        ("a.", content_types.DEFAULT_TYPE),
        ("a.html", "text/html"),
    ],
)
def test_the_type_is_guessed_from_the_end_of_the_name(key: str, kind: str) -> None:
    assert content_types.guess_type(key) == kind


@pytest.mark.parametrize("encoding", ["", "gzip, br"])
@pytest.mark.parametrize("content_type", ["", "text/plain"])
def test_a_number_of_nodes_stands_behind_both_and_only_where_it_is_given(content_type: str, encoding: str) -> None:
    packed = content_types.pack(content_type, encoding)
    assert content_types.with_replicas(packed, 0) == packed
    own = content_types.with_replicas(packed, 3)
    assert (content_types.unpack(own), content_types.replicas(own)) == ((content_type, encoding), 3)
    assert content_types.replicas(packed) == content_types.replicas(f"{content_type}\n{encoding}\nx") == 0
    assert content_types.type_of("key.txt", own) == ("text/plain", encoding)
    # Nobody but the server may say it
    assert content_types.check(own) == packed
    assert content_types.with_replicas(own, 0) == packed
