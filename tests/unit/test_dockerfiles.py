"""The Dockerfiles: clean, and one with the files, modules, ports and settings that they name."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from broker import settings
from ops.images.__main__ import BASE, STAND_IN
from ops.images.podman import BUILT
from tests.support import ROOT, imports

DOCKERFILE = ROOT / "ops/docker/Dockerfile"
FILES = [DOCKERFILE, ROOT / STAND_IN.context / STAND_IN.dockerfile]
SECTION = {"master": "server", "node": "volume"}
OURS = {"broker", "extensions", "jobs", "master", "node", "ops"}


def lint(path: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("hadolint")), "--no-color", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def instructions(path: Path) -> list[tuple[str, str]]:
    """Each instruction and what it says, lines that go on put together."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in lines if line.strip()]


def stage(name: str) -> list[tuple[str, str]]:
    """The instructions of one stage, without those of the ones below it."""
    found: list[tuple[str, str]] = []
    inside = False
    for word, rest in instructions(DOCKERFILE):
        if word == "FROM":
            inside = rest.endswith(f" AS {name}")
        if inside:
            found.append((word, rest))
    assert found, f"there is no stage {name}"
    return found


def said(name: str, word: str) -> str:
    """What the only such instruction of a stage says."""
    (rest,) = [rest for each, rest in stage(name) if each == word]
    return rest


def copied(name: str) -> dict[str, str]:
    """Files and folders of the repository that a stage copies, and where to."""
    found: dict[str, str] = {}
    for word, rest in stage(name):
        if word == "COPY" and not rest.startswith("--from"):
            *sources, to = rest.split()
            found |= {source: f"{to}{Path(source).name}" if to.endswith("/") else to for source in sources}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.name))
def test_the_linter_finds_nothing(path: Path, tmp_path: Path) -> None:
    done = lint(path)
    assert (done.returncode, done.stdout) == (0, "")
    # And it would: of a release that is not said, and of a tool that only harms
    bad = tmp_path / "Dockerfile"
    bad.write_text(path.read_text().replace(":trixie-slim", ":latest") + "RUN sudo true\n")
    done = lint(bad)
    assert done.returncode == 1
    assert {"DL3007", "DL3004"} <= set(re.findall(r"DL\d+", done.stdout))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.name))
def test_all_is_made_from_the_image_that_a_trial_makes_itself(path: Path) -> None:
    stages = {rest.partition(" AS ")[2] for word, rest in instructions(path) if word == "FROM"}
    bases = {rest.partition(" AS ")[0] for word, rest in instructions(path) if word == "FROM"}
    assert bases - stages == {BASE.rpartition("/")[2]}


@pytest.mark.parametrize("role", SECTION)
def test_it_runs_the_service_as_nobody_in_particular(role: str) -> None:
    assert said(role, "CMD") == f'["python", "-m", "{role}"]'
    assert said(role, "ENTRYPOINT") == '["/usr/bin/tini", "--"]'
    assert said(role, "STOPSIGNAL") == "SIGTERM"
    user, group = said(role, "USER").split(":")
    made = " ".join(rest for name in ("python", role) for word, rest in stage(name) if word == "RUN")
    assert user == group
    assert re.search(rf"--uid {user} --user-group (--no-create-home )?--home-dir /var/lib/pulzar\b", made)
    assert "apt-install python3 tini " in made


@pytest.mark.parametrize("role", SECTION)
def test_its_port_and_its_directory_are_those_of_the_settings(role: str) -> None:
    variables = dict(re.findall(r"(PULZAR_\w+)=(\S+)", said(role, "ENV")))
    known = settings.load(None, variables)  # a name that is no setting would be refused
    section = getattr(known, SECTION[role])
    assert said(role, "EXPOSE") == str(section.port)
    assert section.host == "0.0.0.0"
    assert section.dir.startswith(said(role, "VOLUME") + "/")


@pytest.mark.parametrize("role", SECTION)
def test_its_health_is_asked_by_a_module_that_it_has(role: str) -> None:
    match = re.search(r'CMD \["python", "-m", "([\w.]+)", "(\w+)"\]', said(role, "HEALTHCHECK"))
    assert match
    assert match[1].replace(".", "/") + ".py" in copied(role).values()
    assert match[2] == SECTION[role]


