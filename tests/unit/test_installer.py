"""The parts of ops/install, each with real files below a directory of its own; the programs it runs only say so."""

from __future__ import annotations

import grp
import os
import re
import shutil
import socket
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from broker import settings
from broker.errors import SettingsError
from broker.link import roles as broker_roles
from ops.installer import commands, configuration, options, packages, rabbitmq, release, removal, roles, services
from ops.installer.errors import CommandFailed, InstallError
from ops.installer.installation import Installation
from ops.installer.options import Options
from ops.installer.places import Places
from tests.support import ROOT

URL = "amqp://me:secret@there:5672/p"
OWN_URL = f"amqp://pulzar:{'0f' * 24}@localhost:5672/pulzar"


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """An installation in a directory, of a checkout that has the parts that a test reads."""
    source, root = tmp_path / "checkout", tmp_path / "root"
    for part in release.PARTS:
        (source / part).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, source / part)
    root.mkdir()
    group = grp.getgrgid(os.getegid()).gr_name
    return Places(source, root, user="no-such-user-of-pulzar", group=group)


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with what was asked of systemctl, rabbitmqctl and apt-get, which are the only programs on PATH."""
    log, programs = tmp_path / "said", tmp_path / "programs"
    programs.mkdir()
    log.touch()
    for name in ("apt-get", "rabbitmqctl", "systemctl"):
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {log}\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    return log


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def installed(places: Places, *roles: str) -> None:
    """As if these roles had been installed."""
    places.units.mkdir(parents=True)
    for role in roles:
        places.unit(role).touch()


def test_a_file_that_nobody_changed_is_replaced(places: Places) -> None:
    place = places.config / "jobs/mine.py"
    assert configuration.offer(places, b"one", place, 0o640)
    assert configuration.offer(places, b"two", place, 0o640)
    assert (place.read_bytes(), mode(place)) == (b"two", 0o640)
    assert not configuration.offer(places, b"two", place, 0o640)
    assert [path.name for path in place.parent.iterdir()] == ["mine.py"]


def test_a_file_that_was_changed_stays_and_the_new_one_lies_beside_it(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a file that its owner changed
    place, new = places.config / "server.conf", places.config / "server.conf.new"
    configuration.offer(places, b"one", place, 0o640)
    place.write_bytes(b"mine")
    # When there is a newer one
    assert not configuration.offer(places, b"two", place, 0o640)
    # Then both are there, and it is said
    assert (place.read_bytes(), new.read_bytes()) == (b"mine", b"two")
    assert f"{place} was changed here and stays as it is; the new one is {new}" in capsys.readouterr().out
    # And it is said once
    assert not configuration.offer(places, b"two", place, 0o640)
    assert capsys.readouterr().out == ""
    # And whoever took the new one gets the next one in its place
    place.write_bytes(b"two")
    assert configuration.offer(places, b"three", place, 0o640)
    assert (place.read_bytes(), new.exists()) == (b"three", False)


def test_a_file_that_was_deleted_stays_away(places: Places) -> None:
    place = places.config / "jobs/mine.py"
    configuration.offer(places, b"one", place, 0o644)
    place.unlink()
    assert not configuration.offer(places, b"two", place, 0o644)
    assert not place.exists()


def test_a_file_of_the_owners_own_is_not_overwritten_by_the_first_installation(places: Places) -> None:
    place = places.config / "server.conf"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"mine")
    assert not configuration.offer(places, b"one", place, 0o644)
    assert place.read_bytes() == b"mine"


def test_the_settings_that_are_installed_are_the_defaults_but_for_folders_and_the_broker(places: Places) -> None:
    # When the configuration is installed
    assert configuration.install(places)
    # Then the settings are the defaults, with scripts and extensions where the owner has them
    known, defaults = settings.load(places.settings, {}), settings.load(None, {})
    assert known == replace(
        defaults,
        jobs=replace(defaults.jobs, dir=str(places.config / "jobs"), user=places.jobs),
        extensions=replace(defaults.extensions, dir=str(places.config / "extensions")),
    )
    assert "amqp://" not in places.settings.read_text()
    # And scripts and extensions are there, without what is of the packages themselves
    names = {
        str(path.relative_to(places.config)) for path in places.config.rglob("*.py") if ".shipped" not in str(path)
    }
    assert names >= {"jobs/example/factorial.py", "jobs/text/words.py", "extensions/example.py"}
    assert not {name for name in names if name.count("/") == 1 and name.startswith("jobs/")}
    assert not {name for name in names if Path(name).name.startswith("_") and name.startswith("extensions/")}
    # And others can't read them
    assert (mode(places.config), mode(places.settings), mode(places.shipped)) == (0o751, 0o640, 0o700)
    # And the second time nothing changes
    assert not configuration.install(places)


def test_a_url_of_rabbitmq_replaces_another_one_alone(places: Places) -> None:
    # When one is given
    assert configuration.set_broker_url(places, OWN_URL)
    assert (configuration.broker_url(places), configuration.own_password(places)) == (OWN_URL, "0f" * 24)
    assert mode(places.environment) == 0o600
    # And it stays
    before = places.environment.read_text()
    assert not configuration.set_broker_url(places, OWN_URL)
    assert places.environment.read_text() == before
    # And another one replaces it, and nothing else
    places.environment.write_text(before + "PULZAR_GENERAL_SECRET=mine\n")
    assert configuration.set_broker_url(places, URL)
    assert places.environment.read_text().splitlines() == [
        before.splitlines()[0],
        "PULZAR_GENERAL_SECRET=mine",
        f'PULZAR_BROKER_URL="{URL}"',
    ]
    assert (configuration.broker_url(places), configuration.own_password(places)) == (URL, "")
    # And it can be taken out
    configuration.remove_broker_url(places)
    assert configuration.broker_url(places) == ""
    assert configuration.variables(places.environment.read_text()) == {"PULZAR_GENERAL_SECRET": "mine"}


def test_each_role_gets_a_user_of_its_own_once_that_root_alone_can_read(places: Places) -> None:
    # Given settings, and a node with data of before
    configuration.install(places)
    data = places.data / "data"
    data.mkdir(parents=True)
    (data / "node-id").write_text("web-1\n")
    with places.settings.open("a") as file:
        file.write("\n")
    known = replace(configuration.load(places), volume=replace(settings.Volume(), dir=str(data)))
    # When both are set up
    assert roles.set_up(places, services.ROLES, known)
    # Then each has a URL with a user and a password of its own, and both have a secret
    master, node = (configuration.role_url(places, role) for role in services.ROLES)
    found = roles.passwords(places)
    assert list(found) == ["pulzar.master", "pulzar.node.web-1"]
    assert master == f"amqp://pulzar.master:{found['pulzar.master']}@localhost:5672/pulzar"
    assert node == f"amqp://pulzar.node.web-1:{found['pulzar.node.web-1']}@localhost:5672/pulzar"
    assert len({*found.values(), configuration.load(places).general.secret}) == 3
    for private in (places.key, places.users, *map(places.role_environment, services.ROLES)):
        assert mode(private) == 0o600, private
    assert "amqp://" not in places.environment.read_text()
    # And services would start with these
    for role, url in zip(services.ROLES, (master, node), strict=True):
        environ = configuration.variables(places.environment.read_text()) | {"PULZAR_BROKER_URL": url}
        config = settings.load(places.settings, environ)
        sender = broker_roles.of_master(config) if role == "master" else broker_roles.of_node(config, "web-1")
        assert sender.user
    # And the second time nothing changes
    assert not roles.set_up(places, services.ROLES, configuration.load(places))


def test_a_new_node_gets_a_name_for_its_user(places: Places) -> None:
    first = roles.node_name(replace(settings.Settings(), volume=replace(settings.Volume(), dir=str(places.data))))
    assert re.fullmatch(r"[A-Za-z0-9-]+-[0-9a-f]{4}", first)
    named = replace(settings.Volume(), dir=str(places.data), node="mine")
    assert roles.node_name(replace(settings.Settings(), volume=named)) == "mine"


@pytest.mark.usefixtures("said")
def test_credentials_of_another_node_are_the_same_each_time_and_are_read_there(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbitmq, "give_rights", lambda _passwords: None)
    configuration.install(places)
    # Without a RabbitMQ that was set up here there are none
    with pytest.raises(InstallError, match="RabbitMQ was not set up here"):
        roles.credentials(places, "pulzar.node.b")
    # Given a master with a secret that needs quoting, and an address
    roles.set_up(places, ["master"], configuration.load(places))
    configuration.set_secret(places, 'a "secret" \\ of $HOME')
    places.environment.write_text(places.environment.read_text() + "PULZAR_SERVER_ADVERTISE=store.example:31414\n")
    # When a node's are made
    made = roles.credentials(places, "pulzar.node.b")
    assert roles.credentials(places, "pulzar.node.b") == made
    # Then they have its user at that address and the secret, and nothing of the master
    given = roles.parsed(made)
    password = roles.passwords(places)["pulzar.node.b"]
    assert given == {
        "PULZAR_BROKER_URL": f"amqp://pulzar.node.b:{password}@store.example:5672/pulzar",
        "PULZAR_GENERAL_SECRET": 'a "secret" \\ of $HOME',
    }
    # And a publisher gets no secret
    assert set(configuration.variables(roles.credentials(places, "pulzar.publisher"))) == {"PULZAR_BROKER_URL"}
    # And a name that can't be is refused
    for name in ("a b", "x.jobs", "-"):
        with pytest.raises(InstallError, match="name"):
            roles.credentials(places, f"pulzar.node.{name}")
    # And what is no credentials is refused without a word of what was given
    with pytest.raises(
        InstallError, match=r"have PULZAR_BROKER_URL and PULZAR_GENERAL_SECRET.*; these have X"
    ) as caught:
        roles.parsed("X=hush\n")
    assert "hush" not in str(caught.value)


def test_roles_wait_for_nodes_elsewhere_that_still_share_a_user(
    places: Places, said: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given master and node that share a user, and what RabbitMQ says of connections
    configuration.install(places)
    configuration.set_broker_url(places, OWN_URL)
    services.install(places, services.ROLES, enable=True)
    places.unit("node").write_text("an older unit\n")
    with pytest.raises(InstallError, match="ops/install --upgrade comes first"):
        roles.switch(places)
    for role in services.ROLES:
        places.unit(role).write_text(f"EnvironmentFile=-{places.role_environment(role)}\n")
    monkeypatch.setattr(roles, "node_name", lambda _known: "here")
    rows = [
        *(("pulzar", "pulzar node here"), ("pulzar", "pulzar node b.2"), ("pulzar", "pulzar master controller")),
        *(("pulzar.node.c", "pulzar node c"), ("orders", "pulzar node d"), ("pulzar", "pulzar node b.2")),
    ]
    listed = "".join(f'{user}\t[{{"version","1.4"}},{{"connection_name","{name}"}}]\n' for user, name in rows)
    program = said.with_name("programs") / "rabbitmqctl"
    program.write_text(f"#!/bin/sh\n/bin/cat <<'END'\n{listed}END\n")
    # Then those that are elsewhere and share it are named, and nothing has changed
    with pytest.raises(InstallError, match=r"still use RabbitMQ's user pulzar: b\.2\n.*--add-node NAME"):
        roles.switch(places)
    assert configuration.broker_url(places) == OWN_URL
    assert not places.key.exists()


def test_the_secret_of_before_is_what_signed_until_then(places: Places) -> None:
    configuration.set_broker_url(places, OWN_URL)
    before = settings.load(None, {"PULZAR_BROKER_URL": OWN_URL}).secret()
    environ = {"PULZAR_BROKER_URL": URL, "PULZAR_GENERAL_SECRET": configuration.old_secret(places)}
    assert settings.load(None, environ).secret() == before


@pytest.mark.parametrize(
    ("before", "given", "roles", "secret"),
    [
        ("", URL, ("master",), "random"),
        ("", URL, ("master", "node"), "random"),
        ("", URL, ("node",), None),  # its master has it
        (URL, "", ("master",), "me:secret"),
        (URL, "amqp://me:other@there:5672/p", ("node",), "me:secret"),
        ("", "", ("master",), "random"),
    ],
)
def test_an_installation_has_a_secret_that_is_random_or_what_has_signed_until_then(
    places: Places, before: str, given: str, roles: tuple[str, ...], secret: str | None
) -> None:
    configuration.install(places)
    if before:
        configuration.set_broker_url(places, before)
    Installation(places, Options(roles=roles, broker_url=given), roles)._set_urls()
    found = configuration.variables(places.environment.read_text()).get("PULZAR_GENERAL_SECRET")
    if secret == "random":
        assert found
        assert re.fullmatch("[0-9a-f]{48}", found)
    else:
        assert found == secret
    # And it stays when it is done again
    Installation(places, Options(roles=roles, broker_url=given), roles)._set_urls()
    assert configuration.variables(places.environment.read_text()).get("PULZAR_GENERAL_SECRET") == (
        found or "me:secret"
    )


def test_the_environment_is_read_as_systemd_reads_it() -> None:
    text = '# A=1\n; B=2\nC="x y"\nD=\'z\'\nE=bare\nF=two words\nG=\n\nnothing\nH="open\n'
    assert configuration.variables(text) == {
        "C": "x y",
        "D": "z",
        "E": "bare",
        "F": "two words",
        "G": "",
        "H": '"open',
    }


@pytest.mark.parametrize(
    ("section", "roles", "refused"),
    [
        ("server", ["master"], True),
        ("server", ["node"], True),
        ("volume", ["node"], True),
        ("volume", ["master"], False),
    ],
)
def test_settings_that_a_service_would_refuse_are_told_before_anything_changes(
    places: Places, section: str, roles: list[str], refused: bool
) -> None:
    configuration.install(places)
    places.settings.write_text(f"[{section}]\nhost=0.0.0.0\n")
    if refused:
        with pytest.raises(SettingsError, match=rf"\[{section}\] host = '0\.0\.0\.0'"):
            configuration.check(places, roles, gets_secret=True)
        with pytest.raises(SettingsError):
            Installation(places, Options(roles=tuple(roles), broker_url=URL), roles).run()
        assert not places.code.exists()
        places.environment.write_text(f"PULZAR_{section.upper()}_ADVERTISE=a.example:1\n")
        # A node elsewhere that is new needs the secret of its master
        with pytest.raises(SettingsError, match=r"\[general\] secret \(PULZAR_GENERAL_SECRET\) is needed"):
            configuration.check(places, roles, gets_secret=False)
    configuration.check(places, roles, gets_secret=True)


@pytest.mark.parametrize(
    ("host", "security", "told"),
    [
        ("localhost", {}, False),
        ("10.0.0.5", {}, True),
        ("10.0.0.5", {"TRUST": "10.0.0.0/8"}, False),
        ("0.0.0.0", {"TOKENS": "/etc/pulzar/tokens"}, False),
    ],
)
def test_who_listens_for_others_is_told_that_they_need_trust_or_a_token(
    host: str, security: dict[str, str], told: bool
) -> None:
    environ = {"PULZAR_SERVER_HOST": host} | {f"PULZAR_SECURITY_{name}": value for name, value in security.items()}
    known = settings.load(environ=environ)
    assert ("[security] trust" in configuration.advice(known, ["master"])) == told
    assert configuration.advice(known, ["node"]) == ""


def test_the_name_of_a_release_follows_what_it_is_made_of(places: Places) -> None:
    first = release.name(places, False)
    assert re.fullmatch(r"[0-9a-f]{12}-3\.\d+", first)
    # What Python writes beside the code, and times, are nothing of it
    (places.source / "broker/__pycache__").mkdir()
    (places.source / "broker/__pycache__/keys.pyc").touch()
    os.utime(places.source / "broker/keys.py", (1, 1))
    assert release.name(places, False) == first
    # All else is
    names = {first, release.name(places, True)}
    places.requirements.parent.mkdir(parents=True)
    places.requirements.write_text("dask\n")
    names.add(release.name(places, False))
    (places.source / "broker/keys.py").chmod(0o755)
    names.add(release.name(places, False))
    (places.source / "jobs/new.py").touch()
    names.add(release.name(places, False))
    assert len(names) == 5


def test_the_release_before_the_current_one_is_kept_and_older_ones_are_not(places: Places) -> None:
    for name in ("a-3.11", "b-3.11", "c-3.11"):
        (places.code / name).mkdir(parents=True)
        assert release.switch(places, places.code / name)
        assert os.readlink(places.code / "current") == name
    assert sorted(path.name for path in places.code.iterdir()) == ["b-3.11", "c-3.11", "current"]
    assert not release.switch(places, places.code / "c-3.11")


@pytest.mark.usefixtures("said")
@pytest.mark.parametrize(
    ("own_broker", "extensions", "expected"),
    [
        (False, False, set()),
        (True, False, {"rabbitmq-server"}),
        (True, True, {"rabbitmq-server", "tesseract-ocr", "unixodbc"}),
    ],
)
def test_packages_are_missing_that_are_needed_and_not_there(
    places: Places, own_broker: bool, extensions: bool, expected: set[str]
) -> None:
    assert set(packages.missing(places, own_broker, extensions, "")) == expected
    server = places.root / packages.RABBITMQ
    server.parent.mkdir(parents=True)
    server.touch()
    assert set(packages.missing(places, own_broker, extensions, "")) == expected - {"rabbitmq-server"}


@pytest.mark.parametrize(
    ("kind", "program"),
    [("directory", ""), ("sftp", "rclone"), ("s3", "rclone"), ("rclone", "rclone"), ("restic", "restic")],
)
def test_what_the_target_of_backups_needs_is_missing_until_it_is_there(
    places: Places, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, program: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    places.settings.parent.mkdir(parents=True, exist_ok=True)
    places.settings.write_text(f"[backup]\ntype={kind}\n")
    found = configuration.backup_type(places)
    assert packages.missing(places, False, False, found) == ([program] if program else [])
    if program:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / program).touch(0o755)
        assert packages.missing(places, False, False, found) == []


def test_a_rabbitmq_that_is_installed_listens_on_this_machine_alone(places: Places, said: Path) -> None:
    packages.install(places, ["rabbitmq-server"])
    assert places.broker.read_text().endswith("\nlisteners.tcp.1 = 127.0.0.1:5672\n")
    assert [line.split()[-1] for line in said.read_text().splitlines()] == ["update", "rabbitmq-server"]
    # And an address that its owner has chosen stays
    places.broker.write_text("listeners.tcp.1 = 10.0.0.1:5672\n")
    packages.install(places, ["rabbitmq-server"])
    assert places.broker.read_text() == "listeners.tcp.1 = 10.0.0.1:5672\n"


def test_erlang_talks_on_this_machine_alone(places: Places, said: Path) -> None:
    packages.install(places, ["rabbitmq-server"])
    assert "inet_dist_use_interface {127,0,0,1}" in places.broker_environment.read_text()
    assert places.epmd.read_text().endswith("ListenStream=\nListenStream=127.0.0.1:4369\n")
    assert "--force-confold" in said.read_text()
    # And a file of its owner stays
    places.broker.unlink()
    places.broker_environment.write_text("NODENAME=mine\n")
    packages.install(places, ["rabbitmq-server"])
    assert places.broker_environment.read_text() == "NODENAME=mine\n"


@pytest.mark.parametrize("ours", [True, False])
def test_guest_goes_where_rabbitmq_is_pulzars(ours: bool, said: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rabbitmq.remove_guest(ours)
    assert ("rabbitmqctl -q delete_user guest\n" in said.read_text()) is ours
    assert "guest" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wanted", "before", "expected"),
    [
        (Options(roles=("master",)), [], True),
        (Options(roles=("node",)), [], False),
        (Options(roles=("node",)), ["master"], True),
        (Options(roles=("master",), without_extensions=True), [], False),
        (Options(upgrade=True), ["master"], True),
        (Options(upgrade=True), ["node"], False),
    ],
)
def test_extensions_are_the_masters(places: Places, wanted: Options, before: list[str], expected: bool) -> None:
    installed(places, *before)
    assert Installation(places, wanted, wanted.roles or before).chooses_extensions() is expected


def test_who_once_did_without_extensions_does_so_at_upgrades(places: Places) -> None:
    installed(places, "master")
    master = ("master",)
    assert not Installation(places, Options(roles=master, without_extensions=True), master).chooses_extensions()
    assert not Installation(places, Options(upgrade=True), master).chooses_extensions()
    assert Installation(places, Options(roles=master), master).chooses_extensions()


@pytest.mark.parametrize(
    ("known", "given", "role", "expected"),
    [
        ("", "", "master", True),
        ("", URL, "master", False),
        (OWN_URL, "", "master", True),
        (OWN_URL, "", "node", True),
        (OWN_URL, URL, "node", False),
        (URL, "", "node", False),
    ],
)
def test_a_rabbitmq_of_its_own_is_for_a_master_without_another_one(
    places: Places, known: str, given: str, role: str, expected: bool
) -> None:
    if known:
        configuration.set_broker_url(places, known)
    wanted = Options(roles=(role,), broker_url=given)
    assert Installation(places, wanted, wanted.roles).has_own_broker() is expected


def test_a_node_alone_needs_a_url(places: Places) -> None:
    with pytest.raises(InstallError, match=r"A node needs the RabbitMQ of its master: --credentials FILE"):
        Installation(places, Options(roles=("node",)), ("node",)).run()
    assert not places.config.exists()


def test_a_command_that_fails_shows_the_end_of_its_output_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CommandFailed) as caught:
        commands.run("counting", "sh", "-c", "seq 100; echo why >&2; exit 3", advice="Count again.")
    assert str(caught.value).splitlines() == [*map(str, range(62, 101)), "why", "Count again."]
    assert capsys.readouterr().out == "  counting … failed\n"
    commands.run("counting", "seq", "100")
    assert capsys.readouterr().out == "  counting … 0 s\n"
    with pytest.raises(CommandFailed, match="/no/such can't be run: No such file"):
        commands.run("counting", "/no/such")


def test_a_service_is_there_when_it_listens(said: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        services.wait("127.0.0.1", port, "pulzar-node.service", timeout=10)
    # And one that systemd says has failed is not waited for
    with pytest.raises(InstallError, match=rf"nobody listens on 127\.0\.0\.1:{port}.*\n.*journalctl -u pulzar-node"):
        services.wait("127.0.0.1", port, "pulzar-node.service", timeout=600)
    assert said.read_text() == "systemctl -q is-failed pulzar-node.service\n"


def test_units_are_installed_once_and_enabled_unless_it_is_an_upgrade(places: Places, said: Path) -> None:
    assert services.install(places, ["master", "node"], enable=True)
    assert services.installed(places) == ("master", "node")
    assert "systemctl -q enable pulzar-node.service\n" in said.read_text()
    said.write_text("")
    assert not services.install(places, ["node"], enable=False)
    assert "enable" not in said.read_text()
    places.unit("node").write_text("old")
    assert services.install(places, ["node"], enable=False)


@pytest.mark.usefixtures("said")
@pytest.mark.parametrize("purge", [False, True])
def test_a_removal_takes_code_and_services_and_with_purge_everything(places: Places, purge: bool, said: Path) -> None:
    # Given an installation with settings and data
    configuration.install(places)
    configuration.set_broker_url(places, OWN_URL)
    services.install(places, services.ROLES, enable=True)
    for folder in (places.code / "a-3.11", places.data):
        folder.mkdir(parents=True)
    unnamed = Places(places.source, places.root, user=places.user, group="no-such-group-of-pulzar")
    # When it is removed
    removal.remove(unnamed, purge=purge)
    # Then services and code are gone; settings and data only when that is asked for
    assert not services.installed(places)
    assert not places.code.exists()
    assert (places.config.exists(), places.data.exists()) == (not purge, not purge)
    assert ("rabbitmqctl -q delete_vhost pulzar\n" in said.read_text()) is purge
    # And the second time there is nothing to do
    removal.remove(unnamed, purge=purge)


def test_every_option_is_in_the_usage() -> None:
    for word in (*options.ROLES, *options.FLAGS, "--broker-url", "--credentials", "--add-node"):
        assert word in options.USAGE
    assert options.parse(["--master", "--node", "--master"]) == Options(roles=("master", "node"))
    assert options.parse(["--master", "--help", "--nonsense"]) is None
