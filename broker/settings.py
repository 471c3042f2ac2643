"""The settings: a class for each section, and how they are read from the configuration file and the environment.

`ops/server.conf` shows every setting with its default. `PULZAR_<SECTION>_<KEY>` in the environment
beats the file. An unknown key or a value that cannot be used stops the program with a clear message.
"""

from __future__ import annotations

import configparser
import difflib
import hashlib
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

from broker import MOST_REPLICAS, phases
from broker import setting_types as types
from broker.backups import keep_rule, timetable
from broker.errors import SettingsError

# Not settings: the path of the configuration file itself, handed to child processes, and the token of a client.
CONFIG_VARIABLE = "PULZAR_CONFIG"
TOKEN_VARIABLE = "PULZAR_TOKEN"
_FILE = "file:"
NO_AUDIT, AUDIT_OF_READS = "none", "all"
_OF_CLIENTS = {TOKEN_VARIABLE, "PULZAR_URL", "PULZAR_CLUSTER"}
# Neither are these, of which the last two are for tests.
_OTHERS = _OF_CLIENTS | {CONFIG_VARIABLE, phases.FILE_VARIABLE, phases.STOP_VARIABLE}

T = TypeVar("T")


class Setting(NamedTuple):
    """One setting: where it stands, and how a text becomes its value."""

    section: str
    key: str
    default: object
    parse: Callable[[str], object]
    help: str
    secret: bool  # never shown

    @property
    def name(self) -> str:
        """As people write it."""
        return f"[{self.section}] {self.key}"

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return f"PULZAR_{self.section}_{self.key}".upper()

    def read(self, raw: str, where: str) -> object:
        """Its value from a text that stands at `where`; raises `SettingsError`."""
        try:
            return self.parse(raw.strip())
        except ValueError as error:
            raise SettingsError(f"{where} = {'(hidden)' if self.secret else repr(raw)}: {error}") from error


def setting(default: T, parse: Callable[[str], T], help: str, *, secret: bool = False) -> T:
    """A field of a section: its default, and the function that reads it (raises `ValueError`)."""
    made: T = field(default=default, metadata={"parse": parse, "help": help, "secret": secret})
    return made


@dataclass(frozen=True)
class Server:
    """The master, and what holds for clients of master and nodes."""

    host: str = setting("localhost", types.host, "address the master listens on")
    port: int = setting(31414, types.PORT, "port the master listens on")
    advertise: str = setting(
        "", types.address, "address that nodes and clients reach the master at; empty: host and port"
    )
    dir: str = setting("/var/lib/pulzar/master", types.text, "the master's data directory: the index")
    index_map: int = setting(
        256 << 30,
        types.size(16 << 20, 64 * types.TB),
        "most the index may grow to; this is address space, not disk or memory (bytes)",
    )
    workers: int = setting(0, types.integer(0, 64), "web workers of the master; 0: half of the cores")
    threads: int = setting(
        32,
        types.integer(1, 4096),
        "requests one web worker of the master answers at once, those for single keys not counted",
    )
    cached: int = setting(
        4096,
        types.size(0, 65536),
        "values up to this size are kept beside their index entry and answered by the master (bytes)",
    )
    put_timeout: float = setting(
        10.0, types.seconds(0.5, 600), "a PUT or DELETE is answered within this time, with 503 at the worst (seconds)"
    )
    relay: int = setting(
        64 << 20,
        types.size(0, 64 * types.TB),
        "larger values up to this size, sent without Expect, are passed on to a node; others are redirected (bytes)",
    )
    client_timeout: float = setting(
        60.0,
        types.seconds(0.5, 86_400),
        "a client that sends or takes nothing for so long is given up, by master and nodes (seconds)",
    )
    client_rate: int = setting(
        1024,
        types.size(1, types.TB),
        "a client that is slower than this, after client_timeout, is given up (bytes per second)",
    )
    cors: tuple[str, ...] = setting(
        (), types.origins, "origins whose pages may use master and nodes, comma-separated; *: any; empty: none"
    )
    cert: str = setting("", types.text, "certificate of the master and those that signed it, as PEM; empty: no TLS")
    key: str = setting("", types.text, "the key of its certificate, as PEM, which only its owner may read")
    tls: bool = setting(
        False, types.flag, "whether the master is reached by https; on a node, which has no certificate of the master"
    )
    listeners: int = setting(
        1_000, types.integer(0, 20_000), "most clients that listen to events at each web worker at once"
    )
    waiters: int = setting(
        10_000, types.integer(0, 20_000), "most requests that wait for a key at each web worker at once"
    )
    hosts: tuple[str, ...] = setting(
        (), types.host_names, "other names that clients know master and nodes by, comma-separated"
    )


