"""rclone as a process: how it is configured, run and understood.

A remote of Pulzar's own is described by environment variables of that process alone. So no configuration file and no
command line has a password.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from backup import meanings
from backup.address import S3, SFTP, Target, Url, check, url
from backup.child import die_with_parent, environment, program
from backup.errors import BackupError, BadAddress, HostKeyRefused, TargetError

NOT_FOUND = 3  # exit status: there is no such directory
_NAME = "pulzar"  # of the remote
_SSH_PORT = 22
_CA_CERT = "RCLONE_CA_CERT"
_OPTIONS = (
    "--use-json-log",
    "--log-level=NOTICE",
    "--stats=500ms",
    "--stats-log-level=NOTICE",
    "--contimeout=15s",
    "--timeout=60s",
    "--retries=2",
    "--low-level-retries=3",
)


class Rclone:
    """Runs rclone for one remote."""

    def __init__(self, target: Target, rate: int) -> None:
        """`rate` limits what is sent, in bytes per second; 0 is no limit. Raises `BadAddress`."""
        check(target)
        self._target = target
        self._program = program("rclone", target)
        self._options = [*_OPTIONS, *([f"--bwlimit={rate}B"] if rate else [])]
        self._environment = _environment()
        if target.type == "rclone":
            self.root = target.address.rstrip("/") if not target.address.endswith(":") else target.address
            return
        variables, path = self._sftp() if target.type == "sftp" else self._s3()
        self.root = f"{_NAME}:{path}"
        self._environment = {
            name: value
            for name, value in self._environment.items()
            if not name.startswith("RCLONE_") or name == _CA_CERT
        } | {f"RCLONE_CONFIG_{_NAME.upper()}_{name}": value for name, value in variables.items() if value}
        self._environment["RCLONE_CONFIG"] = ""

    def path(self, *parts: str) -> str:
        """The remote's path of something below the root."""
        below = "/".join(parts)
        return self.root + below if self.root.endswith((":", "/")) or not below else f"{self.root}/{below}"

    def run(self, *arguments: str, sent: Callable[[int], None] | None = None, allowed: tuple[int, ...] = ()) -> bytes:
        """Its standard output. `sent` is told the bytes of transfers. Raises `BackupError` in words.

        An exit status among those `allowed` gives no error.
        """
        command = [self._program, *arguments, *self._options]
        with subprocess.Popen(
            command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=die_with_parent,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            log = _Log(process.stderr, sent)
            output = process.stdout.read()
            log.join()
        if process.returncode and process.returncode not in allowed:
            raise self._error(log.messages)
        return output

    def features(self) -> Mapping[str, bool]:
        """What the remote can do."""
        try:
            found = json.loads(self.run("backend", "features", self.root))["Features"]
            return {str(name): bool(value) for name, value in found.items()}
        except (ValueError, KeyError, AttributeError) as error:
            raise TargetError(f"rclone does not say what {self._target} can do: {error}") from error

    def _error(self, messages: list[str]) -> BackupError:
        error = meanings.error(self._target, messages)
        if isinstance(error, HostKeyRefused) and self._target.type == "sftp":
            where = self._address()
            return HostKeyRefused(
                f"{error}. The known ones are in {_known_hosts(where)}; ssh-keyscan -p {where.port or _SSH_PORT} "
                f"{where.host} gives the lines that it needs, if this is the right host"
            )
        return error

    def _address(self) -> Url:
        return url(self._target, *SFTP)

    def _sftp(self) -> tuple[dict[str, str], str]:
        """Variables and path of a target like sftp://user@host:22/path?key=FILE&known_hosts=FILE."""
        where = self._address()
        known = _known_hosts(where)
        if not known.is_file():
            raise BadAddress(
                f"{self._target}: there is no {known}, and without the host's key it could be another host. Put the "
                f"output of ssh-keyscan -p {where.port or _SSH_PORT} {where.host} there, or name a file with "
                "?known_hosts=FILE"
            )
        key, psw = where.options.get("key", ""), self._target.psw
        if not key and not psw:
            found = [file for name in ("id_ed25519", "id_ecdsa", "id_rsa") if (file := _ssh(name)).is_file()]
            if not found and not os.environ.get("SSH_AUTH_SOCK"):
                raise BadAddress(f"{self._target}: set [backup] psw, or name a key with ?key=FILE behind the address")
            key = str(found[0]) if found else ""
        path = where.path.removeprefix("/~/") if where.path.startswith("/~/") else where.path
        return {
            "TYPE": "sftp",
            "HOST": where.host,
            "PORT": str(where.port or _SSH_PORT),
            "USER": where.user or self._target.user,
            "PASS": "" if key else self._obscured(psw),
            "KEY_FILE": key,
            "KEY_FILE_PASS": self._obscured(psw) if key and psw else "",
            "KNOWN_HOSTS_FILE": str(known),
            "SHELL_TYPE": "none",
            "DISABLE_HASHCHECK": "true",
        }, path

    def _s3(self) -> tuple[dict[str, str], str]:
        """Variables and path of a target like https://host:9000/bucket/prefix?region=eu-central-1."""
        where = url(self._target, *S3)
        path = where.path.strip("/")
        host = f"[{where.host}]" if ":" in where.host else where.host
        return {
            "TYPE": "s3",
            "PROVIDER": "AWS" if where.host.endswith(".amazonaws.com") else "Other",
            "ENDPOINT": f"{where.scheme}://{host}{f':{where.port}' if where.port else ''}",
            "REGION": where.options.get("region", ""),
            "ACCESS_KEY_ID": self._target.user,
            "SECRET_ACCESS_KEY": self._target.psw,
            "ENV_AUTH": "" if self._target.user else "true",
            "NO_CHECK_BUCKET": "true",
            "FORCE_PATH_STYLE": "true",
        }, path

    def _obscured(self, password: str) -> str:
        """A password as rclone wants it in its configuration; it goes by standard input."""
        done = subprocess.run(
            [self._program, "obscure", "-"], input=password.encode(), stdout=subprocess.PIPE, check=True
        )
        return done.stdout.decode().strip()


def _environment() -> dict[str, str]:
    """The environment; rclone has its own variable for what AWS's tools call `AWS_CA_BUNDLE`, and fails on that."""
    found = environment()
    if bundle := found.pop("AWS_CA_BUNDLE", ""):
        found.setdefault(_CA_CERT, bundle)
    return found


def _ssh(name: str) -> Path:
    return Path.home() / ".ssh" / name


def _known_hosts(where: Url) -> Path:
    if given := where.options.get("known_hosts"):
        return Path(given)
    own, of_all = _ssh("known_hosts"), Path("/etc/ssh/ssh_known_hosts")
    return of_all if of_all.is_file() and not own.is_file() else own


class _Log(threading.Thread):
    """Reads what rclone says: messages, and figures of transfers."""

    def __init__(self, stream: IO[bytes], sent: Callable[[int], None] | None) -> None:
        super().__init__(daemon=True)
        self.messages: list[str] = []
        self._stream = stream
        self._sent = sent
        self._bytes = 0
        self.start()

    def run(self) -> None:
        for line in self._stream:
            text = line.decode("utf-8", "replace").strip()
            try:
                fields = json.loads(text)
                stats, level, message = fields.get("stats"), fields.get("level"), str(fields.get("msg"))
            except (ValueError, AttributeError):
                stats, level, message = None, "error", text  # the last line of a failure is no JSON
            if stats and self._sent:
                count = int(stats.get("bytes", 0))
                self._sent(max(0, count - self._bytes))
                self._bytes = max(count, self._bytes)
            elif not stats and level != "warning" and message:
                self.messages.append(message)
