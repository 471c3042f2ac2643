"""Locks of Python packages, their audit, and the bill of materials."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from ops.locks import audit, lock, lock_file, sbom
from ops.locks.errors import CommandFailed, Unreadable
from ops.locks.lock_file import PRODUCT, SOURCES, Locked
from tests.support import ROOT, clean_environment

LOCKS = [lock_file.lock_of(source) for source in SOURCES]
DIGEST = "0" * 64


def pins(text: str) -> dict[str, str]:
    """The versions in a file of requirements."""
    found = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[\w,-]+\])?==(\S+)$", text, re.MULTILINE)
    lines = [line for line in text.splitlines() if line and not line.startswith(("#", "-r "))]
    assert len(found) == len(lines), "NAME==VERSION in every line"
    return {lock_file.normalized(name): version for name, version in found}


def unfit(source: str, text: str, locked: list[Locked]) -> list[str]:
    """How a lock does not fit a file of requirements any more."""
    wanted = pins(text)
    named = {package.name: package.version for package in locked if source in package.wanted_by}
    versions = {package.name: package.version for package in locked}
    return [
        *(f"{name} {version} is not locked" for name, version in wanted.items() if versions.get(name) != version),
        *(f"{name} is locked and not wanted" for name in named if name not in wanted),
    ]


@pytest.mark.parametrize("source", SOURCES)
def test_a_lock_fits_its_requirements(source: str) -> None:
    text = (ROOT / source).read_text()
    locked = lock_file.read(lock_file.lock_of(source))
    assert not unfit(source, text, locked), "run ops/lock"
    # And it is told when it does not: a version that was changed, a package that came, one that went
    first = next(iter(pins(text)))
    changed = re.sub(r"^([A-Za-z][\w.\[\]-]*)==\S+$", r"\1==99.9", text, count=1, flags=re.MULTILINE)
    assert unfit(source, changed, locked) == [f"{first} 99.9 is not locked"]
    assert unfit(source, f"{text}\nnew-one==1.0\n", locked) == ["new-one 1.0 is not locked"]
    fewer = re.sub(r"^[A-Za-z][\w.\[\]-]*==\S+$", "", text, count=1, flags=re.MULTILINE)
    assert unfit(source, fewer, locked) == [f"{first} is locked and not wanted"]


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_packages_with_digests_and_no_place_to_get_them_from(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert not re.search(r"^\s*-", re.sub(r"^\s*--hash=.*", "", text, flags=re.MULTILINE), re.MULTILINE)
    packages = lock_file.read(name)
    assert all(len(set(package.digests)) == len(package.digests) for package in packages)
    assert [package.name for package in packages] == sorted(package.name for package in packages)


def test_locks_that_are_installed_beside_each_other_agree() -> None:
    product, extensions, development = (
        {package.name: package.version for package in lock_file.read(name)} for name in LOCKS[:3]
    )
    assert product.items() <= development.items()
    for one, other in ((product, extensions), (extensions, development)):
        assert not {name for name in one.keys() & other.keys() if one[name] != other[name]}


GOOD = f"""\
# Made of something
flask==3.1.3 \\
    --hash=sha256:{DIGEST}
    # via -r requirements.txt
Some_Thing==1.0 ; sys_platform == 'win32' \\
    --hash=sha256:{DIGEST} \\
    --hash=sha256:{"1" * 64}
    # via
    #   -c requirements.lock
    #   flask
