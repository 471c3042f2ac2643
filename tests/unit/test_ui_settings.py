"""The screen of settings: values as a file has them, secrets never, what is pending."""

from __future__ import annotations

import re
from dataclasses import replace

from broker import settings
from broker.settings import Backup, Broker, General, Server, Settings
from master.web.ui.settings import Row, rows
from tests.support import ROOT

SECRET = "a-hidden-text"
SOURCES = {
    package: "".join(path.read_text() for path in (ROOT / package).rglob("*.py") if "ui" not in path.parts)
    for package in ("master", "node")
}
LOADED = Settings(
    general=General(secret=SECRET, quotas=(("folder/", 1000), ("/", 5))),
    broker=Broker(url=f"amqp://u:{SECRET}@h/"),
    backup=Backup(psw=SECRET, address=f"rest:https://u:{SECRET}@h/r"),
)


def of(found: list[Row], name: str) -> Row:
    return next(row for row in found if row.name == name)


def test_every_setting_is_there_and_no_secret_nor_how_long_it_is() -> None:
    found = rows(LOADED, LOADED, {})
    assert [row.name for row in found] == [one.name for one in settings.TABLE]
    assert SECRET not in repr(found)
    hidden = [row for row in found if row.value == "hidden"]
    assert {row.name for row in hidden} == {one.name for one in settings.TABLE if one.secret}
    shorter = replace(LOADED, general=General(secret="x"), broker=Broker(url="amqp://h/"), backup=Backup(psw="y"))
    assert [row for row in rows(shorter, shorter, {}) if row.value == "hidden"] == hidden


def test_values_are_written_as_a_file_has_them_and_can_be_read_back() -> None:
    found = rows(LOADED, LOADED, {})
    assert of(found, "[server] relay").value == "64M"
    assert of(found, "[general] quotas").value == "folder/: 1000, /: 5"
    assert of(found, "[volume] open_reads").value == "True"
    assert of(found, "[backup] address").value == "rest:https://u:***@h/r"
    for one in settings.TABLE:
        if not one.secret:
            assert one.parse(of(rows(Settings(), None, {}), one.name).value) == one.default, one.name


def test_what_the_file_says_now_is_shown_beside_what_is_in_force() -> None:
    fresh = replace(LOADED, server=Server(port=1000), general=replace(LOADED.general, secret="another"))
    changed = {row.name: row.changed for row in rows(LOADED, fresh, {}) if row.changed is not None}
    assert changed == {"[server] port": "1000", "[general] secret": ""}
    # A file that can't be used changes nothing.
    assert not [row for row in rows(LOADED, None, {}) if row.changed is not None]


def test_it_is_said_who_must_be_restarted() -> None:
    found = rows(LOADED, LOADED, {"[server] port": "PULZAR_SERVER_PORT"})
    assert of(found, "[server] port")[5:7] == ("PULZAR_SERVER_PORT", "master")
    assert of(found, "[jobs] slots").restart == "nodes"
    assert of(found, "[jobs] lease").restart == "master"
    assert of(found, "[general] secret").restart == "master and nodes"
    assert "2 s" in of(found, "[security] tokens").fresh


def test_who_must_be_restarted_is_who_reads_it() -> None:
    def uses(one: settings.Setting, package: str) -> bool:
        return bool(re.search(rf"\b{one.section}\.{one.key}\b", SOURCES[package]))

    for one, row in zip(settings.TABLE, rows(LOADED, LOADED, {}), strict=True):
        assert row.restart != "master" or not uses(one, "node"), one.name
        assert row.restart != "nodes" or not uses(one, "master"), one.name
