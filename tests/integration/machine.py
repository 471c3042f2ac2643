"""A Debian of its own, with systemd as its first process, in namespaces of this machine: nothing of it is seen outside."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import ROOT, Answer, clean_environment, wait_for

MASTER = "http://localhost:31414"
SERVICES = ("pulzar-master", "pulzar-node")
PACKAGES = ("rabbitmq-server", "python3-venv", "systemd", "systemd-sysv")
PYTHON = {"bookworm": "3.11", "trixie": "3.13"}
KEPT = Path.home() / ".cache" / "pulzar-install"

# Of tests that boot a machine.
MARKS = [
    pytest.mark.install,
    pytest.mark.timeout(1200, method="signal"),
    pytest.mark.skipif(
        os.getuid() != 0 or not shutil.which("debootstrap"),
        reason="needs root and debootstrap: apt-get install debootstrap",
    ),
]

# What systemd needs to find before it is the first process of a machine.
_BOOT = """\
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount -t sysfs -o ro sysfs "$1/sys"
mount -t cgroup2 cgroup2 "$1/sys/fs/cgroup"
mount -t tmpfs tmpfs "$1/run"
mount -t tmpfs tmpfs "$1/tmp"
exec chroot "$1" env -i container=other PATH=/usr/sbin:/usr/bin /lib/systemd/systemd
"""

# In the machine: a request, and its answer as JSON; Python's own client follows redirects of GET alone.
_REQUEST = """\
import http.client, json, sys, urllib.parse
method, url, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
body = sys.stdin.buffer.read() if size else None
parts = urllib.parse.urlsplit(url)
connection = http.client.HTTPConnection(parts.netloc, timeout=60)
connection.request(method, parts.path + ("?" + parts.query if parts.query else ""), body)
response = connection.getresponse()
print(json.dumps([response.status, list(response.getheaders()), response.read().decode("latin-1")]))
"""


def make_root(suite: str, directory: Path) -> None:
    """Debian's packages in a directory; kept in `KEPT`, since loading them takes minutes."""
    archive = KEPT / f"{suite}.tar"
    if not archive.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        include = f"--include={','.join(PACKAGES)}"
        fresh = directory.with_name(f"{suite}-fresh")
        subprocess.run(["debootstrap", "--variant=minbase", include, suite, str(fresh)], check=True)
        made = archive.with_suffix(".new")
        subprocess.run(["tar", "-C", str(fresh), "--one-file-system", "-cf", str(made), "."], check=True)
        made.replace(archive)
        shutil.rmtree(fresh)
    directory.mkdir(parents=True)
    subprocess.run(["tar", "-C", str(directory), "-xpf", str(archive)], check=True)
    # As Debian's installer writes it.
    (directory / "etc/hosts").write_text("127.0.0.1 localhost\n")