@dataclass(frozen=True)
class Volume:
    """A node. Its section keeps the name that the first Pulzar gave it."""

    dir: str = setting("/var/lib/pulzar/data", types.text, "the node's data directory: all there is of a node")
    host: str = setting("localhost", types.host, "address the node listens on")
    port: int = setting(31415, types.PORT, "port the node listens on")
    advertise: str = setting("", types.address, "address that clients reach the node at; empty: host and port")
    node: str = setting(
        "", types.text, "the node's name; empty: one is made at the first start and kept in the data directory"
    )
    threads: int = setting(
        64, types.integer(1, 4096), "threads of a node that read values, and as many that write uploads"
    )
    inline: int = setting(
        1 << 20,
        types.size(0, 8 << 20),
        "values up to this size are taken by the master; larger ones are sent to a node (bytes)",
    )
    small: int = setting(
        65536,
        types.size(0, 1 << 20),
        "values up to this size live in the value log, larger ones in a file each (bytes)",
    )
    segment: int = setting(
        64 << 20, types.size(65536, 4 << 30), "size at which a segment of the value log is sealed (bytes)"
    )
    reserve: int = setting(
        256 << 20, types.size(0, types.TB), "free disk space below which a node takes no more values (bytes)"
    )
    compact_rate: int = setting(
        32 << 20, types.size(65536, types.TB), "how fast compaction reads the log (bytes per second)"
    )
    repair_bandwidth: int = setting(
        64 << 20, types.size(65536, types.TB), "how fast a node fetches missing copies from others (bytes per second)"
    )
    scrub_days: float = setting(
        30.0, types.seconds(0, 3650), "every value is read and checked once in this time; 0: never (days)"
    )
    undelete_days: float = setting(
        7.0,
        types.seconds(0, 3650),
        "deleted and overwritten values can be brought back for so long; 0: not at all (days)",
    )
    zone: str = setting(
        "", types.text, "what the node shares with others that may fail together, like a rack; empty: nothing"
    )
    open_reads: bool = setting(True, types.flag, "whether the node answers a GET without its master's signature")
    cert: str = setting("", types.text, "certificate of the node and those that signed it, as PEM; empty: no TLS")
    key: str = setting("", types.text, "the key of its certificate, as PEM, which only its owner may read")


@dataclass(frozen=True)
class General:
    """The whole cluster."""

    retention_policy: int = setting(
        90, types.integer(1, 36500), "how long finished jobs and dead messages are kept (days)"
    )
    tombstone_days: int = setting(
        90,
        types.integer(1, 36500),
        "how long a deletion is remembered; backups older than this may bring deleted keys back (days)",
    )
    quotas: tuple[tuple[str, int], ...] = setting(
        (), types.quotas, "most bytes that a folder may hold, like folder/: 100GB, other/: 5GiB; /: the whole store"
    )
    replicas: tuple[tuple[str, int], ...] = setting(
        (),
        types.replicas,
        "on how many nodes each value is stored, like 2, or 1, folder/: 2, logs/: 3; the longest folder counts; empty:"
        " on one",
    )
    min_replicas: int = setting(
        0,
        types.integer(0, MOST_REPLICAS),
        "a value is stored, if there are no more, on this number of nodes at first; 0: on all that are asked for",
    )
    repair_after: float = setting(
        600.0,
        types.seconds(1, 30 * 86_400),
        "a node that is not heard from for so long counts as lost; its values get other holders (seconds)",
    )
    rebalance: bool = setting(
        False, types.flag, "whether values are moved from the fullest node to the emptiest one, slowly"
    )
    restic_append_only: tuple[str, ...] = setting(
        (),
        types.repositories,
        "restic repositories where nothing but a lock can be deleted, with commas between them; *: all of them",
    )
    secret: str = setting(
        "",
        types.text,
        "signs the URLs that the master sends clients to: secrets with commas between them, of which the first one "
        "signs, or file:PATH; empty, on one machine alone: derived from the credentials in [broker] url",
        secret=True,
    )
    heartbeat: float = setting(
        2.0,
        types.seconds(0.1, 60),
        "time between two heartbeats of a node; three missed ones and it is out of synch (seconds)",
    )
    events: bool = setting(False, types.flag, "whether events are published in RabbitMQ, too")
    log_level: str = setting("info", types.choice("debug", "info", "warning", "error"), "least level that is logged")


