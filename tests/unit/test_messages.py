"""The codec of messages."""

from __future__ import annotations

from contextlib import suppress

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import keys
from broker.errors import MalformedMessage, UnknownProtocol
from broker.messages.backups import BackupState, MakeBackup, Outcome, Work
from broker.messages.codec import PROTOCOL, Message, decode_any, encode
from broker.messages.store import (
    Announce,
    Commands,
    Confirm,
    Confirmed,
    Damaged,
    Delete,
    Drop,
    Fetch,
    Heartbeat,
    Kind,
    Replay,
    Result,
    Results,
    Source,
    Status,
    Store,
)

BEAT = ["n", "http://h:1", 1, "0.1", "e", 1, 2, 10, 5, False, 0.5, 40.0, 3, 2, [], ""]
STORE = Store(7, keys.encode("key"), 1 << 50, 1, 0, "text/plain", b"\x01" * 32, 3, b"abc", "")
MESSAGES: list[Message] = [
    Commands("3.ab", [STORE, Delete(8, keys.encode("other"), 5), STORE._replace(value=None, staged="f0" * 16)]),
    Commands(
        "",
        [
            STORE._replace(value=None, staged=Source(keys.encode("other"), 5).text()),
            Delete(8, keys.encode("other"), 5, True),
        ],
    ),
    Fetch("3.ab", STORE._replace(value=None), ["http://h:1/get_key/key?x=1"]),
    Fetch("", STORE._replace(value=None, ticket=0), []),
    Damaged("n", [(keys.encode("key"), 7), (keys.encode("other"), 8)]),
    Commands("", [Drop(0, keys.encode("key"), 5)]),
    Confirm("ab-1", STORE._replace(value=None, ticket=0), "http://h:1/get_key/key?x=1"),
    Confirmed("n", [("ab-1", ""), ("ab-2", "the node has other bytes")]),
    Replay("ab", 17),
    Announce("here"),
    Results(
        "n",
        "3.ab",
        "",
        4,
        5,
        9,
        False,
        [Result(7, Status.DONE, "", 5, Kind.PUT, keys.encode("key"), 1, 2, 0, "", b"", 3, b"abc")],
    ),
    Heartbeat("n", "http://h:1", 1, "0.1", "e", 1, 2, 10, 5, False, 0.5, 40.0, 3, 2, [], "", 7, 8000),
    MakeBackup("f0" * 16, Work.SEND, ""),
    MakeBackup("f0" * 16, Work.VERIFY, "/mnt/other"),
    BackupState("n"),
    BackupState("n", "f0" * 16, Work.VERIFY, "", Outcome.FAILED, "it was full", 1, 2, "", 3, 4, "x", 5, 6, 7, 8, 9, 10),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_was(message: Message) -> None:
    decoded = decode_any(encode(message))
    assert (type(decoded), decoded) == (type(message), message)


def test_a_message_from_the_future_is_told_apart() -> None:
    fields = msgpack.unpackb(encode(Announce("x")))
    with pytest.raises(UnknownProtocol, match="protocol 2 is not known"):
        decode_any(msgpack.packb([PROTOCOL + 1, *fields[1:]]))


@pytest.mark.parametrize(
    "fields",
    [
        17,
        [],
        [PROTOCOL],
        [PROTOCOL, 99],
        [PROTOCOL, "1"],
        [PROTOCOL, 1, "o"],
        [PROTOCOL, 1, "o", 5],
        [PROTOCOL, 1, "o", [[1]]],
        [PROTOCOL, 1, "o", [[9, 1, b"k", 1]]],
        [PROTOCOL, 1, "o", [[2, 1, "text", 1]]],
        [PROTOCOL, 1, 5, []],
        [PROTOCOL, 1, "o", [[1, *STORE._replace(value=None, staged="copy:x:Pk")]]],
        [PROTOCOL, 1, "o", [[1, *STORE._replace(value=None, staged="copy:5:../Pk")]]],
        [PROTOCOL, 1, "o", [[2, 8, b"Pk", 5, 1]]],
        [PROTOCOL, 2, "r", "x"],
        [PROTOCOL, 3, None],
        [PROTOCOL, 4, "n", "o", "r", 1, 2, 3, False, [[1, 2]]],
        [PROTOCOL, 5, *["x"] * 16],
        [PROTOCOL, 5, *BEAT, "x", 1],
        [PROTOCOL, 5, *BEAT, 1, -1],
        [PROTOCOL, 5, *BEAT, 1, 1, -1],
        [PROTOCOL, 5, *BEAT, 1, 1, 1, 1],
        [PROTOCOL, 5, *BEAT, 1, 1, 1, "", 1],
        [PROTOCOL, 5, *BEAT[:-1]],
        [PROTOCOL, 13, "f0" * 16, "sent", ""],
        [PROTOCOL, 13, "f0", "send", ""],
        [PROTOCOL, 14, "n", "", "send", "", "fine", "", 1, 2, "", 3, 4, "x", 5, 6, 7, 8, 9, 10],
        [PROTOCOL, 14, "n", "", "send", "", "good", "", 1, 2, "", 3, 4, "x", 5, 6, 7, 8, 9, -1],
        [PROTOCOL, 14, "../n", "", "send", "", "good", "", 1, 2, "", 3, 4, "x", 5, 6, 7, 8, 9, 1],
        {"job": 1},
        [[[[]]]],
    ],
    ids=repr,
)
def test_a_malformed_message_is_refused_with_a_reason(fields: object) -> None:
    with pytest.raises(MalformedMessage):
        decode_any(msgpack.packb(fields))


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_message_errors(body: bytes) -> None:
    with suppress(MalformedMessage, UnknownProtocol):
        decode_any(body)


@given(
    st.integers(1, 5) | st.integers(13, 14),
    st.recursive(
        st.none() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text(max_size=4) | st.binary(max_size=4),
        lambda c: st.lists(c, max_size=12),
        max_leaves=30,
    ),
)
def test_no_fields_raise_anything_but_message_errors(code: int, fields: object) -> None:
    body = [PROTOCOL, code, *(fields if isinstance(fields, list) else [fields])]
    with suppress(MalformedMessage, UnknownProtocol):
        decode_any(msgpack.packb(body))


def test_a_deletion_of_the_version_before_is_read() -> None:
    body = msgpack.packb([PROTOCOL, 1, "o", [[2, 8, keys.encode("other"), 5]]])
    assert decode_any(body) == Commands("o", [Delete(8, keys.encode("other"), 5, purge=False)])


def test_a_heartbeat_of_the_version_before_is_read() -> None:
    beat = decode_any(msgpack.packb([PROTOCOL, 5, *BEAT]))
    assert beat == Heartbeat(*BEAT)  # type: ignore[arg-type]
    assert isinstance(beat, Heartbeat)
    assert (beat.held_keys, beat.held_bytes) == (0, 0)


def test_a_source_is_told_from_the_token_of_an_upload() -> None:
    source = Source(keys.encode("folder/a b.txt"), 1 << 60)
    assert (Source.read(source.text()), Source.read("f0" * 16)) == (source, None)