def copy_checkout(to: Path) -> None:
    """This checkout's files, without what is only made in it."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, to / name)


def download_wheels(suite: str, to: Path, requirements: Path = ROOT / "requirements.lock") -> None:
    """What a file of requirements or a lock names, for the Python of the suite: the machine has no way out."""
    pip = [str(ROOT / ".venv" / "bin" / "python"), "-m", "pip", "download", "-q", "--only-binary=:all:"]
    wanted = ["--python-version", PYTHON[suite], "-r", str(requirements), "-d", str(to)]
    subprocess.run([*pip, *wanted], check=True, capture_output=True)


class Machine:
    """One that is booted from a root directory; `close` ends it with all of its processes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        spaces = ["--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc", "--net", "--cgroup"]
        # With this process it ends too, however that ends.
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", *spaces, "sh", "-euc", _BOOT, "boot", str(root)],
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            wait_for(self._booted, 120, "the end of the machine's start")
        except BaseException:
            self.close()
            raise

    def run(self, *command: str, check: bool = True, body: bytes = b"", timeout: float = 300) -> str:
        """What a command in the machine prints, errors included; `check`: it must succeed."""
        init = str(self._init())
        spaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd"]
        environment = ["env", "-i", "PATH=/usr/sbin:/usr/bin", "HOME=/root", "PIP_NO_INDEX=1", "PIP_FIND_LINKS=/wheels"]
        done = subprocess.run(
            ["nsenter", "--target", init, *spaces, *environment, *command],
            input=body,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
        )
        text = done.stdout.decode(errors="replace")
        assert not check or done.returncode == 0, f"{command} ended with {done.returncode}:\n{text}\n{self.journal()}"
        return text if check else f"{text}\nexit status {done.returncode}"

    def journal(self) -> str:
        """The last lines of the services' logs."""
        return self.run("journalctl", "--no-pager", "-n", "60", "-u", "pulzar-*", check=False) if self._init() else ""

    def request(self, method: str, url: str, body: bytes = b"") -> Answer:
        """A request from within, without redirects."""
        said = self.run("python3", "-c", _REQUEST, method, url, str(len(body)), body=body)
        status, headers, text = json.loads(said)
        message = http.client.HTTPMessage()
        for name, value in headers:
            message[name] = value
        return Answer(status, message, text.encode("latin-1"), url)

    def property(self, unit: str, name: str) -> str:
        """What `systemctl show` says of a unit."""
        return self.run("systemctl", "show", "--value", "-p", name, unit).strip()

    def owner_and_mode(self, *paths: str) -> list[str]:
        """`user:group mode` of each path."""
        return self.run("stat", "-L", "-c", "%U:%G %a", *paths).split("\n")[:-1]

    def close(self) -> None:
        """End it at once."""
        init = self._init()
        if init:
            os.kill(init, signal.SIGKILL)
        self._process.kill()
        self._process.wait()

    def _init(self) -> int:
        try:
            children: Sequence[Any] = psutil.Process(self._process.pid).children()
        except psutil.NoSuchProcess:
            return 0
        return children[0].pid if children else 0

    def _booted(self) -> bool:
        assert self._process.poll() is None, "the machine ended while it was starting"
        if not self._init() or not (self.root / "run").is_dir():
            return False
        state = self.run("systemctl", "is-system-running", check=False).split("\n")[0]
        return state in ("running", "degraded")


@contextlib.contextmanager
def boot(suite: str, root: Path) -> Iterator[Machine]:
    """A machine with a Debian in `root`, this checkout at /src and the wheels that it needs; removed afterwards."""
    make_root(suite, root)
    copy_checkout(root / "src")
    download_wheels(suite, root / "wheels")
    machine = Machine(root)
    try:
        yield machine
    finally:
        machine.close()
        shutil.rmtree(root)


def run_job(machine: Machine, script: str, **arguments: Any) -> Any:
    """Launch a job and wait for its end; the job as the master shows it."""
    return ended(machine, launch(machine, script, **arguments))


def launch(machine: Machine, script: str, **arguments: Any) -> int:
    """Launch a job as soon as the master knows its script; the job's number."""

    def launched() -> int:
        answer = machine.request("POST", f"{MASTER}/launch_job/{script}", json.dumps(arguments).encode())
        return int(answer.data["job_id"]) if answer.status == 200 else 0

    return wait_for(launched, 60, f"the launch of {script}")


def job(machine: Machine, number: int) -> Any:
    """A job as the master shows it."""
    return machine.request("GET", f"{MASTER}/admin/jobs/{number}").data


def ended(machine: Machine, number: int) -> Any:
    """A job as the master shows it when it has ended."""
    wait_for(lambda: job(machine, number)["status"] != "pending", 60, f"the end of job {number}")
    return job(machine, number)


def store(machine: Machine, key: str, value: bytes) -> None:
    """Put it, be the master still without its node or not."""
    wait_for(lambda: listening(machine), 60, "the services")
    wait_for(lambda: machine.request("PUT", f"{MASTER}/add_key/{key}?overwrite=1", value).status == 201, 60, "the PUT")


def read(machine: Machine, key: str) -> bytes:
    """The value, once the master can tell."""
    wait_for(lambda: listening(machine), 60, "the services")
    answer = wait_for(
        lambda: a if (a := machine.request("GET", f"{MASTER}/get_key/{key}")).status != 503 else None, 60, "the GET"
    )
    return machine.request("GET", answer.headers["Location"]).body if answer.status == 307 else answer.body


def listening(machine: Machine) -> bool:
    """Whether both services take connections."""
    probe = "exec 3<>/dev/tcp/localhost/31414 4<>/dev/tcp/localhost/31415"
    return machine.run("bash", "-c", probe, check=False).endswith("exit status 0")
