"""What a link says of a RabbitMQ that is not there."""

from __future__ import annotations

import logging
import socket

import pytest

from broker.link import Link
from tests.support import wait_for


def test_the_log_says_which_rabbitmq_is_not_there_and_no_password(caplog: pytest.LogCaptureFixture) -> None:
    # Given an address where nobody listens
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    link = Link(f"amqp://somebody:hidden@127.0.0.1:{port}/v", "test", list)
    # When a link tries to connect
    with caplog.at_level(logging.INFO):
        link.start()
        wait_for(lambda: "link down" in caplog.messages, what="a line in the log")
        link.stop()
    # Then its line in the log has the address
    record = next(record for record in caplog.records if record.message == "link down")
    assert record.fields["address"] == f"127.0.0.1:{port}"  # type: ignore[attr-defined]
    assert "hidden" not in caplog.text
