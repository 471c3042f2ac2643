"""The table of settings, the sample file and the page of the docs."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from broker import keys, setting_types, settings
from broker.errors import SettingsError
from master.cluster.replicas import Replicas

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


def test_where_a_setting_comes_from_is_told(tmp_path: Path) -> None:
    file = tmp_path / "server.conf"
    file.write_text("[server]\nport=1000\nhost=h\n")
    environ = {"PULZAR_SERVER_PORT": "2000", settings.CONFIG_VARIABLE: str(file), "HOME": "/"}
    assert settings.origins(None, environ) == {"[server] host": str(file), "[server] port": "PULZAR_SERVER_PORT"}
    assert settings.origins(None, {}) == {}


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


def test_the_settings_that_a_page_shows_are_good_ones(tmp_path: Path) -> None:
    shown = re.findall(r"^```ini\n(.*?)^```$", (ROOT / "docs" / "backup.md").read_text(), re.DOTALL | re.MULTILINE)
    assert shown
    for number, text in enumerate(shown):
        (tmp_path / f"{number}.conf").write_text(text)
        assert settings.load(tmp_path / f"{number}.conf", {}).backup.active


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
        ("[backup]\ntype=floppy\n", "one of directory, sftp, s3, restic, rclone is needed, or nothing"),
        ("[backup]\nactive=True\ntype=directory\n", r"give \[backup\] type and address, too"),
        ("[backup]\nat=25:00\n", 'a time like "02:30"'),
        ("[backup]\nat=30 2 31 4 *\n", "Bad day"),
        ("[backup]\nat=30 2 * * * *\n", "five fields of cron"),
        ("[backup]\nat=61 2 * * *\n", "Bad minute"),
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


def test_the_first_secret_signs_and_all_verify(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("# two\na\n\nb\n")
    file.chmod(0o640)
    listed, filed, one, other = (
        settings.load(None, {"PULZAR_GENERAL_SECRET": text}) for text in (" a, b,", f"file:{file}", "a", "b")
    )
    assert listed.secrets() == filed.secrets() == (one.secret(), other.secret())
    assert listed.secret() == one.secret()


@pytest.mark.parametrize("how", ["gone", "empty", "others"])
def test_a_file_of_secrets_that_can_not_be_used_is_refused(tmp_path: Path, how: str) -> None:
    file = tmp_path / "secret"
    if how != "gone":
        file.write_text("" if how == "empty" else "secret")
        file.chmod(0o604 if how == "others" else 0o600)
    with pytest.raises(SettingsError, match=r"\[general\] secret") as error:
        settings.load(None, {"PULZAR_GENERAL_SECRET": f"file:{file}"}).secrets()
    assert "secret\n" not in str(error.value)


@pytest.mark.parametrize(
    ("variable", "given", "message"),
    [
        ("BROKER_URL", "http://x", "amqp://user:password@host:5672/%2F"),
        ("BROKER_URL", "", "amqp://user:password@host:5672/%2F"),
        ("BROKER_URL", "amqp:///vhost", "amqp://user:password@host:5672/%2F"),
        ("BROKER_URL", "amqp://host:x/", "amqp://user:password@host:5672/%2F"),
        ("SERVER_ADVERTISE", "store.example", "host:port"),
        ("VOLUME_ADVERTISE", "store.example", "host:port"),
        ("VOLUME_ADVERTISE", "http://store.example:1", "host:port"),
        ("VOLUME_ADVERTISE", "store.example:1/path", "host:port"),
        ("VOLUME_ADVERTISE", "store.example:0", "host:port"),
        ("VOLUME_ADVERTISE", "::1", "host:port"),
        ("VOLUME_ADVERTISE", "0.0.0.0:31415", "every address"),
        ("VOLUME_ADVERTISE", "[::]:31415", "every address"),
        ("VOLUME_ADVERTISE", "[::ffff:0.0.0.0]:31415", "every address"),
        ("VOLUME_HOST", "[::]", "without brackets"),
        ("VOLUME_HOST", "[::1]", "without brackets"),
        ("SERVER_HOST", "store.example:80", "port is a setting of its own"),
        ("SERVER_HOST", "http://store.example", "port is a setting of its own"),
    ],
)
def test_an_address_that_nobody_could_use_is_refused_at_once(variable: str, given: str, message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        settings.load(None, {f"PULZAR_{variable}": given})
    assert message in str(refused.value)
    assert f"PULZAR_{variable}" in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "given"),
    [
        ("BROKER_URL", "amqp://host"),
        ("BROKER_URL", "amqps://user:p%40ss@[::1]:5671/pulzar?heartbeat=10"),
        ("SERVER_ADVERTISE", "None"),
        ("SERVER_ADVERTISE", "[fd00::1]:80"),
        ("SERVER_ADVERTISE", "pulzar_master.local:80"),
        ("SERVER_HOST", "fe80::1%eth0"),
        ("SERVER_HOST", "pulzar_master"),
    ],
)
def test_an_address_that_can_be_used_is_taken_as_it_is(variable: str, given: str) -> None:
    settings.load(None, {f"PULZAR_{variable}": given})


def test_every_address_in_the_form_of_ipv6_is_every_address() -> None:
    with pytest.raises(SettingsError, match="every address"):
        reached_at({"PULZAR_VOLUME_HOST": "::ffff:0.0.0.0"}, "volume")
    assert settings.reachable("::ffff:0.0.0.0") == "127.0.0.1"


@pytest.mark.parametrize(
    ("environ", "beyond"),
    [
        ({}, ""),
        ({"SERVER_HOST": "127.0.0.5", "VOLUME_HOST": "::1", "VOLUME_ADVERTISE": "LOCALHOST:5"}, ""),
        ({"SERVER_HOST": "::ffff:127.0.0.1", "SERVER_ADVERTISE": "[::1]:5"}, ""),
        ({"SERVER_HOST": "10.0.0.5"}, "[server] host = '10.0.0.5'"),
        ({"SERVER_HOST": "0.0.0.0", "SERVER_ADVERTISE": "localhost:5"}, "[server] host = '0.0.0.0'"),
        ({"SERVER_HOST": ""}, "[server] host = ''"),
        ({"VOLUME_HOST": "::"}, "[volume] host = '::'"),
        ({"VOLUME_ADVERTISE": "store.example:5"}, "[volume] advertise = 'store.example:5'"),
        ({"VOLUME_ADVERTISE": "localhost.example:5"}, "[volume] advertise = 'localhost.example:5'"),
    ],
)
def test_beyond_this_machine_a_secret_is_needed(environ: dict[str, str], beyond: str) -> None:
    environ = {f"PULZAR_{name}": value for name, value in environ.items()}
    config = settings.load(environ=environ)
    if beyond:
        with pytest.raises(SettingsError, match=re.escape(beyond) + r" is more than this machine.*openssl rand"):
            config.require_secret(config.server, config.volume)
    else:
        config.require_secret(config.server, config.volume)
    config = settings.load(environ=environ | {"PULZAR_GENERAL_SECRET": "x"})
    config.require_secret(config.server, config.volume)


@pytest.mark.parametrize(("program", "section"), [("master", "server"), ("node", "volume"), ("node", "server")])
def test_a_service_does_not_start_without_a_secret_beyond_this_machine(
    program: str, section: str, tmp_path: Path
) -> None:
    environ = os.environ | {
        f"PULZAR_{section.upper()}_HOST": "0.0.0.0",
        f"PULZAR_{section.upper()}_ADVERTISE": "a.example:5",
        "PULZAR_SERVER_DIR": str(tmp_path / "dir"),
        "PULZAR_VOLUME_DIR": str(tmp_path / "dir"),
    }
    done = subprocess.run([sys.executable, "-m", program], env=environ, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, "[general] secret (PULZAR_GENERAL_SECRET) is needed" in done.stderr) == (2, True)
    assert not (tmp_path / "dir").exists()


def test_replicas_are_a_number_or_numbers_of_folders() -> None:
    parse = setting_types.replicas
    assert parse("") == ()
    assert parse("2") == (("", 2),)
    assert parse("1, folder/: 2, /logs/a%2Cb/: 8") == (("", 1), ("folder/", 2), ("logs/a,b/", 8))
    for wrong in ("0", "9", "folder: 2", "folder/: x", "1, 2", "a/: 1, a/: 2", "a/:"):
        with pytest.raises(ValueError, match="is neither a number like 2 nor one of a folder"):
            parse(wrong)


def test_the_longest_folder_counts() -> None:
    replicas = Replicas([("", 2), ("a/", 3), ("a/b/", 1)], 2)
    wanted = {key: replicas.wanted(keys.encode(key)) for key in ("x", "a/x", "a/b/x", "a/bx", "ab")}
    assert wanted == {"x": 2, "a/x": 3, "a/b/x": 1, "a/bx": 3, "ab": 2}
    assert (replicas.most, replicas.least(3), replicas.least(1)) == (3, 2, 1)
    assert (Replicas().wanted(keys.encode("x")), Replicas().least(3)) == (1, 3)