@dataclass(frozen=True)
class Security:
    """Who may do what."""

    tokens: str = setting(
        "", types.text, "file of tokens of the master, which only its owner may read; empty: trust alone counts"
    )
    queue: str = setting(
        "",
        types.text,
        "with tokens: what jobs may do that were published to RabbitMQ by hand: the name of a token, or rights with "
        "blanks between them; empty: nothing",
    )
    trust: tuple[str, ...] = setting(
        (), types.networks, "without tokens: networks besides this machine that may do everything, comma-separated"
    )
    ca: str = setting(
        "", types.text, "certificates that master, nodes and jobs trust besides those of the system, a PEM file"
    )
    audit: str = setting(
        "changes",
        types.choice(NO_AUDIT, "changes", AUDIT_OF_READS),
        "which requests the master writes into audit.log: none, changes and refusals, or all",
    )


@dataclass(frozen=True)
class Broker:
    """RabbitMQ."""

    url: str = setting(
        "amqp://guest:guest@localhost:5672/%2F", types.broker_url, "where RabbitMQ is, with credentials", secret=True
    )
    console: str = setting(
        "",
        types.console_url,
        "RabbitMQ's console, which the web page leads to and asks; empty: port 15672 of its host, not asked",
        secret=True,
    )


@dataclass(frozen=True)
class Jobs:
    """Jobs: their scripts, limits and leases."""

    dir: str = setting("jobs", types.text, "folder of the job scripts, of a node")
    slots: int = setting(0, types.integer(0, 1024), "jobs a node runs at once; 0: one per core")
    timeout: float = setting(
        86_400.0,
        types.seconds(0, 30 * 86_400),
        "a run is ended after this time unless its job says otherwise; 0: never (seconds)",
    )
    grace: float = setting(5.0, types.seconds(0, 600), "between SIGTERM and SIGKILL when a run is ended (seconds)")
    memory: int = setting(
        0, types.size(0, 64 * types.TB), "memory a run may use unless its job says otherwise; 0: no limit (bytes)"
    )
    processes: int = setting(512, types.integer(1, 1 << 20), "most processes of one run")
    log_limit: int = setting(
        1 << 20, types.size(1024, 1 << 30), "of a run's log so much is kept, its beginning and its end (bytes)"
    )
    output_limit: int = setting(1 << 20, types.size(1024, 64 << 20), "largest output of a run (bytes)")
    environment: tuple[str, ...] = setting(
        (), types.names, "variables of the node that its runs get, with commas between them"
    )
    secrets: str = setting("", types.text, "file of secrets for scripts, which only its owner may read; empty: none")
    cache: int = setting(
        4 << 30,
        types.size(0, 64 * types.TB),
        "caches of libraries last from run to run up to this size, checked at a node's start; 0: never (bytes)",
    )
    preload: tuple[str, ...] = setting(
        (),
        types.modules,
        "modules that all runs find loaded, with commas between them; auto: those that scripts import which run often",
    )
    preload_zygotes: int = setting(
        4, types.integer(0, 32), "most processes that have modules loaded ahead; 0: none, whatever scripts ask for"
    )
    preload_memory: int = setting(
        1 << 30, types.size(1 << 20, 64 * types.TB), "most memory that these hold together (bytes)"
    )
    fence: str = setting(
        "auto",
        types.choice("auto", "required", "off"),
        "whether runs are kept from the node's files, its processes and each other's: as far as can be, always, not",
    )
    user: str = setting("", types.text, "user that runs have, by name or number; empty: the node's own")
    network: bool = setting(True, types.flag, "whether runs have the machine's network; else they have loopback alone")
    tmp: str = setting(
        "shared", types.choice("shared", "private"), "/tmp of runs: that of the machine, or one for each run"
    )
    cgroups: str = setting(
        "auto", types.choice("auto", "off"), "whether each run is in a cgroup, where systemd delegates them"
    )
    pids: int = setting(4096, types.integer(16, 1 << 22), "most processes and threads of a run that is in a cgroup")
    scratch: int = setting(
        0, types.size(0, 64 * types.TB), "most that a run may have in its scratch directory; 0: no limit (bytes)"
    )
    data_wait: float = setting(
        10.0,
        types.seconds(0, 86_400),
        "how long a job waits for a slot on a node that has its pulzar_data, before any node takes it (seconds)",
    )
    lease: float = setting(
        30.0,
        types.seconds(1, 86_400),
        "a run whose node is silent for so long is lost, and its job starts elsewhere (seconds)",
    )
    lost_attempts: int = setting(
        3, types.integer(1, 100), "attempts at a job whose runs are lost, unless the job says how many"
    )
    max_pending: int = setting(
        100_000, types.integer(1, 100_000_000), "most jobs that may be pending; a launch beyond that is answered 503"
    )
    max_pending_bytes: int = setting(
        256 << 20,
        types.size(1 << 20, types.TB),
        "most that the arguments of all pending jobs may have together, and as much for those of all schedules (bytes)",
    )
    max_schedules: int = setting(10_000, types.integer(1, 1_000_000), "most schedules that may be active")
    ledger_map: int = setting(
        64 << 30,
        types.size(16 << 20, 64 * types.TB),
        "most the master's ledger of jobs may grow to; this is address space (bytes)",
    )


