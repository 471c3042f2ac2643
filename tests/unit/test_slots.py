"""How many jobs a node takes from its queues."""

from __future__ import annotations

from broker.link import Delivery
from node.jobs.slots import Slots
from tests.unit.jobs_thread import FakeLink


def test_as_many_jobs_are_wanted_as_slots_are_free() -> None:
    link = FakeLink()
    taken: list[Delivery] = []
    slots = Slots(link, "node-1", 3, taken.append)  # type: ignore[arg-type]
    puller = link.puller
    slots.work()
    assert puller.wanted == 0
    slots.open(True)
    slots.work()
    assert puller.wanted == 3
    first, second, _third = (puller.deliver(tag) for tag in (1, 2, 3))
    assert puller.wanted == 0
    slots.ack(first)
    slots.work()
    assert puller.wanted == 0  # it runs
    slots.drop(second)
    slots.work()
    assert puller.wanted == 1
    slots.release()
    slots.work()
    assert puller.wanted == 2
    slots.open(False)
    slots.give_back(taken[2])
    slots.work()
    assert puller.wanted == 0
    assert puller.done == [("ack", 1), ("ack", 2), ("back", 3)]


def test_as_many_jobs_are_wanted_ahead_as_are_not_here_yet() -> None:
    link = FakeLink()
    slots = Slots(link, "node-1", 2, lambda _: None)  # type: ignore[arg-type]
    puller = link.puller
    slots.open(True)
    slots.take_ahead(4)
    slots.work()
    assert (puller.wanted, puller.ahead) == (2, 4)
    taken = [puller.deliver(tag) for tag in range(1, 7)]
    slots.ack(taken[0])
    slots.release()
    slots.work()
    assert (puller.wanted, puller.ahead) == (0, 1)  # 3 wait
    slots.release()
    slots.work()
    assert (puller.wanted, puller.ahead) == (0, 2)
    slots.take_ahead(0)
    slots.ack(taken[1])
    slots.work()
    assert (puller.wanted, puller.ahead) == (0, 0)
    told: list[bool] = []
    slots.take_ahead(4)
    slots.ack(taken[2], told.append)
    slots.work()
    # While there are many to acknowledge that is done together, unless somebody wants to know when.
    assert puller.done == [("ack soon", 1), ("ack", 2), ("ack", 3)]
    assert told == [True]
