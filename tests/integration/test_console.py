"""What RabbitMQ's console tells the web page, and what the page says when it does not."""

from __future__ import annotations

import dataclasses
import queue
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from broker import settings, topology
from broker.link import Delivery, Link
from master.web.ui.console import Console
from ops.cluster import Rabbit
from tests.support import wait_for

VHOST = "told/by"


def made(url: str, console: str) -> Console:
    config = settings.load(environ={})
    return Console(dataclasses.replace(config, broker=settings.Broker(url, console)))


@pytest.fixture
def vhost(rabbit: Rabbit) -> Iterator[Rabbit]:
    rabbit.create_vhost(VHOST)
    yield rabbit
    rabbit.delete_vhost(VHOST)


def test_it_tells_what_is_unacknowledged(vhost: Rabbit) -> None:
    # Given a message that somebody has, and does not acknowledge
    taken: queue.Queue[Delivery] = queue.Queue()
    link = Link(vhost.url(VHOST), "test", topology.master)
    link.consume(topology.RESULTS, taken.put, 10)
    link.start()
    assert link.wait(30)
    link.publish(topology.RESULTS, b"one")
    assert taken.get(timeout=30).body == b"one"
    # When the console is asked, then it tells
    console = made(vhost.url(VHOST), vhost.console_url)
    wait_for(lambda: console.numbers().unacknowledged[topology.RESULTS] == 1, what="the number")
    assert console.numbers().problem == ""
    link.stop()


def test_it_may_have_credentials_of_its_own(vhost: Rabbit) -> None:
    address = vhost.console_url.replace("http://", f"http://{vhost.user}:{quote(vhost.password)}@")
    console = made(vhost.url(VHOST, "nobody", "nothing"), address)
    wait_for(lambda: console.numbers().problem == "" and console._answered.is_set(), what="an answer")
    assert vhost.password not in console.link


def test_a_user_without_the_right_is_told_what_to_do(rabbit: Rabbit) -> None:
    console = made(rabbit.url("/", "nobody", "nothing"), rabbit.console_url)
    wait_for(lambda: "it refuses the user nobody; give that user the tag monitoring" in console.numbers().problem)


def test_a_console_that_is_away_or_not_named_says_so(rabbit: Rabbit) -> None:
    assert "name it in [broker] console" in made(rabbit.url(), "").numbers().problem
    away = made(rabbit.url(), "http://127.0.0.1:1/")
    wait_for(lambda: "does not tell" in away.numbers().problem)


@pytest.mark.parametrize(
    ("url", "console", "link"),
    [
        ("amqp://u:p@mq.example:5672/%2F", "", "http://mq.example:15672/#/queues"),
        ("amqp://[::1]/", "", "http://[::1]:15672/#/queues"),
        ("amqp://x", "https://u:p@mq.example/console/", "https://mq.example/console/#/queues"),
        ("amqp://x", "http://[fd00::1]:99", "http://[fd00::1]:99/#/queues"),
    ],
)
def test_its_link(url: str, console: str, link: str) -> None:
    assert made(url, console).link == link
