"""The rights in RabbitMQ follow from the topology, and reach no further."""

from __future__ import annotations

import re

import pytest

from broker import topology
from broker.rights import rights


@pytest.mark.parametrize("node", ["a", "node-1", "db.example_2", "N" * 100])
def test_every_name_of_the_topology_is_covered_whatever_the_node_is_called(node: str) -> None:
    may = rights()
    for item in topology.node(node, topology.control_queue(node)):
        if isinstance(item, topology.Queue):
            assert re.fullmatch(may.configure, item.name)
            assert re.fullmatch(may.read, item.name)
        elif isinstance(item, topology.Exchange):
            assert re.fullmatch(may.configure, item.name)
            assert re.fullmatch(may.write, item.name)
        else:
            assert re.fullmatch(may.write, item.queue)
            assert re.fullmatch(may.read, item.exchange)


@pytest.mark.parametrize(
    "name",
    [
        *("", "orders", "amq.topic", "pulzar", "pulzarXjobs", topology.JOBS.upper()),
        *(f"{topology.JOBS}.mine", f"my-{topology.JOBS}", f"{topology.RESULTS}2"),
        *(topology.node_queue(""), topology.node_queue("a b"), f"{topology.CONTROL}.x.y"),
    ],
)
def test_no_other_name_is_covered(name: str) -> None:
    assert not [pattern for pattern in rights() if re.fullmatch(pattern, name)]


def test_nobody_needs_to_publish_on_a_queue_but_by_the_default_exchange() -> None:
    may = rights()
    assert re.fullmatch(may.write, "amq.default")
    assert not re.fullmatch(may.write, topology.JOBS)
    assert not re.fullmatch(may.configure, "amq.default")
    assert not re.fullmatch(may.read, topology.EVENTS)