"""


def test_a_lock_is_read() -> None:
    assert lock_file.parsed(GOOD, "a.lock") == [
        Locked("flask", "3.1.3", "", (DIGEST,), ("requirements.txt",)),
        Locked("some-thing", "1.0", "sys_platform == 'win32'", (DIGEST, "1" * 64), ("flask",)),
    ]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("--index-url http://a.example/\n" + GOOD, "no line of a lock: --index-url"),
        (GOOD.replace("flask==3.1.3", "flask>=3"), "NAME==VERSION with digests is needed, not: flask>=3"),
        (GOOD.replace(f"--hash=sha256:{DIGEST}\n    # via -r", "# via -r"), "flask has no digest"),
        (GOOD.replace(f"sha256:{DIGEST}", f"md5:{DIGEST}"), "no line of a lock:     --hash=md5"),
    ],
)
def test_what_is_no_lock_is_refused(bad: str, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        lock_file.parsed(bad, "a.lock")


def wheel(folder: Path, name: str, version: str, *needs: str) -> None:
    """A package without any module."""
    info = f"{name}-{version}.dist-info"
    needed = "".join(f"Requires-Dist: {need}\n" for need in needs)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needed}")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only packages that uv finds."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    return folder


def test_locks_are_made_and_stay_as_they_are_until_they_have_to_change(tmp_path: Path, wheels: Path) -> None:
    # Given requirements, and packages
    top = tmp_path / "checkout"
    top.mkdir()
    for source in SOURCES:
        (top / source).write_text("")
    (top / "requirements.txt").write_text("alpha==1.0\n")
    (top / "requirements-dev.txt").write_text("-r requirements.txt\nomega==1.0\n")
    wheel(wheels, "alpha", "1.0", "beta", "only-there; sys_platform == 'win32'")
    wheel(wheels, "beta", "1.1")
    wheel(wheels, "omega", "1.0", "beta")
    wheel(wheels, "only_there", "3")
    # When locks are made
    assert lock.make(top, write=False) == LOCKS
    assert not list(top.glob("*.lock"))
    assert lock.make(top) == LOCKS
    # Then they have what is needed on every machine, and who needs it
    found = {package.name: package for package in lock_file.read("requirements-dev.lock", top)}
    assert {name: package.version for name, package in found.items()} == {
        "alpha": "1.0",
        "beta": "1.1",
        "omega": "1.0",
        "only-there": "3",
    }
    assert found["beta"].wanted_by == ("alpha", "omega")
    assert found["only-there"].marker == "sys_platform == 'win32'"
    assert found["alpha"].marker == ""
    # And a newer version changes them only when it is asked for
    wheel(wheels, "beta", "1.2")
    assert lock.make(top) == []
    assert lock.make(top, upgrade=True) == ["requirements.lock", "requirements-dev.lock"]
    assert "beta==1.2 " in (top / "requirements-dev.lock").read_text()
    # And what can't be had changes none of them
    before = {name: (top / name).read_bytes() for name in LOCKS}
    (top / "requirements.txt").write_text("beta==1.1\n")
    (top / "requirements-libraries.txt").write_text("gamma==1.0\n")
    with pytest.raises(CommandFailed, match=r"uv can't make requirements-libraries\.lock:[\s\S]*gamma"):
        lock.make(top)
    assert {name: (top / name).read_bytes() for name in LOCKS} == before


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"ops.locks.{program}", *arguments]
    # A proxy that nobody answers at: no database is asked.
    nowhere = dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY"), "http://127.0.0.1:9") | {"NO_PROXY": "127.0.0.1"}
    return subprocess.run(
        command, cwd=ROOT, env=clean_environment() | nowhere, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("program", ["lock", "audit", "sbom"])
def test_each_command_has_a_help(program: str) -> None:
    done = run(program, "--help")
    assert done.returncode == 0
    assert f"usage: ops/{program}" in done.stdout
    assert f"ops.locks.{program} " in (ROOT / "ops" / program).read_text()


def test_an_audit_that_can_not_be_made_is_none() -> None:
    done = run("audit", "--lock", "requirements.lock")
    assert done.returncode == audit.NOT_REACHED, done.stderr
    assert done.stdout == ""
    assert "The audit could not be made" in done.stderr


@pytest.mark.parametrize(("skipped", "status"), [(True, audit.NOT_REACHED), (False, 0)])
def test_a_package_that_the_database_does_not_have_is_not_clean(
    skipped: bool, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a pip-audit that found nothing wrong, and one package nowhere: so it does with a mirror of PyPI
    packages: list[dict[str, object]] = [{"name": "flask", "version": "3.1.3", "vulns": []}]
    packages += [{"name": "pika", "skip_reason": "Dependency not found on PyPI"}] * skipped

    def fake(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        Path(command[command.index("--output") + 1]).write_text(json.dumps({"dependencies": packages}))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", fake)
    assert audit.main([]) == status
    said = capsys.readouterr().out
    assert said.endswith("1 packages asked for: no known vulnerabilities\n")
    assert ("not known to the database: pika" in said) == skipped


class Database(BaseHTTPRequestHandler):
    """Answers as OSV does: flask has a vulnerability, in versions below 99."""

    known: bool

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = body["package"]["name"]
        affected = {
            "package": {"name": "flask", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.0"}]}],
        }
        one = {
            "id": "PYSEC-2026-1",
            "aliases": ["CVE-2026-1"],
            "summary": "bad",
            "details": "bad",
            "published": "2026-01-01T00:00:00Z",
            "modified": "2026-01-01T00:00:00Z",
            "affected": [affected],
        }
        answer = json.dumps({"vulns": [one]} if name == "flask" and self.known else {}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture(params=[True, False])
def database(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A database of vulnerabilities that knows one, and then one that knows none."""
    monkeypatch.setattr(Database, "known", request.param, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Database) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()
        thread.join()


