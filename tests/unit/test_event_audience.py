"""Which events a listener gets, and how they look."""

from __future__ import annotations

import json

import pytest

from broker import keys
from broker.refusals import BadRequest
from master.events import audience, cloud_events
from master.events.audience import Audience
from master.events.cloud_events import CloudEvents
from master.index.events import OF_KEYS, TYPES, Event, KeyFacts, Position
from master.security import rights

FACTS = KeyFacts(7, 3, b"\1" * 32, 0)


def of_key(key: str, kind: str = "key.added") -> Event:
    return Event(kind, 1_795_538_292_411, keys.encode(key), FACTS)


def of_job(owner: str = "") -> Event:
    return Event("job.completed", 5, "7", {"job_id": 7, "job_path": "a.b/c"}, owner)


NODE = Event("node.away", 5, "n.1", {"node": "n.1"})
BACKUP = Event("backup.failed", 5, "master", {"member": "master", "reason": "no"})
RESET = cloud_events.reset(5, "a reason")


def takes(who: Audience, event: Event) -> bool:
    return who.takes(event, keys.decode(event.subject) if isinstance(event.subject, bytes) else "")


def test_all_types_come_unless_some_are_asked_for() -> None:
    assert audience.asked({}).types == set(TYPES)
    assert audience.asked({"prefix": "/a/"}) == ("a/", frozenset(OF_KEYS), "", None)
    assert audience.asked({"types": "key.added, node"}).types == {"key.added", "node.back", "node.away"}
    assert audience.asked({"types": "job.failed", "prefix": "a"}).types == {"job.failed"}


@pytest.mark.parametrize("types", ["", "keys", "key,", "KEY", "reset", "key;job", "ü"])
def test_types_that_there_are_not_are_refused_in_words(types: str) -> None:
    with pytest.raises(BadRequest, match=r"is no list of types of events; give some of key, job, .*key\.added"):
        audience.asked({"types": types})


@pytest.mark.parametrize("prefix", ["ü", "a\n"])
def test_so_is_a_prefix_that_no_key_has(prefix: str) -> None:
    with pytest.raises(BadRequest, match="no printable ASCII text"):
        audience.asked({"prefix": prefix})


def test_a_prefix_is_for_keys_alone() -> None:
    who = audience.asked({"prefix": "a/", "types": "key,job"})
    assert takes(who, of_key("a/b"))
    assert not takes(who, of_key("ab"))
    assert takes(who, of_job())
    assert not takes(who, NODE)
    assert takes(who, RESET)


def test_a_token_hears_of_what_it_may_know() -> None:
    def heard(text: str) -> list[Event]:
        who = audience.asked({})._replace(token="me", rights=rights.parse(text))
        told = (of_key("a/b"), of_key("b/a"), of_job(), of_job("me"), of_job("you"), NODE, BACKUP, RESET)
        return [event for event in told if takes(who, event)]

    assert heard("read:a/") == [of_key("a/b"), of_job("me"), RESET]
    assert heard("write: delete: metrics") == [of_job("me"), NODE, RESET]
    assert heard("jobs backup") == [of_job(), of_job("me"), of_job("you"), BACKUP, RESET]
    assert heard("read: admin") == [
        of_key("a/b"), of_key("b/a"), of_job(), of_job("me"), of_job("you"), NODE, BACKUP, RESET
    ]  # fmt: skip


def test_nobody_owns_what_was_launched_without_a_token() -> None:
    who = audience.asked({})._replace(token="", rights=rights.parse("read:"))
    assert not takes(who, of_job(""))


def test_an_event_is_a_cloud_event() -> None:
    shape = CloudEvents("http://localhost:31414")
    told = json.loads(shape.write(Position(5, 7), of_key('a "b"\\.txt')))
    assert told == {
        "specversion": "1.0",
        "id": "5-7",
        "source": "http://localhost:31414",
        "type": "key.added",
        "time": "2026-11-24T16:38:12.411Z",
        "subject": 'a "b"\\.txt',
        "datacontenttype": "application/json",
        "data": {"key": 'a "b"\\.txt', "version": 7, "size": 3, "etag": f'"{"01" * 32}"', "expires": None},
    }
    told = json.loads(shape.write(Position(5, 8), of_key("a")._replace(data=FACTS._replace(expires=2500))))
    assert told["data"]["expires"] == 2.5
    told = json.loads(shape.write(Position(5, 9), Event("job.failed", 5, "7", {"reason": "ü\n\ndata: x"})))
    assert told["data"] == {"reason": "ü\n\ndata: x"}
    assert "subject" not in json.loads(shape.write(Position(5, 9), RESET))


def test_a_server_sent_event_is_one_line_of_data_whatever_is_in_it() -> None:
    shape = CloudEvents("http://localhost:31414")
    lines = shape.lines(Position(5, 9), Event("job.failed", 5, "7", {"reason": "a\r\n\r\nid: 1\n"})).split(b"\n")
    assert lines[:2] == [b"id: 5-9", b"event: job.failed"]
    assert lines[2].startswith(b'data: {"specversion"')
    assert lines[3:] == [b"", b""]


def test_routing_keys_have_the_type_and_then_folders() -> None:
    told = (of_key("x.y/z/k.txt"), of_key("k"), of_job(), NODE, BACKUP, RESET)
    assert [cloud_events.routing_key(event) for event in told] == [
        "key.added.x_y.z",
        "key.added",
        "job.completed.a_b.c",
        "node.away.n_1",
        "backup.failed.master",
        "reset",
    ]
    assert len(cloud_events.routing_key(of_key("a/" * 190 + "k"))) == 255
