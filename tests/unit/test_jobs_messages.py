"""A job as it travels, and what is said of one that is no good."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import MalformedMessage
from broker.messages import codec, jobs, runs
from broker.messages.jobs import Options, Order
from broker.messages.runs import Claimed, Finished, Returned, RunEnd, RunState

RUN = "0123456789abcdef" * 2


def test_a_job_published_by_hand_needs_only_its_name() -> None:
    assert jobs.read(b'{"job": "example/factorial"}') == Order("example/factorial", {})
    assert jobs.read(msgpack.packb({"job": "example/factorial.py"})) == Order("example/factorial", {})


def test_json_and_msgpack_say_the_same() -> None:
    fields = {
        "job": "a/b-1",
        "arguments": {"number": 5, "pulzar_data": "folder/file.csv", "deep": [{"x": None}]},
        "options": {
            "timeout": 1.5,
            "attempts": 3,
            "priority": "high",
            "memory_mb": 64,
            "node": "node-1",
            "unique": "t",
        },
    }
    order = jobs.read(json.dumps(fields).encode())
    assert order == jobs.read(msgpack.packb(fields))
    assert (order.data, order.arguments) == ("folder/file.csv", {"number": 5, "deep": [{"x": None}]})
    assert order.options == Options(timeout=1.5, attempts=3, priority="high", memory_mb=64, node="node-1", unique="t")


def test_what_the_master_writes_is_read_again() -> None:
    order = Order(
        "a/b",
        {"n": [1, 2.5, "ä", None, True]},
        Options(timeout=3, unique="x", argv=("--count", "5")),
        "some/key",
        17,
        2,
    )
    assert jobs.read(jobs.write(order), sealed=True) == order


@pytest.mark.parametrize("number", [1, 127, 128, 65_536, (1 << 62) - 1])
@pytest.mark.parametrize("options", [Options(), Options(timeout=3, unique="x", argv=("--count", "5"), overlap=1)])
@pytest.mark.parametrize("data", ["", "some/key"])
def test_what_a_worker_has_checked_is_trusted_and_gets_its_id_without_being_packed_again(
    number: int, options: Options, data: str
) -> None:
    order = Order("a/b", {"id": 1, "n": [1, 2.5, "ä", None, True]}, options, data)
    body = jobs.write(order)
    assert jobs.unpack(body) == jobs.read(body) == order
    assert jobs.numbered(body, number) == jobs.write(order._replace(id=number))
    assert jobs.unpack(jobs.numbered(body, number)) == order._replace(id=number)


def test_only_a_sealed_message_has_an_id_and_an_attempt() -> None:
    for fields in ({"id": 17}, {"attempt": 2}, {"id": 17, "attempt": 2}):
        name, value = next(iter(fields.items()))
        for body in (msgpack.packb({"job": "a/b"} | fields), json.dumps({"job": "a/b"} | fields).encode()):
            with pytest.raises(MalformedMessage, match=f"the field {name} = {value} is the master's to give"):
                jobs.read(body)
    assert jobs.read(jobs.write(Order("a/b", {}))) == Order("a/b", {})


def test_a_seal_is_of_one_body_and_of_one_cluster() -> None:
    body, other = jobs.write(Order("a/b", {}, id=17)), jobs.write(Order("a/b", {}, id=18))
    headers = jobs.seal(b"secret", body)
    assert jobs.is_sealed((b"old", b"secret"), body, headers | {"x-death": []})
    assert not jobs.is_sealed((b"old", b"secret"), other, headers)
    assert not jobs.is_sealed((b"another",), body, headers)
    for forged in ({}, {jobs.SEAL: ""}, {jobs.SEAL: 5}, {jobs.SEAL: None}, {jobs.SEAL: "é"}, {jobs.SEAL: b"x"}):
        assert not jobs.is_sealed((b"old", b"secret"), body, forged)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "neither JSON nor msgpack"),
        (b"hello", "no object|neither|an object like"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b"{", "neither JSON nor msgpack"),
        (b"[1]", "an object like"),
        (b"{}", "job = None"),
        (b'{"job": 5}', "job = 5"),
        (b'{"job": "../etc/passwd"}', "folder/script"),
        (b'{"job": "a/b/c"}', "folder/script"),
        (b'{"job": "a/b;rm"}', "folder/script"),
        (b'{"job": "a/b", "argument": {}}', "no field 'argument'"),
        (b'{"job": "a/b", "arguments": [1]}', "arguments"),
        (b'{"job": "a/b", "arguments": {"x": NaN}}', "NaN"),
        (b'{"job": "a/b", "options": {"colour": 1}}', "no option 'colour'"),
        (b'{"job": "a/b", "options": {"timeout": "5"}}', "timeout = '5'"),
        (b'{"job": "a/b", "options": {"timeout": true}}', "timeout = True"),
        (b'{"job": "a/b", "options": {"timeout": -1}}', "timeout = -1"),
        (b'{"job": "a/b", "options": {"attempts": 1.5}}', "attempts = 1.5"),
        (b'{"job": "a/b", "options": {"priority": "urgent"}}', "high, normal, low"),
        (b'{"job": "a/b", "options": {"node": "../x"}}', "node"),
        (b'{"job": "a/b", "options": {"unique": 7}}', "unique"),
        (b'{"job": "a/b", "options": {"argv": "--count 5"}}', r"argv = '--count 5' is no list of texts like \["),
        (b'{"job": "a/b", "options": {"argv": ["a", 5]}}', "argv = .* is no list of texts"),
        (b'{"job": "a/b", "options": {"argv": ["a\\u0000"]}}', "argv = .* is no list of texts"),
        (b'{"job": "a/b", "options": {"argv": ["\\ud800"]}}', "half of a character"),
        (b'{"job": "a/b", "arguments": {"pulzar_data": "a//b"}}', "pulzar_data"),
        (b'{"job": "a/b", "id": 7}', "the master's to give"),
        (msgpack.packb({"job": "a/b", "id": -1}), "id = -1"),
        (b'{"job": "a/b", "arguments": {"x": 18446744073709551616}}', "64 bits"),
        (b'{"job": "a/b", "arguments": {"x": "\\ud800"}}', "half of a character"),
        (b'{"job": "a/b", "arguments": {"x": [' + b"0.1," * 200_000 + b"0.1]}}", "a message of"),
        (b'{"job": "a/b", "arguments": {"x": ' + b"[" * 40 + b"]" * 40 + b"}}", "in each other"),
        (b"[" * 100_000, "too deep|neither"),
        (b'{"job": "a/b", "arguments": {"x": "' + b"y" * jobs.MAX_BYTES + b'"}}', "the limit"),
        (msgpack.packb({"job": "a/b", "arguments": {"x": b"bytes"}}), "JSON has not"),
        (msgpack.packb({"job": "a/b", "arguments": {1: 2}}), "map key|neither"),
        (msgpack.packb({"job": "a/b", "arguments": {"x": float("inf")}}), "inf"),
    ],
)
def test_whatever_is_wrong_is_said_for_a_person(body: bytes, reason: str) -> None:
    with pytest.raises(MalformedMessage, match=reason):
        jobs.read(body)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_job_or_malformed(body: bytes) -> None:
    with suppress(MalformedMessage):
        assert isinstance(jobs.read(body), Order)


MESSAGES = [
    runs.Reports(
        "node-1",
        [
            Claimed(RUN, 0, 1, 5, b"order"),
            Finished(RUN, 7, 2, RunEnd(RunState.FAILED, "exit status 3", 5, 9), "jobs/7/2/log.txt"),
            Returned(b"order", "no such script", RUN),
        ],
    ),
    runs.Progress("node-1", RUN, 7, 1, 0.5, 10, "half", b"log\n", 12),
    runs.NodeCatalog("node-1", "abc", [{"path": "example/factorial", "args": ""}]),
    runs.Named(RUN, 7),
    runs.Withdrawn([(7, 1), (9, 3)]),
    runs.AskCatalog("it is new"),
    runs.Withdraw(7, 2, "", "cancelled"),
    runs.Withdraw(7, 2, RUN, "claimed twice"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_messages_about_runs_come_out_as_they_went_in(message: Any) -> None:
    assert codec.decode_any(codec.encode(message)) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_about_runs_with_a_field_of_another_type_is_malformed(message: Any) -> None:
    fields = msgpack.unpackb(codec.encode(message))
    for place in range(2, len(fields)):
        broken = [*fields[:place], object.__name__ if not isinstance(fields[place], str) else -1, *fields[place + 1 :]]
        with pytest.raises(MalformedMessage):
            codec.decode_any(msgpack.packb(broken))
