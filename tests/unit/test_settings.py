"""The table of settings, the sample file and the page of the docs."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from broker import setting_types, settings
from broker.errors import SettingsError

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "ops" / "server.conf"
PAGE = ROOT / "docs" / "configuration.md"


def test_the_sample_file_has_every_setting_with_its_default() -> None:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(SAMPLE)
    shown = {(section, key) for section in parser.sections() for key in parser[section]}
    assert shown == {(row.section, row.key) for row in settings.TABLE}
    assert settings.load(SAMPLE, {}) == settings.load(None, {})


def test_the_page_has_every_setting_with_its_default() -> None:
    rows = re.findall(r"^\| `\[(\w+)\] (\w+)` \| (.*?) \|", PAGE.read_text(), re.MULTILINE)
    shown = {(section, key): "" if default == "none" else default for section, key, default in rows}
    assert len(shown) == len(rows), "each is there once"
    assert {row: row.parse(shown.get((row.section, row.key), "?")) for row in settings.TABLE} == {
        row: row.default for row in settings.TABLE
    }
    assert set(shown) == {(row.section, row.key) for row in settings.TABLE}


def test_the_environment_beats_the_file(tmp_path: Path) -> None:
    file = tmp_path / "server.conf"
    file.write_text("[server]\nport=1000\n[volume]\ninline=64K\n")
    loaded = settings.load(file, {"PULZAR_SERVER_PORT": "2000", "HOME": "/"})
    assert loaded.server.port == 2000
    assert loaded.volume.inline == 65536


def test_the_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "server.conf"
    file.write_text("[server]\nport=1000\n")
    assert settings.load(None, {settings.CONFIG_VARIABLE: str(file)}).server.port == 1000


def test_the_first_pulzars_file_is_read_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "server.conf"
    file.write_text(
        "[server]\nhost=localhost\nport=31414\n[volume]\ndir=/var/lib/pulzar/data\nport=31415\n[general]\n"
        "retention_policy=90\n[jobs]\ndir=jobs\n[backup]\nactive=False\ntype=None\naddress=None\nuser=None\npsw=None\n"
    )
    assert settings.load(file, {}) == settings.load(None, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nprot=1\n", r"\[server\] prot is no setting; \[server\] port\?"),
        ("[sever]\nport=1\n", "is no setting"),
        ("[server]\nport=http\n", "an integer from 0 to 65535 is needed"),
        ("[server]\nport=70000\n", "an integer from 0 to 65535 is needed"),
        ("[extensions]\nfetch=http://pictures.example\n", r"hosts like pictures\.example or 10\.0\.0\.5:8080"),
        ("[extensions]\nfetch=a.example:port, b.example\n", r"hosts like pictures\.example"),
        ("[extensions]\nfetch=user@a.example\n", r"hosts like pictures\.example"),
        ("[volume]\ninline=1X\n", "a size from 0 to"),
        ("[general]\nheartbeat=nan\n", "a number from"),
        ("[general]\nlog_level=loud\n", "one of debug, info"),
        ("[general]\nevents=maybe\n", "True or False"),
        ("port=1\n", "can't be read"),
        ("\xff\xfe[", "can't be read"),
    ],
)
def test_a_bad_file_is_refused_with_a_clear_message(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "server.conf"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(SettingsError, match=message):
        settings.load(file, {})


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="can't be read"):
        settings.load(tmp_path / "none.conf", {})


def test_a_bad_variable_is_refused() -> None:
    with pytest.raises(SettingsError, match="PULZAR_SERVER_PORT"):
        settings.load(None, {"PULZAR_SERVER_PORT": "x"})
    with pytest.raises(
        SettingsError, match=r"PULZAR_SERVER_PROT in the environment is no setting; PULZAR_SERVER_PORT\?"
    ):
        settings.load(None, {"PULZAR_SERVER_PROT": "1"})


def test_a_secret_never_shows_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    row = next(row for row in settings.TABLE if row.secret)._replace(parse=setting_types.integer(0, 1))
    with pytest.raises(SettingsError) as error:
        row.read("hunter2", "here")
    assert "hunter2" not in str(error.value)


def test_the_url_secret_follows_the_brokers_credentials_unless_given() -> None:
    one = settings.load(None, {"PULZAR_BROKER_URL": "amqp://u:p@h/"}).secret()
    other = settings.load(None, {"PULZAR_BROKER_URL": "amqp://u:q@h/"}).secret()
    same = settings.load(None, {"PULZAR_BROKER_URL": "amqp://u:p@other/"}).secret()
    given = settings.load(None, {"PULZAR_BROKER_URL": "amqp://u:p@h/", "PULZAR_GENERAL_SECRET": "s"}).secret()
    assert one == same
    assert len({one, other, given}) == 3


def reached_at(variables: dict[str, str], section: str) -> str:
    known = settings.load(None, variables)
    return known.address(getattr(known, section))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "0", "0:0:0:0:0:0:0:0", ""])
@pytest.mark.parametrize(("program", "section"), [("master", "server"), ("node", "volume"), ("node", "server")])
def test_who_listens_on_every_address_says_which_one_others_reach_it_at_or_does_not_start(
    tmp_path: Path, program: str, section: str, host: str
) -> None:
    # Given a process that listens everywhere and advertises nothing
    variable = f"PULZAR_{section.upper()}"
    environment = {f"{variable}_HOST": host, f"{variable}_PORT": "31999", "PULZAR_BROKER_URL": "amqp://localhost:1/"}
    environment |= {"PULZAR_SERVER_DIR": str(tmp_path / "made"), "PULZAR_VOLUME_DIR": str(tmp_path / "made")}
    # When it is started
    done = subprocess.run(
        [sys.executable, "-m", program],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    # Then it ends with what was given, and what to set, before it has made anything
    assert (done.returncode, done.stdout) == (2, "")
    assert f"pulzar {program}: [{section}] host = {host!r}" in done.stderr
    assert f"{variable}_ADVERTISE" in done.stderr
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_what_is_advertised_is_the_address_whatever_is_listened_on(host: str) -> None:
    variables = {"PULZAR_SERVER_HOST": host, "PULZAR_SERVER_ADVERTISE": "store.example:80"}
    assert reached_at(variables, "server") == "store.example:80"


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("::1", "[::1]:31415"),
        ("fd00::a:1", "[fd00::a:1]:31415"),
        ("10.0.0.1", "10.0.0.1:31415"),
        ("a.example", "a.example:31415"),
    ],
)
def test_an_ipv6_address_stands_in_brackets(host: str, address: str) -> None:
    assert reached_at({"PULZAR_VOLUME_HOST": host}, "volume") == address


@pytest.mark.parametrize(
    ("host", "reached"),
    [("0.0.0.0", "127.0.0.1"), ("", "127.0.0.1"), ("::", "::1"), ("::1", "::1"), ("10.0.0.1", "10.0.0.1"), ("a", "a")],
)
def test_a_process_is_reached_from_its_own_machine(host: str, reached: str) -> None:
    assert settings.reachable(host) == reached
