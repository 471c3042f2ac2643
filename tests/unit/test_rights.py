"""The rights in RabbitMQ follow from the topology, and reach no further."""

from __future__ import annotations

import re

import pytest

from broker import topology
from broker.rights import definitions, main, of_master, of_node, of_publisher, rights


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


def everything(node: str) -> set[str]:
    """Every name of queues and exchanges, with those of this node."""
    declared = (*topology.master_role(), *topology.node(node, topology.control_queue(node)))
    names = {item.name for item in declared if isinstance(item, topology.Queue | topology.Exchange)}
    return names | {"amq.default"}


def allowed(pattern: str, names: set[str]) -> set[str]:
    return {name for name in names if re.fullmatch(pattern, name)}


def test_a_node_may_make_its_own_queue_write_upwards_and_read_what_is_for_it() -> None:
    may, names, own = of_node("a.b"), everything("a.b"), topology.node_queue("a.b")
    control = {name for name in names if name.startswith(f"{topology.CONTROL}.")}
    assert allowed(may.configure, names) == {own, *control}
    assert allowed(may.write, names) == {topology.UP, own, *control}
    assert allowed(may.read, names) == {own, topology.CONTROL, *control, *topology.job_queues("a.b")}


@pytest.mark.parametrize("name", ["a", "a.b", "NODE", "NODE-1", "MADEUP", "abc", "0"])
@pytest.mark.parametrize("other", ["b", "aXb", "a.b.c", "abc.d", "NODEX", "deadbeef", "node-1", "00"])
def test_nothing_of_another_node_is_covered_whatever_both_are_called(name: str, other: str) -> None:
    names = {
        *(topology.node_queue(other), topology.node_jobs_queue(other), topology.node_data_queue(other)),
        topology.control_queue(other),
    }
    assert not [pattern for pattern in of_node(name) if allowed(pattern, names)]


def test_a_publisher_may_write_one_exchange_and_the_master_has_the_rest() -> None:
    names = everything("a")
    assert [allowed(pattern, names) for pattern in of_publisher()] == [set(), {topology.LAUNCH}, set()]
    may = of_master()
    own = {topology.node_queue("a"), *(name for name in names if name.startswith(f"{topology.CONTROL}."))}
    assert allowed(may.configure, names) == names - own - {"amq.default"}
    assert "amq.default" in allowed(may.write, names)
    # And what is nobody's is not covered
    foreign = {"orders", "amq.topic", "pulzar", f"{topology.JOBS}.mine", f"{topology.UP}2", ""}
    for pattern in (*may, *of_publisher(), *of_node("a")):
        assert not allowed(pattern, foreign - {""})


@pytest.mark.parametrize("name", ["", "a b", "x.jobs", "x.data", "-a", "N" * 101, "a\n"])
def test_a_name_that_is_no_nodes_or_a_queues_gets_no_rights(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="name"):
        of_node(name)
    assert main(["node", name]) == 2
    assert "name" in capsys.readouterr().err


def test_the_command_prints_three_lines_for_each_role(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, expected in (
        ([], rights()),
        (["master"], of_master()),
        (["node", "a"], of_node("a")),
        (["publisher"], of_publisher()),
    ):
        assert main(arguments) == 0
        assert capsys.readouterr().out.splitlines() == list(expected)
    assert main(["nobody"]) == 2
    assert "usage: python -m broker.rights" in capsys.readouterr().err


def test_definitions_have_users_by_role_no_password_in_clear_and_what_roles_share() -> None:
    users = {topology.MASTER_USER: "secret-1", topology.node_user("a"): "secret-2", "pulzar": "secret-3"}
    made = definitions("v", users, b"salt")
    assert "secret-" not in str(made)
    assert [each["name"] for each in made["users"]] == list(users)
    assert {each["user"]: each["write"] for each in made["permissions"]} == {
        topology.MASTER_USER: of_master().write,
        topology.node_user("a"): of_node("a").write,
        "pulzar": rights().write,
    }
    assert {each["name"] for each in made["exchanges"]} >= {topology.UP, topology.LAUNCH, topology.CONTROL}
    upwards = {each["destination"] for each in made["bindings"] if each["source"] == topology.UP}
    assert upwards == {topology.RESULTS, topology.HEARTBEATS, topology.PROGRESS, topology.DEAD}
    # And a user whom all share gets nothing of it
    assert set(definitions("v", {"pulzar": "x"}, b"salt")) == {"users", "vhosts", "permissions"}