def test_an_audit_tells_what_is_known(database: str) -> None:
    done = run("audit", "--lock", "requirements.lock", "--vulnerability-service", "osv", "--osv-url", database)
    packages = len(lock_file.read("requirements.lock"))
    (flask,) = [package for package in lock_file.read("requirements.lock") if package.name == "flask"]
    if Database.known:
        assert done.returncode == 1, done.stderr
        assert f"flask {flask.version}: PYSEC-2026-1, CVE-2026-1; mended in 99.0\n" in done.stdout
        assert f"{packages} packages asked for: 1 known vulnerabilities\n" in done.stdout
    else:
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{packages} packages asked for: no known vulnerabilities\n"


def test_the_bill_of_materials_is_valid_complete_and_the_same_each_time() -> None:
    text = sbom.document(ROOT)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert run("sbom").stdout == text == sbom.document(ROOT)
    bill = json.loads(text)
    # Every package of the product is there, and each file of other projects in the page
    packages = {f"pkg:pypi/{package.name}@{package.version}" for name in PRODUCT for package in lock_file.read(name)}
    files = {path.name for path in (ROOT / sbom.STATIC).glob("*.min.*")}
    components = {component["purl"]: component for component in bill["components"]}
    assert files
    assert packages <= components.keys()
    assert {components[purl]["bom-ref"] for purl in components.keys() - packages} == files
    # And who needs what
    needs = {one["ref"]: one.get("dependsOn", []) for one in bill["dependencies"]}
    direct = {
        name
        for source in ("requirements.txt", "requirements-extensions.txt")
        for name in pins((ROOT / source).read_text())
    }
    assert {each.partition("==")[0] for each in needs["pulzar"]} == direct | files
    assert {
        each.partition("==")[0] for ref, each_needs in needs.items() if ref.startswith("flask==") for each in each_needs
    } >= {
        "jinja2",
        "werkzeug",
    }
    reached, left = set[str](), ["pulzar"]
    while left:
        ref = left.pop()
        if ref not in reached:
            reached.add(ref)
            left += needs[ref]
    assert reached == {"pulzar"} | {component["bom-ref"] for component in bill["components"]}


def test_a_file_of_a_project_that_is_not_known_is_told(tmp_path: Path) -> None:
    (tmp_path / sbom.STATIC).mkdir(parents=True)
    (tmp_path / sbom.STATIC / "react-19.0.0.min.js").touch()
    with pytest.raises(Unreadable, match=r"react-19\.0\.0\.min\.js: whose file is it"):
        sbom.of_others(tmp_path)


@pytest.mark.parametrize("file", ["ops/setup.sh", "ops/installer/release.py", "ops/images/base.py"])
def test_whoever_installs_does_so_with_digests(file: str) -> None:
    assert "--require-hashes" in (ROOT / file).read_text()