@dataclass(frozen=True)
class Extensions:
    """Extensions of the master."""

    dir: str = setting("extensions", types.text, "folder of the extensions, of the master")
    timeout: float = setting(
        60.0,
        types.seconds(0.1, 86_400),
        "an extension that runs longer is ended; a request waits as long for a free process (seconds)",
    )
    max_body: int = setting(64 << 20, types.size(0, 64 * types.TB), "largest body of a PUT to an extension (bytes)")
    processes: int = setting(
        0,
        types.integer(0, 1024),
        "extensions that one web worker of the master runs at once; 0: one per core",
    )
    fetch: str = setting(
        "",
        types.hosts,
        "where image_url may lead besides keys of this cluster: host or host:port, comma-separated; *: anywhere",
    )


@dataclass(frozen=True)
class Backup:
    """Backups of all nodes and of the ledger. The first Pulzar's file has the first five."""

    active: bool = setting(False, types.flag, "whether backups are made at their time, by themselves")
    type: str = setting(
        "",
        types.choice_or_none("directory", "sftp", "s3", "restic", "rclone"),
        "kind of target: directory, sftp, s3, restic or rclone",
    )
    address: str = setting("", types.text, "where backups go: a path, sftp://host/path, https://host/bucket, …")
    user: str = setting("", types.text, "user there")
    psw: str = setting("", types.text, "password there", secret=True)
    at: str = setting("02:30", timetable.parse, "when they are made, in the master's time: 02:30, or 30 2 * * *")
    keep: str = setting("7 daily, 4 weekly, 6 monthly", keep_rule.text, "backups that are kept of each node")
    verify: float = setting(
        5.0, types.seconds(0, 100), "of the newest backup so much is read back each week; 0: nothing (percent)"
    )
    bandwidth: int = setting(0, types.size(0, types.TB), "most that one backup sends; 0: no limit (bytes per second)")


@dataclass(frozen=True)
class Settings:
    """All settings. `settings.volume.port` is one of them."""

    server: Server = Server()
    volume: Volume = Volume()
    general: General = General()
    security: Security = Security()
    broker: Broker = Broker()
    jobs: Jobs = Jobs()
    extensions: Extensions = Extensions()
    backup: Backup = Backup()

    def address(self, section: Server | Volume) -> str:
        """`host:port` that others reach the master or the node at.

        Raises `SettingsError` when it listens on every address and no other one is advertised.
        """
        if not section.advertise and types.is_every(section.host):
            name = type(section).__name__.lower()
            raise SettingsError(
                f"[{name}] host = {section.host!r} is every address of this machine, and nobody reaches it at that:"
                f" set [{name}] advertise (PULZAR_{name.upper()}_ADVERTISE) to the name or address that others know "
                f"this machine by, like store.example:{section.port}"
            )
        return section.advertise or joined(section.host, section.port)

    def url(self, section: Server | Volume) -> str:
        """`http://host:port`, or with https, that others reach the master or the node at. Raises `SettingsError`."""
        return f"{self.scheme(section)}://{self.address(section)}"

    def scheme(self, section: Server | Volume) -> str:
        """How the master or the node is reached: `https` or `http`."""
        return "https" if section.cert or (isinstance(section, Server) and section.tls) else "http"

    def names(self, section: Server | Volume) -> set[str]:
        """The names that clients know the master or the node by; they may have a port."""
        return {section.host, section.advertise, socket.gethostname(), *self.server.hosts} - {""}

    def require_secret(self, *sections: Server | Volume) -> None:
        """Raise `SettingsError` when one is reached from other machines and nothing random signs addresses."""
        if self.general.secret:
            return
        for section in sections:
            name = type(section).__name__.lower()
            for key, given in (("host", section.host), ("advertise", _host_of(section.advertise))):
                if not (types.is_loopback(given) or (key == "advertise" and not given)):
                    raise SettingsError(
                        f"[{name}] {key} = {getattr(section, key)!r} is more than this machine, and then [general] "
                        "secret (PULZAR_GENERAL_SECRET) is needed: the same random text for master and nodes, like "
                        "that of openssl rand -hex 24. What was used without one comes from [broker] url"
                    )

    @property
    def open_reads(self) -> bool:
        """Whether a node answers a GET that is not signed. Where tokens decide, it does not: it knows no token."""
        return self.volume.open_reads and not self.security.tokens

    def secret(self) -> bytes:
        """The key that URLs are signed with, 32 bytes. Raises `SettingsError`."""
        return self.secrets()[0]

    def secrets(self) -> tuple[bytes, ...]:
        """The keys that signed URLs are verified with; the first one signs. Raises `SettingsError`."""
        texts = self.secret_texts()
        if not texts:
            parts = urlsplit(self.broker.url)
            texts = [f"{parts.username}:{parts.password}"]
        return tuple(hashlib.sha256(b"pulzar url signature\0" + text.encode()).digest() for text in texts)

    def secret_texts(self) -> list[str]:
        """The secrets as they were given, those of a file included. Raises `SettingsError`."""
        given = self.general.secret
        texts = _secret_lines(Path(given.removeprefix(_FILE))) if given.startswith(_FILE) else given.split(",")
        return [text.strip() for text in texts if text.strip()]


