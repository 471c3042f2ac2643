"""A dead letter as people see it: whatever its headers and body are."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest
from pika import BasicProperties

from broker import topology
from broker.link import Held
from master.dead_letters import letter

MOST = 500


def held(body: bytes = b"x", user: str = "", number: str | None = None, **headers: Any) -> Held:
    properties = BasicProperties(headers=headers, message_id=number, user_id=user or None)
    return Held(1, body, headers, user, properties)


def deep(levels: int) -> Any:
    found: Any = 1
    for _ in range(levels):
        found = [found]
    return found


def show(body: bytes) -> letter.Shown:
    return letter.show(body, len(body), MOST)


@pytest.mark.parametrize(
    ("body", "kind", "editable"),
    [
        (b'{"job": "a/b"}', "json", True),
        (b"", "text", True),
        ("line 1\r\nzwölf".encode(), "text", True),
        (msgpack.packb([1, 2]), "message", False),
        (msgpack.packb({"job": "a/b", "arguments": {"n": 1.5}}), "msgpack", True),
        (msgpack.packb({"job": b"\xff"}), "msgpack", False),
        (msgpack.packb({1: 2}), "msgpack", False),
        (msgpack.packb({"a": float("nan")}), "msgpack", False),
        (b"\xff\xfe", "binary", False),
        (b"x" * (MOST + 1), "text", False),
        (b"[" * 100_000, "text", False),
    ],
)
def test_a_body_is_shown(body: bytes, kind: str, editable: bool) -> None:
    shown = show(body)
    assert (shown.format, shown.editable) == (kind, editable)
    assert len(shown.text) <= MOST


def test_what_is_shown_of_msgpack_is_the_same_when_it_is_sent_as_json() -> None:
    job = {"job": "a/b", "arguments": {"text": "zwölf", "list": [1, None, True]}}
    assert json.loads(show(msgpack.packb(job)).text) == job


def test_a_body_that_is_too_deep_is_shown_in_hexadecimal() -> None:
    assert show(b"\x91" * 100_000).format == "binary"


def test_a_cut_text_may_end_within_a_character() -> None:
    body = "zwölf".encode()
    assert letter.show(body[:3], len(body), MOST) == ("text", "zw", False, False)


def test_headers_have_bounds_and_are_json() -> None:
    many = {f"name {number}": number for number in range(1000)}
    shown = letter.for_json(
        {"deep": deep(50), "nan": float("nan"), "bytes": b"\xff", "long": "x" * 10_000, "many": many}
    )
    text = json.dumps(shown, allow_nan=False)
    assert len(text) < 3000
    assert "ff" in text


def test_the_same_burial_is_one_letter_and_anything_else_is_another() -> None:
    first = held(b"x", id="5", reason="r", queue="q", at=1, number="1.1")
    again = held(b"x", id="5", reason="r", queue="q", at=2, number="2.1")
    assert first.fingerprint() == again.fingerprint()
    # Nobody hides another message behind its id.
    others = [
        held(b"y", id="5", reason="r", queue="q"),
        held(b"x", id="5", reason="r", queue="other"),
        held(b"x", "pulzar.node.a", id="5", reason="r", queue="q"),
        held(b"x", reason="r", queue="q"),
    ]
    assert len({each.fingerprint() for each in (first, *others)}) == 5


def test_who_had_sent_it_is_believed_from_the_master_alone() -> None:
    user = topology.node_user("a")
    assert letter.read(held(user=topology.MASTER_USER, user_=1), "1").user == ""
    headers = {"user": user, "id": "1"}
    for by, expected in ((topology.MASTER_USER, user), (topology.node_user("b"), topology.node_user("b")), ("", "")):
        message = Held(1, b"x", headers, by, BasicProperties(headers=headers))
        assert letter.read(message, "1").user == expected
