"""The one table of settings, and how they are read: the configuration file, then the environment.

`ops/server.conf` shows every setting with its default. `PULZAR_<SECTION>_<KEY>` in the environment
beats the file. An unknown key or a value that can't be used stops the program with a clear message.
"""

from __future__ import annotations

import configparser
import difflib
import hashlib
import os
import re
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from broker import numbers
from broker.errors import SettingsError

# Not a setting: the path of the configuration file itself, handed to child processes.
CONFIG_VARIABLE = "PULZAR_CONFIG"


class Setting(NamedTuple):
    """One row of the table."""

    section: str
    key: str
    default: Any
    parse: Callable[[str], Any]
    unit: str
    help: str


def _text(raw: str) -> str:
    return "" if raw in ("None", "") else raw


def _flag(raw: str) -> bool:
    value = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if raw.lower() not in value:
        raise ValueError("True or False is needed")
    return value[raw.lower()]


def _integer(least: int, most: int) -> Callable[[str], int]:
    def parse(raw: str) -> int:
        try:
            return numbers.parse(raw, least, most)
        except ValueError:
            raise ValueError(f"an integer from {least} to {most} is needed") from None

    return parse


def _seconds(least: float, most: float) -> Callable[[str], float]:
    def parse(raw: str) -> float:
        try:
            number = float(raw)
        except ValueError:
            number = float("nan")
        if not least <= number <= most:
            raise ValueError(f"a number from {least:g} to {most:g} is needed")
        return number

    return parse


def _size(least: int, most: int) -> Callable[[str], int]:
    units = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}

    def parse(raw: str) -> int:
        digits = raw.lower().removesuffix("ib").rstrip("kmgt")
        unit = raw.lower().removesuffix("ib")[len(digits) :]
        try:
            number = numbers.parse(digits) * units[unit]
        except (ValueError, KeyError):
            number = -1
        if not least <= number <= most:
            raise ValueError(f"a size from {least} to {most} bytes is needed, like 4096, 64K or 1M")
        return number

    return parse


def _choice(*choices: str) -> Callable[[str], str]:
    def parse(raw: str) -> str:
        if raw not in choices:
            raise ValueError(f"one of {', '.join(choices)} is needed")
        return raw

    return parse


def _hosts(raw: str) -> str:
    for one in filter(None, (part.strip() for part in _text(raw).split(","))):
        try:
            parts = urlsplit(f"//{one}")
            usable = bool(parts.hostname) and parts.netloc == one and "@" not in one and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise ValueError("hosts like pictures.example or 10.0.0.5:8080 with commas between them are needed, or *")
    return _text(raw)


def _names(raw: str) -> tuple[str, ...]:
    names = tuple(name for name in raw.replace(",", " ").split() if name)
    for name in names:
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name) or name.startswith("PULZAR_"):
            raise ValueError(
                "names of environment variables are needed, like HTTPS_PROXY, OMP_NUM_THREADS; none of PULZAR_…"
            )
    return names


_PORT = _integer(0, 65535)
_TB = 1 << 40