def _host_of(address: str) -> str:
    return urlsplit(f"//{address}").hostname or ""


def _secret_lines(path: Path) -> list[str]:
    """The secrets in a file, one a line; raises `SettingsError`."""
    try:
        mode, text = path.stat().st_mode, path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"[general] secret: {path} can't be read: {error}") from error
    if mode & 0o007:
        raise SettingsError(f"[general] secret: others may use {path}; chmod 600 it, or 640 for a group")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise SettingsError(f"[general] secret: {path} has no secret; write one into it, like openssl rand -hex 24")
    return lines


SECTIONS: dict[str, type[Server | Volume | General | Security | Broker | Jobs | Extensions | Backup]] = {
    section.__name__.lower(): section
    for section in (Server, Volume, General, Security, Broker, Jobs, Extensions, Backup)
}
TABLE = tuple(
    Setting(section, one.name, one.default, **one.metadata) for section, cls in SECTIONS.items() for one in fields(cls)
)


def load(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings from the file (when one is given) and the environment; raises `SettingsError`."""
    path = path or (Path(environ[CONFIG_VARIABLE]) if environ.get(CONFIG_VARIABLE) else None)
    given: dict[str, dict[str, object]] = {section: {} for section in SECTIONS}
    names = {one.name: one for one in TABLE}
    for name, raw in (_read(path) if path else {}).items():
        if name not in names:
            raise SettingsError(f"{path}: {name} is no setting{_nearest(name, names)}")
        row = names[name]
        given[row.section][row.key] = row.read(raw, f"{path}: {name}")
    variables = {one.variable: one for one in TABLE}
    for name, raw in environ.items():
        if not name.startswith("PULZAR_") or name in _OTHERS:
            continue
        if name not in variables:
            raise SettingsError(f"{name} in the environment is no setting{_nearest(name, variables)}")
        row = variables[name]
        given[row.section][row.key] = row.read(raw, name)
    loaded = Settings(**{section: SECTIONS[section](**values) for section, values in given.items()})  # type: ignore[arg-type]
    if loaded.backup.active and not (loaded.backup.type and loaded.backup.address):
        raise SettingsError("[backup] active is set: give [backup] type and address, too, or set active = False")
    return loaded


def origins(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Where settings come from that are not the default: the variable, or the file, by the name of the setting.

    The same sources as `load` has, which says what is wrong with them. Raises `SettingsError` for a file that can't
    be read.
    """
    path = path or (Path(environ[CONFIG_VARIABLE]) if environ.get(CONFIG_VARIABLE) else None)
    found = dict.fromkeys(_read(path) if path else {}, str(path))
    return found | {one.name: one.variable for one in TABLE if one.variable in environ}


def _read(path: Path) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None, default_section="\0")
    try:
        with path.open(encoding="utf-8") as file:
            parser.read_file(file)
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise SettingsError(f"{path} can't be read: {error}") from error
    return {f"[{section}] {key}": raw for section in parser.sections() for key, raw in parser.items(section)}


def _nearest(name: str, names: Mapping[str, Setting]) -> str:
    near = difflib.get_close_matches(name, names, 1)
    return f"; {near[0]}?" if near else ""


def reachable(host: str) -> str:
    """An address to connect to, on the same machine, of a process that listens on `host`."""
    if not types.is_every(host):
        return host
    return "::1" if ":" in host and "." not in host else "127.0.0.1"


def joined(host: str, port: int) -> str:
    """`host:port` as URLs have it: an IPv6 address stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