@pytest.mark.parametrize("name", ["python", "wheels", "extension-wheels", *SECTION])
def test_what_it_copies_is_there_and_is_sent_to_the_builder(name: str) -> None:
    let_through = set(re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    for source in copied(name):
        matching = sorted(ROOT.glob(source))
        assert matching, source
        for path in matching:
            relative = str(path.relative_to(ROOT))
            # A pattern also matches what is not sent.
            assert relative in let_through or "*" in source, source


def test_nothing_is_sent_to_the_builder_that_is_not_there_or_not_used() -> None:
    let_through = set(re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert not [path for path in let_through if not (ROOT / path).exists()]
    used = {path for name in ("python", "wheels", "extension-wheels", *SECTION) for path in copied(name)}
    assert let_through - used == {"requirements-extensions.lock"}  # by a pattern, so that it may be missing


@pytest.mark.parametrize("role", SECTION)
def test_it_has_every_package_of_ours_that_it_imports(role: str) -> None:
    wanted, seen = {role}, set[str]()
    while wanted - seen:
        package = min(wanted - seen)
        seen.add(package)
        for path in (ROOT / package).rglob("*.py"):
            wanted |= imports(path) & OURS
    assert seen <= set(copied(role).values()) | {"ops"}
    # And nothing of the other role's
    assert not seen & (set(SECTION) - {role})


def test_the_health_check_needs_what_both_have() -> None:
    assert imports(ROOT / "ops/docker/health.py") & OURS == {"broker"}
    assert "broker" in copied("master")
    assert "broker" in copied("node")


def test_packages_are_installed_from_the_locks_alone_and_compiled_alike_each_time() -> None:
    for name in ("wheels", "extension-wheels"):
        (installing,) = [rest for word, rest in stage(name) if word == "RUN" and " install --" in rest]
        assert re.findall(r" -[rc] (\S+)", installing) == [f"requirements{'-extensions' * (name != 'wheels')}.lock"]
        for option in ("--require-hashes", "--only-binary=:all:", "--no-compile"):
            assert option in installing
    for name in ("wheels", "extension-wheels", *SECTION):
        compiling = [rest for word, rest in stage(name) if word == "RUN" and "compileall" in rest]
        assert compiling
        assert all("-hash " in rest for rest in compiling)  # else each file names the time of its source
        assert ("ARG", "PYTHONHASHSEED=0") in stage(name)


def test_debian_packages_are_installed_by_what_leaves_nothing_that_differs() -> None:
    assert "apt-get" not in DOCKERFILE.read_text()
    for name in ("python", "wheels", *SECTION):
        assert any(word == "RUN" and re.search(r"\bapt-install \w", rest) for word, rest in stage(name)), name


def test_the_time_of_users_and_of_the_image_is_the_one_of_a_trial() -> None:
    times = {rest for word, rest in instructions(DOCKERFILE) if word == "ARG" and "SOURCE_DATE_EPOCH" in rest}
    assert times == {f"SOURCE_DATE_EPOCH={BUILT}"}
    for name in ("python", "master"):
        assert any("useradd" in rest for word, rest in stage(name) if word == "RUN")
        assert any("SOURCE_DATE_EPOCH" in rest for word, rest in stage(name) if word == "ARG")


@pytest.mark.parametrize(
    ("line", "then"),
    [
        ("URIs: http://deb.debian.org/debian", "URIs: http://snapshot.debian.org/archive/debian/20261101T000000Z"),
        (
            "URIs: http://deb.debian.org/debian-security",
            "URIs: http://snapshot.debian.org/archive/debian-security/20261101T000000Z",
        ),
        (
            "deb http://deb.debian.org/debian/ trixie main",
            "deb http://snapshot.debian.org/archive/debian/20261101T000000Z trixie main",
        ),
        ("URIs: http://mirror.example/debian", "URIs: http://mirror.example/debian"),
    ],
)
def test_a_snapshot_takes_the_place_of_debian_of_today(line: str, then: str, tmp_path: Path) -> None:
    # Given the expression of apt-install; the rest of it would tidy up this machine
    (expression,) = re.findall(r'"(s,https.*,)"', (ROOT / "ops/docker/apt-install").read_text())
    file = tmp_path / "debian.sources"
    file.write_text(f"{line}\n")
    subprocess.run(
        ["sh", "-euc", f'sed -i -E "{expression}" "$1"', "sh", str(file)],
        env={"SNAPSHOT": "20261101T000000Z", "PATH": "/usr/bin:/bin"},
        check=True,
    )
    assert file.read_text() == f"{then}\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "one of server and volume is needed, not nothing"),
        (["web"], "one of server and volume is needed, not web"),
        (["server"], "nobody answers on localhost:1:"),
    ],
)
def test_a_service_that_does_not_answer_is_not_healthy(arguments: list[str], reason: str) -> None:
    # Given nobody on that port
    done = subprocess.run(
        [sys.executable, str(ROOT / "ops/docker/health.py"), *arguments],
        env={"PULZAR_SERVER_PORT": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert reason in done.stdout


def test_master_and_nodes_run_as_different_users() -> None:
    assert said("master", "USER") != said("node", "USER")
