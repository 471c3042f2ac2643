"""`/launch_jobs`: many jobs in one request, each launched or refused on its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from master.web.jobs.launch_many import MAX_BYTES, MAX_KEY, MOST
from ops.cluster import Rabbit
from tests.integration.jobs_tools import Desk, make
from tests.integration.wire import Client
from tests.support import Answer, Clusters, http_request, unique, wait_for

PENDING = 20


@pytest.fixture(scope="module")
def desk(rabbit: Rabbit, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    clusters = Clusters(tmp_path_factory.mktemp("launch-many"), lambda: rabbit)
    try:
        yield make(
            clusters, tmp_path_factory.mktemp("launch-many-scripts"), (2,), {"PULZAR_JOBS_MAX_PENDING": str(PENDING)}
        )
    finally:
        clusters.close()


def job(number: int, script: str = "test/echo", **more: Any) -> dict[str, Any]:
    return {"job": script, "arguments": {"number": number}, **more}


def launch(desk: Desk, *jobs: Any, key: str = "") -> Answer:
    headers = {"Idempotency-Key": key} if key else {}
    body = json.dumps({"jobs": jobs}).encode()
    return http_request("POST", f"{desk.cluster.master_url}/launch_jobs", body, headers)


def ids(answer: Answer) -> list[int]:
    assert answer.status == 200, (answer.status, answer.msg)
    return [reply["data"]["job_id"] for reply in answer.data]


def test_each_is_launched_or_refused_on_its_own(desk: Desk) -> None:
    # Given jobs of all kinds, good and bad
    token = unique()
    weekly = {"interval": "weeks", "time_unit": 9, "repeat": 0}
    jobs: dict[str, tuple[Any, int]] = {
        "plain": (job(1), 202),
        "with .py": (job(2, "test/echo.py"), 202),
        "without arguments": ({"job": "test/noop"}, 202),
        "with options": (job(3, options={"priority": "high", "unique": token}), 202),
        "the same again": (job(3, options={"priority": "high", "unique": token}), 202),
        "its token for another": (job(4, options={"unique": token}), 409),
        "with reserved names": ({"job": "test/echo", "arguments": {"pulzar_options": {"priority": "low"}}}, 202),
        "a schedule": ({"job": "test/echo", "arguments": {"number": 1, "scheduled": weekly}}, 200),
        "unknown script": (job(5, "test/nothing"), 404),
        "unknown data": ({"job": "test/echo", "arguments": {"pulzar_data": "no/such/key"}}, 404),
        "no script": ({"arguments": {}}, 400),
        "no object": (5, 400),
        "unknown field": (job(6, argument={}), 400),
        "arguments as a list": ({"job": "test/echo", "arguments": [1]}, 400),
        "bad option": (job(7, options={"priority": "urgent"}), 400),
        "two kinds of options": ({**job(8, options={}), "arguments": {"pulzar_options": {}}}, 400),
        "too large an integer": (job(1 << 70), 400),
    }
    before = desk.read("/admin/all_jobs?limit=1000")
    # When they are launched together
    answer = launch(desk, *(given for given, _ in jobs.values()))
    # Then each has its own reply, with the envelope that it would have alone
    assert answer.status == 207
    replies = dict(zip(jobs, answer.data, strict=True))
    assert {what: reply["code"] for what, reply in replies.items()} == {what: code for what, (_, code) in jobs.items()}
    for what, reply in replies.items():
        assert set(reply) == {"code", "data", "msg", "status"}, what
        assert reply["status"] == ("ok" if reply["code"] < 300 else "ko")
        assert (reply["data"] is None) == (reply["code"] >= 300)
        assert reply["msg"]
    good = [reply["data"]["job_id"] for what, reply in replies.items() if reply["data"] and what != "a schedule"]
    assert replies["with options"]["data"] == replies["the same again"]["data"]
    assert answer.msg == f"{len(good) + 1} of {len(jobs)} jobs launched"
    assert replies["without arguments"]["data"] == {"job_id": good[2]}
    assert "urgent" in replies["bad option"]["msg"]
    # And those that were launched run, and nothing else is there
    for number in {*good}:
        assert desk.done(number)["job_id"] == number
    assert {row["job_id"] for row in desk.read("/admin/all_jobs?limit=1000")} == {
        *(row["job_id"] for row in before),
        *good,
    }
    assert desk.job(good[0])["output"] == {"number": 1}
    schedule = replies["a schedule"]["data"]["job_id"]
    assert desk.cancel(schedule).status == 200


def test_arguments_that_the_script_does_not_declare_are_warned_of(desk: Desk) -> None:
    plain, odd = launch(desk, job(1), {"job": "test/echo", "arguments": {"nuber": 5}}).data
    assert "warnings" not in plain["data"]
    assert any("nuber" in text for text in odd["data"]["warnings"])


def test_the_same_request_again_with_its_key_launches_nothing_twice(desk: Desk) -> None:
    # Given a request with a key, and in it a job with a token of its own
    key, token = unique(), unique()
    jobs = [job(1), job(1), job(2, options={"unique": token})]
    first = ids(launch(desk, *jobs, key=key))
    assert len({*first}) == 3
    # When it is sent again, each has the id that it had
    assert ids(launch(desk, *jobs, key=key)) == first
    for number in first:
        desk.done(number)
    again = launch(desk, *jobs, key=key)
    assert ids(again) == first
    assert [reply["code"] for reply in again.data] == [200, 200, 200]
    # And another job in the place of one is refused, what is new is launched
    changed = launch(desk, job(1), job(9), job(2, options={"unique": token}), job(4), key=key)
    assert [reply["code"] for reply in changed.data] == [200, 409, 200, 202]
    # And without a key all but the one with a token are new
    others = ids(launch(desk, *jobs))
    assert len({*others} & {*first}) == 1
    # And a key that is too long is refused
    assert launch(desk, *jobs, key="k" * (MAX_KEY + 1)).status == 400


def test_a_body_that_has_no_jobs_is_refused_with_the_reason(desk: Desk) -> None:
    def said(body: bytes) -> tuple[int, str]:
        answer = desk.ask("POST", "/launch_jobs", body)
        return answer.status, answer.msg

    for body in (b"", b"[]", b'{"job": "test/echo"}', b'{"jobs": {}}', b"{jobs: []}", b'{"jobs": [], "unique": "x"}'):
        status, message = said(body)
        assert status == 400, body
        assert "jobs" in message, message
    assert str(MOST) in said(json.dumps({"jobs": [{"job": "test/noop"}] * (MOST + 1)}).encode())[1]
    assert str(MOST) in said(b'{"jobs": []}')[1]
    with Client(desk.cluster.master_url) as client:
        answer = client.request("POST", "/launch_jobs", b'{"jobs": ["%s"]}' % (b"x" * MAX_BYTES))
        assert answer.status == 400
        assert str(MAX_BYTES) in answer.json["msg"]
    assert desk.ask("GET", "/launch_jobs").status == 405


def test_a_thousand_are_launched_by_one_request(desk: Desk) -> None:
    # Given as many jobs as a request may have; far off, so that none of them runs
    far = {"job": "test/noop", "arguments": {"scheduled": {"interval": "weeks", "time_unit": 900, "repeat": 0}}}
    # When they are launched, then each has an id of its own, in their order
    numbers = ids(launch(desk, *[far] * MOST))
    assert numbers == list(range(numbers[0], numbers[0] + MOST))


def test_those_beyond_the_limit_of_pending_jobs_are_refused(desk: Desk) -> None:
    # Given jobs that take both slots for long
    wait_for(lambda: not desk.read("/admin/jobs?list=pendings")["pendings"], what="the end of every job")
    busy = [desk.launch("test/sleep", {"seconds": 600}) for _ in range(2)]
    for number in busy:
        desk.until(number, "running")
    # When more are launched than may wait
    some = launch(desk, *[{"job": "test/noop"}] * (PENDING + 5))
    # Then those beyond the limit are refused
    assert some.status == 207
    assert [reply["code"] for reply in some.data] == [202] * PENDING + [503] * 5
    none = launch(desk, {"job": "test/noop"}, {"job": "test/noop"})
    assert (none.status, none.headers["Retry-After"].isdigit()) == (503, True)
    assert "max_pending" in none.msg
    # And the others run when the slots are free
    for number in busy:
        desk.cancel(number)
    for reply in some.data[:PENDING]:
        desk.done(reply["data"]["job_id"])
