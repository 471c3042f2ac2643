"""Real servers that backups are sent to: OpenSSH's SFTP, an S3 server, rclone's own, all on loopback."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import psutil

from tests.support import wait_for

SSHD = "/usr/sbin/sshd"
ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
BUCKET = "pulzar-backups"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def ssh_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    """A new key pair."""
    command = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", path]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


class Server(ABC):
    """A process that listens on a port of loopback."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | self._environment()
            )
        wait_for(self._listens, what=f"a server on port {self.port}")

    def stop(self) -> None:
        """Kill it, with the processes of its connections."""
        if self._process is None:
            return
        parent = psutil.Process(self._process.pid) if self._process.poll() is None else None
        for process in [*(parent.children(recursive=True) if parent else []), *([parent] if parent else [])]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._process.wait()
        self._process = None

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.directory / "server.log").read_text()
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @abstractmethod
    def _command(self) -> list[str]: ...

    def _environment(self) -> Mapping[str, str]:
        return {}


class Sftp(Server):
    """OpenSSH's sshd, which serves nothing but files below `root`, to a key with a passphrase."""

    passphrase = "a secret phrase"

    def __init__(self, directory: Path, root: Path | None = None) -> None:
        super().__init__(directory)
        self.root = root or directory / "root"
        self.root.mkdir(exist_ok=True)
        self.key = ssh_key(directory / "key", passphrase=self.passphrase)
        self.known_hosts = directory / "known_hosts"
        self.new_host_key()
        self.know()
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # it wants to be there

    def new_host_key(self) -> None:
        """Another host key, from the next start on."""
        for path in self.directory.glob("host*"):
            path.unlink()
        ssh_key(self.directory / "host", "ecdsa")

    def know(self) -> None:
        """Write the host key that it has now into the file of known hosts."""
        public = " ".join((self.directory / "host.pub").read_text().split()[:2])
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {public}\n")

    @property
    def to(self) -> str:
        """The target."""
        return f"sftp://127.0.0.1:{self.port}{self.root}?key={self.key}&known_hosts={self.known_hosts}"

    @property
    def env(self) -> dict[str, str]:
        """User and password as settings."""
        return {"PULZAR_BACKUP_USER": getpass.getuser(), "PULZAR_BACKUP_PSW": self.passphrase}

    def _command(self) -> list[str]:
        config = self.directory / "sshd_config"
        config.write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {self.directory}/host\nPidFile none\nUsePAM no\n"
            f"PasswordAuthentication no\nAuthorizedKeysFile {self.directory}/key.pub\nStrictModes no\n"
            "Subsystem sftp internal-sftp\nForceCommand internal-sftp\n"
        )
        return [SSHD, "-D", "-e", "-f", str(config)]


class PasswordSftp(Server):
    """rclone's SFTP server, for a user with a password."""

    def _command(self) -> list[str]:
        ssh_key(self.directory / "host", "ecdsa")
        public = " ".join((self.directory / "host.pub").read_text().split()[:2])
        (self.directory / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {public}\n")
        (self.directory / "root").mkdir()
        where = (str(self.directory / "root"), f"--addr=127.0.0.1:{self.port}", f"--key={self.directory}/host")
        return ["rclone", "serve", "sftp", *where, "--user=anna", "--pass=right", "--config="]

    @property
    def to(self) -> str:
        """The target."""
        return f"sftp://anna@127.0.0.1:{self.port}/backups?known_hosts={self.directory}/known_hosts"


class S3(Server):
    """moto's S3 server, with a bucket. With `strict` it knows no access key."""

    def __init__(self, directory: Path, *, strict: bool = False) -> None:
        super().__init__(directory)
        self._strict = strict

    def start(self) -> None:
        """Start it and make the bucket."""
        super().start()
        if not self._strict:
            self.rclone("mkdir", BUCKET)

    @property
    def to(self) -> str:
        """The target."""
        return f"s3:http://127.0.0.1:{self.port}/{BUCKET}/pulzar"

    @property
    def env(self) -> dict[str, str]:
        """User and password as settings."""
        return {"PULZAR_BACKUP_USER": ACCESS_KEY, "PULZAR_BACKUP_PSW": "wJalrXUtnFEMI"}

    def remote(self) -> dict[str, str]:
        """An environment in which rclone has a remote called `moto`."""
        # With AWS_CA_BUNDLE, Debian's rclone fails
        return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | {
            "RCLONE_CONFIG": "",
            "RCLONE_CONFIG_MOTO_TYPE": "s3",
            "RCLONE_CONFIG_MOTO_PROVIDER": "Other",
            "RCLONE_CONFIG_MOTO_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "RCLONE_CONFIG_MOTO_ACCESS_KEY_ID": ACCESS_KEY,
            "RCLONE_CONFIG_MOTO_SECRET_ACCESS_KEY": "wJalrXUtnFEMI",
        }

    def rclone(self, command: str, path: str, source: Path | None = None) -> None:
        """Run a command of rclone on a path that begins with the bucket, with a file of this machine before it."""
        subprocess.run(
            ["rclone", command, *([source] if source else []), f"moto:{path}"], env=self.remote(), check=True
        )

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]

    def _environment(self) -> Mapping[str, str]:
        return {"INITIAL_NO_AUTH_ACTION_COUNT": "0"} if self._strict else {}


def missing() -> str:
    """What these tests need and this machine lacks."""
    needed = [name for name in ("rclone", "restic", "ssh-keygen") if not shutil.which(name)]
    return ", ".join(needed + ([] if Path(SSHD).exists() else ["openssh-server"]))
