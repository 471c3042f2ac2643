"""Unique tokens: the same launch again is the first one, any other launch with its token is a conflict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.messages import jobs
from broker.messages.jobs import Options, Order
from broker.messages.runs import Claimed, Returned, RunState
from broker.refusals import Conflict
from master.jobs import unique_tokens
from master.jobs.effects import Bury
from master.jobs.model import Rhythm
from master.web.jobs.launch_many import MAX_KEY, MOST
from tests.unit.desk import Desk, published, token, withdrawn

ONCE = Options(unique="once", timeout=5)
ORDER = Order("example/job", {"a": 1, "b": [1.5, "é"]}, ONCE, "some/key")
HOURLY = Rhythm("hours", 1, True)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.ledger.close()


def add(desk: Desk, order: Order, rhythm: Rhythm = HOURLY) -> int:
    return desk.write(lambda tables: desk.schedules.add(tables, order, rhythm, desk.now))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (ORDER._replace(job="example/other"), "another script, example/job instead of example/other"),
        (ORDER._replace(arguments={"a": 1, "b": [1.5, "e"]}), "other arguments"),
        (ORDER._replace(arguments={"a": 1.0, "b": [1.5, "é"]}), "other arguments"),
        (ORDER._replace(arguments={"a": True, "b": [1.5, "é"]}), "other arguments"),
        (ORDER._replace(data=""), "another pulzar_data, 'some/key' instead of 'none'"),
        (ORDER._replace(options=ONCE._replace(timeout=6)), "other options: timeout = 5 instead of 6"),
        (ORDER._replace(options=ONCE._replace(node="n1")), "other options: node = '' instead of 'n1'"),
    ],
)
def test_another_launch_with_a_known_token_is_a_conflict(desk: Desk, other: Order, words: str) -> None:
    desk.launch(ORDER)
    with pytest.raises(Conflict, match=f"'once' belongs to job 1, which has {words}; nothing was launched"):
        desk.launch(other)
    assert desk.launch(ORDER) == ([1], [])


def test_the_order_of_the_names_makes_no_other_launch(desk: Desk) -> None:
    desk.launch(ORDER)
    assert desk.launch(ORDER._replace(arguments={"b": [1.5, "é"], "a": 1})) == ([1], [])


def test_a_schedule_and_a_job_do_not_share_a_token(desk: Desk) -> None:
    desk.launch(ORDER)
    with pytest.raises(Conflict, match="job 1, which has another time: at once instead of every 1 hours"):
        add(desk, ORDER)
    other = ORDER._replace(options=Options(unique="other"))
    number = add(desk, other)
    with pytest.raises(Conflict, match="schedule 2, which has another time: every 1 hours instead of at once"):
        desk.launch(other)
    with pytest.raises(Conflict, match="every 1 hours instead of once in 1 hours"):
        add(desk, other, HOURLY._replace(repeat=False))
    assert add(desk, other) == number == 2


def test_a_token_counts_until_its_job_is_forgotten(desk: Desk) -> None:
    desk.launch(ORDER)
    desk.claim(1)
    desk.finish(1, RunState.COMPLETED)
    with pytest.raises(Conflict):
        desk.launch(ORDER._replace(data=""))
    desk.now += 91 * 86_400_000
    assert desk.read(lambda view: desk.requeue.forgettable(view, desk.now)) == [1]
    desk.write(lambda tables: tables.remove(1))
    assert desk.launch(ORDER._replace(data=""))[0] == [2]


def test_another_job_by_hand_with_a_known_token_is_buried_with_the_reason_and_ended(desk: Desk) -> None:
    desk.launch(ORDER)
    body = jobs.write(ORDER._replace(data=""))
    claim = Claimed(token(9), 0, 1, desk.now, body)
    actions = desk.write(lambda tables: desk.transitions.claimed(tables, "n1", claim, desk.now))
    assert withdrawn(actions) == [(0, 1, token(9))]
    (buried,) = [action for action in actions if isinstance(action, Bury)]
    assert buried.order == body
    assert "'once' belongs to job 1" in buried.reason
    # Of the same one only the run ends, for the job is there already.
    claim = claim._replace(order=jobs.write(ORDER))
    actions = desk.write(lambda tables: desk.transitions.claimed(tables, "n1", claim, desk.now))
    assert withdrawn(actions) == [(0, 1, token(9))]
    assert len(actions) == 1


def test_another_job_by_hand_that_is_given_back_is_buried_too(desk: Desk) -> None:
    desk.launch(ORDER)
    body = jobs.write(ORDER._replace(data=""))
    (buried,) = desk.write(
        lambda tables: desk.transitions.returned(tables, "n1", Returned(body, "no script", token(9)), desk.now)
    )
    assert isinstance(buried, Bury)
    assert (buried.order, published([buried])) == (body, [])


def test_a_key_of_a_request_stands_for_other_tokens_than_any_job_has(desk: Desk) -> None:
    # Given a job whose own token looks like the place of a job in a request
    desk.launch(ORDER._replace(options=Options(unique="orders 0")))
    # Then a request with that key launches a job of its own, once
    order = ORDER._replace(options=Options(unique=unique_tokens.of_key("orders", 0)))
    assert desk.launch(order)[0] == [2]
    assert desk.launch(order)[0] == [2]
    # And what it is told of another job in that place is about its key
    with pytest.raises(Conflict, match=r"^the Idempotency-Key 'orders' belongs to job 2, which has other arguments"):
        desk.launch(order._replace(arguments={}))
    # And the longest key makes a token that a message may have
    token = unique_tokens.of_key("k" * MAX_KEY, MOST - 1)
    assert jobs.read(jobs.write(ORDER._replace(options=Options(unique=token)))).options.unique == token
