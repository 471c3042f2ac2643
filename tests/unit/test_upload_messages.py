"""The commit of an upload, and the permit in a signed address: both ends use the same code."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.clock import DAY_MS
from broker.errors import MalformedMessage
from broker.messages.upload import MAX_LIFETIME_DAYS, FurtherNode, StagedCopy, UploadCommit, UploadPermit
from broker.refusals import BadRequest

PERMITS = [
    UploadPermit("m:1"),
    UploadPermit("m:1", 5, True, 0, ""),
    UploadPermit("m:1", MAX_LIFETIME_DAYS * DAY_MS, False, 7, '"x", "y"'),
    UploadPermit("m:1", further=(FurtherNode("n2", "http://h:1"), FurtherNode("n3", "https://[::1]:2"))),
]
COMMIT = UploadCommit("node", "0" * 32, 3, b"\xab" * 32, "text/plain\ngzip", "*", None, "no date")


@pytest.mark.parametrize("permit", PERMITS)
def test_a_permit_is_read_as_it_was_written(permit: UploadPermit) -> None:
    assert UploadPermit.read(permit.fields()) == permit


def test_a_permit_says_only_what_was_asked_for() -> None:
    assert [permit.fields() for permit in PERMITS[:2]] == [
        {"url": "m:1"},
        {"url": "m:1", "life": "5", "overwrite": "1", "if_match": "", "size": "0"},
    ]


@pytest.mark.parametrize(("fields", "may"), [({}, False), ({"overwrite": "1"}, True), ({"if_match": "*"}, True)])
def test_only_what_was_signed_replaces(fields: dict[str, str], may: bool) -> None:
    assert UploadPermit.read({"url": "m:1", "size": "5", **fields}).replaces is may


@pytest.mark.parametrize("fields", [{"life": "x"}, {"life": "-1"}, {"life": "9" * 19}, {"size": "x"}, {"size": ""}])
def test_a_permit_that_can_not_be_read_is_refused(fields: dict[str, str]) -> None:
    with pytest.raises(BadRequest, match="no integer from 0 to"):
        UploadPermit.read({"url": "m:1", **fields})
    with pytest.raises(BadRequest, match="is no node with its address"):
        UploadPermit.read({"url": "m:1", "also": "n2"})


def test_a_length_that_was_signed_is_the_only_one() -> None:
    for length, given in ((None, 7), (7, 7), (7, None)):
        UploadPermit("m:1", length=length).check_length(given)
    for length in (8, 0):
        with pytest.raises(BadRequest, match="has 7 bytes"):
            UploadPermit("m:1", length=length).check_length(7)


def test_a_commit_is_read_as_it_was_written() -> None:
    assert UploadCommit.decode(COMMIT.encode()) == COMMIT
    copied = COMMIT._replace(copies=(StagedCopy("n2", "1" * 32), StagedCopy("n3", "2" * 32)))
    assert UploadCommit.decode(copied.encode()) == copied
    # A master of before knows nothing of copies.
    assert "copies" not in json.loads(COMMIT.encode())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("node", "../n"),
        ("node", 1),
        ("staged", "../../etc/passwd"),
        ("staged", "0" * 31),
        ("size", -1),
        ("size", 1.0),
        ("size", True),
        ("size", 1 << 63),
        ("digest", "ab"),
        ("digest", "zz" * 32),
        ("digest", None),
        ("content_type", "x" * 2_001),
        ("if_match", 5),
        ("if_none_match", []),
        ("if_unmodified_since", {}),
        ("another", 1),
    ],
)
def test_a_commit_with_a_bad_field_is_malformed(field: str, value: Any) -> None:
    fields = json.loads(COMMIT.encode()) | {field: value}
    with pytest.raises(MalformedMessage, match="bad commit of an upload"):
        UploadCommit.decode(json.dumps(fields).encode())


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b"null", b"\xff", b"[" * 100_000, COMMIT.encode().replace(b"size", b"length")]
)
def test_what_is_no_commit_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedMessage, match="bad commit of an upload"):
        UploadCommit.decode(body)