TABLE: tuple[Setting, ...] = (
    Setting("server", "host", "localhost", _text, "", "address the master listens on"),
    Setting("server", "port", 31414, _PORT, "", "port the master listens on"),
    Setting("server", "advertise", "", _text, "host:port", "address that nodes and clients reach the master at; empty: host and port"),
    Setting("server", "dir", "/var/lib/pulzar/master", _text, "", "the master's data directory: the index"),
    Setting("server", "index_map", 256 << 30, _size(16 << 20, 64 * _TB), "bytes", "most the index may grow to; this is address space, not disk or memory"),
    Setting("server", "workers", 0, _integer(0, 64), "processes", "web workers of the master; 0: half of the cores"),
    Setting("server", "threads", 32, _integer(1, 4096), "threads", "requests one web worker of the master answers at once, those for single keys not counted"),
    Setting("server", "cached", 4096, _size(0, 65536), "bytes", "values up to this size are kept beside their index entry and answered by the master"),
    Setting("server", "put_timeout", 10.0, _seconds(0.5, 600), "seconds", "a PUT or DELETE is answered within this time, with 503 at the worst"),
    Setting("server", "relay", 64 << 20, _size(0, 64 * _TB), "bytes", "larger values, up to this size, are passed on to a node when their client sends them without Expect; beyond it is redirected"),
    Setting("server", "client_timeout", 60.0, _seconds(0.5, 86_400), "seconds", "a client that sends or takes nothing for so long is given up, by master and nodes"),
    Setting("server", "client_rate", 1024, _size(1, _TB), "bytes per second", "a client that is slower than this, after client_timeout, is given up"),
    Setting("server", "cors", "*", _text, "origin", "Access-Control-Allow-Origin (of a node to a signed address: *); empty: none"),
    Setting("volume", "dir", "/var/lib/pulzar/data", _text, "", "the node's data directory: all there is of a node"),
    Setting("volume", "host", "localhost", _text, "", "address the node listens on"),
    Setting("volume", "port", 31415, _PORT, "", "port the node listens on"),
    Setting("volume", "advertise", "", _text, "host:port", "address that clients reach the node at; empty: host and port"),
    Setting("volume", "node", "", _text, "", "the node's name; empty: one is made at the first start and kept in the data directory"),
    Setting("volume", "threads", 64, _integer(1, 4096), "threads", "threads of a node that read values, and as many that write uploads"),
    Setting("volume", "inline", 1 << 20, _size(0, 8 << 20), "bytes", "values up to this size are taken by the master; larger ones are sent to a node"),
    Setting("volume", "small", 65536, _size(0, 1 << 20), "bytes", "values up to this size live in the value log, larger ones in a file each"),
    Setting("volume", "segment", 64 << 20, _size(65536, 4 << 30), "bytes", "size at which a segment of the value log is sealed"),
    Setting("volume", "reserve", 256 << 20, _size(0, _TB), "bytes", "free disk space below which a node takes no more values"),
    Setting("volume", "compact_rate", 32 << 20, _size(65536, _TB), "bytes per second", "how fast compaction reads the log"),
    Setting("volume", "scrub_days", 30.0, _seconds(0, 3650), "days", "every value is read and checked once in this time; 0: never"),
    Setting("volume", "open_reads", True, _flag, "", "whether the node answers a GET without its master's signature"),
    Setting("general", "retention_policy", 90, _integer(1, 36500), "days", "how long finished jobs are kept"),
    Setting("general", "tombstone_days", 90, _integer(1, 36500), "days", "how long a deletion is remembered; backups older than this may bring deleted keys back"),
    Setting("general", "secret", "", _text, "", "signs the URLs that the master sends clients to; empty: derived from the credentials in [broker] url"),
    Setting("general", "heartbeat", 2.0, _seconds(0.1, 60), "seconds", "time between two heartbeats of a node; three missed ones and it is out of synch"),
    Setting("general", "events", False, _flag, "", "whether events (key.added, key.deleted, job.finished) are published, for users"),
    Setting("general", "log_level", "info", _choice("debug", "info", "warning", "error"), "", "least level that is logged"),
    Setting("broker", "url", "amqp://guest:guest@localhost:5672/%2F", _text, "", "where RabbitMQ is, with credentials"),
    Setting("jobs", "dir", "jobs", _text, "", "folder of the job scripts, of a node"),
    Setting("jobs", "slots", 0, _integer(0, 1024), "runs", "jobs a node runs at once; 0: one per core"),
    Setting("jobs", "timeout", 86_400.0, _seconds(0, 30 * 86_400), "seconds", "a run is ended after this time unless its job says otherwise; 0: never"),
    Setting("jobs", "grace", 5.0, _seconds(0, 600), "seconds", "between SIGTERM and SIGKILL when a run is ended"),
    Setting("jobs", "memory", 0, _size(0, 64 * _TB), "bytes", "memory a run may use unless its job says otherwise; 0: no limit"),
    Setting("jobs", "processes", 512, _integer(1, 1 << 20), "processes", "most processes of one run"),
    Setting("jobs", "log_limit", 1 << 20, _size(1024, 1 << 30), "bytes", "of a run's log so much is kept, its beginning and its end"),
    Setting("jobs", "output_limit", 1 << 20, _size(1024, 64 << 20), "bytes", "largest output of a run"),
    Setting("jobs", "environment", (), _names, "", "variables of the node that its runs get, with commas between them"),
    Setting("jobs", "secrets", "", _text, "", "file of secrets for scripts, which only its owner may read; empty: none"),
    Setting("jobs", "cache", 4 << 30, _size(0, 64 * _TB), "bytes", "libraries' caches are kept from run to run, and emptied at a node's start when they are larger; 0: never kept"),
    Setting("jobs", "data_wait", 10.0, _seconds(0, 86_400), "seconds", "how long a job waits for a free slot on a node that has its pulzar_data; then any node takes it, and fetches the value"),
    Setting("jobs", "lease", 30.0, _seconds(1, 86_400), "seconds", "a run whose node is silent for so long is lost, and its job starts elsewhere"),
    Setting("jobs", "lost_attempts", 3, _integer(1, 100), "attempts", "attempts at a job whose runs are lost, unless the job says how many"),
    Setting("jobs", "max_pending", 100_000, _integer(1, 100_000_000), "jobs", "most jobs that may be pending; a launch beyond that is answered 503"),
    Setting("jobs", "max_pending_bytes", 256 << 20, _size(1 << 20, _TB), "bytes", "most that the arguments of all pending jobs may have together, and as much for those of all schedules"),
    Setting("jobs", "max_schedules", 10_000, _integer(1, 1_000_000), "schedules", "most schedules that may be active"),
    Setting("jobs", "ledger_map", 64 << 30, _size(16 << 20, 64 * _TB), "bytes", "most the master's ledger of jobs may grow to; this is address space"),
    Setting("extensions", "dir", "extensions", _text, "", "folder of the extensions, of the master"),
    Setting("extensions", "timeout", 60.0, _seconds(0.1, 86_400), "seconds", "an extension that runs longer is ended; a request waits as long for a free process"),
    Setting("extensions", "max_body", 64 << 20, _size(0, 64 * _TB), "bytes", "largest body of a PUT to an extension"),
    Setting("extensions", "processes", 0, _integer(0, 1024), "processes", "extensions that one web worker of the master runs at once; 0: one per core"),
    Setting("extensions", "fetch", "", _hosts, "hosts", "where image_url may lead besides keys of this cluster: host or host:port, with commas between them; *: anywhere"),
    Setting("backup", "active", False, _flag, "", "automatic backups"),
    Setting("backup", "type", "", _text, "", "kind of backup"),
    Setting("backup", "address", "", _text, "", "where backups go"),
    Setting("backup", "user", "", _text, "", "user there"),
    Setting("backup", "psw", "", _text, "", "password there"),
)  # fmt: skip

