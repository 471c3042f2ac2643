"""The drivers: how each is built and started, and what it tells."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.clients.outcomes import Seen
from tests.support import ROOT

DRIVERS = Path(__file__).parent / "drivers"
CACHE = ROOT / ".cache" / "clients"  # what `tests/clients/install` has put there, and what is built here
VENV = CACHE / "venv"
BUILT = CACHE / "built"
JARS = Path("/usr/share/java")
BUILD_SECS = 300

CLASSES = (
    "httpclient5",
    "httpcore5",
    "httpcore5-h2",
    "httpclient",
    "httpcore",
    "okhttp",
    "okio",
    "slf4j-api",
    "slf4j-nop",
    "commons-logging",
    "commons-codec",
)
REFERENCES = ("System.Net.Http.dll", "System.dll")
RUNTIME = {"runtimeOptions": {"framework": {"name": "Microsoft.NETCore.App", "version": "3.1.0"}}}


class NotThere(Exception):
    """Raised when a program or a package that a driver needs is not installed."""


def _found(program: str) -> str:
    found = shutil.which(program, path=f"{VENV / 'bin'}:{os.environ['PATH']}")
    if not found:
        raise NotThere(f"{program} is not there; tests/clients/install installs it")
    return found


def _build(target: Path, source: Path, command: list[str], environment: Mapping[str, str] | None = None) -> Path:
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        target.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BUILD_SECS,
            check=False,
            env=os.environ | dict(environment or {}),
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}"
    return target


def _script(program: str, name: str, *options: str) -> Callable[[], list[str]]:
    return lambda: [_found(program), *options, str(DRIVERS / name)]


def _java() -> list[str]:
    jars = [JARS / f"{name}.jar" for name in CLASSES]
    missing = [str(jar) for jar in jars if not jar.exists()]
    if missing:
        raise NotThere(f"{', '.join(missing)}: not there; tests/clients/install installs them")
    path = ":".join(map(str, [BUILT / "java", *jars]))
    source = DRIVERS / "Clients.java"
    command = [_found("javac"), "-Xlint:none", "-d", str(BUILT / "java"), "-cp", path, str(source)]
    _build(BUILT / "java" / "Clients.class", source, command)
    return [_found("java"), "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", path, "Clients"]


def _assembly() -> Path:
    target = BUILT / "net" / "Clients.dll"
    source = DRIVERS / "Clients.cs"
    references = [f"-r:{name}" for name in REFERENCES]
    return _build(target, source, [_found("mcs"), "-target:exe", f"-out:{target}", *references, str(source)])


def _dotnet() -> list[str]:
    programs = list(VENV.glob("lib/python3*/site-packages/dotnetcore2/bin/dotnet"))
    if not programs:
        raise NotThere("dotnetcore2 is not there; tests/clients/install installs it")
    programs[0].chmod(0o755)
    assembly = _assembly()
    assembly.with_suffix(".runtimeconfig.json").write_text(json.dumps(RUNTIME))
    return [str(programs[0]), str(assembly)]


def _go() -> list[str]:
    target, source = BUILT / "go" / "clients", DRIVERS / "clients.go"
    environment = {"GOCACHE": str(CACHE / "go"), "GOFLAGS": "-mod=mod", "GO111MODULE": "off"}
    return [str(_build(target, source, [_found("go"), "build", "-o", str(target), str(source)], environment))]


def _node(name: str) -> Callable[[], list[str]]:
    return lambda: [_found("node"), str(DRIVERS / name)]


def _python(folder: Path) -> Callable[[], list[str]]:
    def found() -> list[str]:
        if not (folder / "bin" / "python").exists():
            raise NotThere(f"{folder} is not there; tests/clients/install makes it")
        return [str(folder / "bin" / "python"), str(DRIVERS / "libraries.py")]

    return found


COMMANDS: dict[str, Callable[[], list[str]]] = {
    "here": lambda: [sys.executable, str(DRIVERS / "libraries.py")],
    "tools": lambda: [sys.executable, str(DRIVERS / "tools.py")],
    "python": _python(VENV),
    "niquests": _python(CACHE / "venv-niquests"),  # its urllib3 takes the place of the real one
    "node": _node("clients.mjs"),
    "chromium": _node("chromium.mjs"),
    "java": _java,
    "mono": lambda: [_found("mono"), str(_assembly())],
    "dotnet": _dotnet,
    "go": _go,
    "ruby": _script("ruby", "clients.rb"),
    "php": _script("php", "clients.php"),
    "perl": _script("perl", "clients.pl"),
    "r": _script("Rscript", "clients.R", "--vanilla"),
    "lua": _script("lua5.1", "clients.lua"),
}


@functools.cache
def command(driver: str) -> tuple[str, ...]:
    """How the driver is started; it is built first where that is needed."""
    return tuple(COMMANDS[driver]())


def run(driver: str, arguments: list[str], secs: float, extra: Mapping[str, str]) -> Seen:
    """Start the driver with CLIENT OPERATION URL FILE, and give what it printed."""
    environment = os.environ | {
        "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}",
        "CLIENTS_NPM": str(CACHE / "npm"),
        "DOTNET_SYSTEM_GLOBALIZATION_INVARIANT": "1",
        "DOTNET_CLI_TELEMETRY_OPTOUT": "1",
    }
    child = subprocess.Popen(
        [*command(driver), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=environment | dict(extra),
    )
    try:
        out, errors = child.communicate(timeout=secs)
    except subprocess.TimeoutExpired:
        return Seen(None, f"no end within {secs:g} s", hangs=True)
    finally:
        # What it started goes with it
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    lines = out.decode(errors="replace").splitlines()
    if child.returncode != 0 or not lines:
        return Seen(None, f"ended with {child.returncode}: {errors.decode(errors='replace')[-800:]}")
    told = json.loads(lines[-1])
    return Seen(told["status"], str(told["said"])[:800], done=told.get("done", False))