SECRETS = frozenset({("general", "secret"), ("broker", "url"), ("backup", "psw")})


@dataclass(frozen=True)
class Settings:
    """All settings; `settings["volume", "port"]` is one of them."""

    values: Mapping[tuple[str, str], Any]

    def __getitem__(self, name: tuple[str, str]) -> Any:
        return self.values[name]

    def address(self, section: str) -> str:
        """`host:port` that others reach the master ("server") or the node ("volume") at.

        Raises `SettingsError` when it listens on every address and no other one is advertised.
        """
        host, port, advertised = (self[section, key] for key in ("host", "port", "advertise"))
        if not advertised and is_every(host):
            raise SettingsError(
                f"[{section}] host = {host!r} is every address of this machine, and nobody reaches it at that: set "
                f"[{section}] advertise (PULZAR_{section.upper()}_ADVERTISE) to the name or address that others know "
                f"this machine by, like store.example:{port}"
            )
        return advertised or joined(host, port)

    def secret(self) -> bytes:
        """The key that URLs are signed with, 32 bytes."""
        secret = self["general", "secret"]
        if not secret:
            parts = urlsplit(self["broker", "url"])
            secret = f"{parts.username}:{parts.password}"
        return hashlib.sha256(b"pulzar url signature\0" + secret.encode()).digest()


def load(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings from the file (when one is given) and the environment; raises `SettingsError`."""
    path = path or (Path(environ[CONFIG_VARIABLE]) if environ.get(CONFIG_VARIABLE) else None)
    table = {(row.section, row.key): row for row in TABLE}
    values = {name: row.default for name, row in table.items()}
    for (section, key), raw in (_read(path) if path else {}).items():
        row = table.get((section, key))
        if row is None:
            raise SettingsError(f"{path}: [{section}] {key} is no setting{_nearest(section, key)}")
        values[section, key] = _parse(row, raw, f"{path}: [{section}] {key}")
    variables = {f"PULZAR_{row.section}_{row.key}".upper(): row for row in TABLE}
    for name, raw in environ.items():
        if not name.startswith("PULZAR_") or name == CONFIG_VARIABLE:
            continue
        row = variables.get(name)
        if row is None:
            near = difflib.get_close_matches(name, variables, 1)
            raise SettingsError(f"{name} in the environment is no setting" + (f"; {near[0]}?" if near else ""))
        values[row.section, row.key] = _parse(row, raw, name)
    return Settings(values)


def _read(path: Path) -> dict[tuple[str, str], str]:
    parser = configparser.ConfigParser(interpolation=None, default_section="\0")
    try:
        with path.open(encoding="utf-8") as file:
            parser.read_file(file)
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise SettingsError(f"{path} can't be read: {error}") from error
    return {(section, key): raw for section in parser.sections() for key, raw in parser.items(section)}


def _parse(row: Setting, raw: str, where: str) -> Any:
    try:
        return row.parse(raw.strip())
    except ValueError as error:
        shown = "(hidden)" if (row.section, row.key) in SECRETS else repr(raw)
        raise SettingsError(f"{where} = {shown}: {error}") from error


def _nearest(section: str, key: str) -> str:
    names = {f"[{row.section}] {row.key}" for row in TABLE}
    near = difflib.get_close_matches(f"[{section}] {key}", names, 1)
    return f"; {near[0]}?" if near else ""


def is_every(host: str) -> bool:
    """Whether a process that listens on `host` listens on every address of its machine, like 0.0.0.0 and ::."""
    for parse in (socket.inet_aton, lambda text: socket.inet_pton(socket.AF_INET6, text)):
        with suppress(OSError):  # it is a name, or an address of the other kind
            return not any(parse(host))
    return not host


def reachable(host: str) -> str:
    """An address to connect to, on the same machine, of a process that listens on `host`."""
    return ("::1" if ":" in host else "127.0.0.1") if is_every(host) else host


def joined(host: str, port: int) -> str:
    """`host:port` as URLs have it: an IPv6 address stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
