"""Every command and its options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

from pulzar.command.task import USAGE

_STATES = ("pending", "running", "completed", "failed", "cancelled")
_STATUSES = """exit statuses:
  0    done
  1    failed, in part or as a whole; a job that failed has the exit status of its script
  2    wrong use, or wrong settings
  66   the key, job or script is unknown
  69   the cluster can't be reached, or can't do it now
  73   the key exists, or a condition does not hold
  74   the bytes are damaged
  77   the token is missing, unknown, or lacks a right
  130  interrupted
"""
Commands = argparse._SubParsersAction  # its public name does not exist


class Parser(argparse.ArgumentParser):
    """A parser whose errors have no usage around them."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and end."""
        self.exit(USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")


def make() -> Parser:
    """The parser of the command line. `command` of its options is the name of the command."""
    common = _common()
    parser = Parser(
        prog="pulzar",
        description="Stores files and runs jobs on a Pulzar cluster.",
        epilog=_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for add in (_values, _listing, _sync, _jobs, _schedule, _cluster):
        add(_Adder(commands, common))
    return parser


def _common() -> argparse.ArgumentParser:
    """Options that may stand before or behind the name of a command."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--url", metavar="URL", help="the master, like http://localhost:31414 (PULZAR_URL)")
    common.add_argument("--cluster", metavar="NAME", help="a cluster of the file of clusters (PULZAR_CLUSTER)")
    common.add_argument("--config", type=Path, metavar="FILE", help="the file of clusters (~/.config/pulzar/config)")
    common.add_argument("--json", action="store_true", help="each result is a line of JSON")
    common.add_argument("--patience", type=_seconds, metavar="SECONDS", help="for a cluster that is away (30)")
    return common


class _Adder:
    """Adds commands."""

    def __init__(self, commands: Any, common: argparse.ArgumentParser) -> None:
        self._commands, self._common = commands, common

    def __call__(self, name: str, text: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = self._commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            parents=[self._common],
            allow_abbrev=False,
        )
        return parser


def _values(add: _Adder) -> None:
    put = add("put", "store files")
    put.add_argument("paths", nargs="+", metavar="FILE… KEY", help="KEY/ is a folder; FILE - is standard input")
    put.add_argument("-f", "--overwrite", action="store_true", help="replace the value of a key that exists")
    put.add_argument("--match", metavar="SHA256", help="replace only a value with this digest")
    put.add_argument("--ttl", metavar="TIME", help="lifetime: 90s, 15m, 12h, 7d")
    put.add_argument("--content-type", metavar="TYPE", help="else it is guessed from the name")
    put.add_argument("--replicas", type=_positive, metavar="N", help="on how many nodes")
    get = add("get", "write values to files; a download of 8 MiB or more that broke off is resumed")
    get.add_argument("keys", nargs="+", metavar="KEY… [PATH]", help="PATH - is standard output; without PATH: here")
    _literal(get)
    cat = add("cat", "write values to standard output")
    cat.add_argument("keys", nargs="+", metavar="KEY")
    _literal(cat)
    watch = add("watch", "print a line whenever a key gets another value")
    watch.add_argument("key", metavar="KEY")
    watch.add_argument("--every", type=_seconds, default=2.0, metavar="SECONDS", help="between two looks (2)")
    watch.add_argument("--count", type=_positive, metavar="N", help="end after so many changes")
    events = add("events", "print a line for each thing that happens")
    events.add_argument("prefix", nargs="?", default="", metavar="PREFIX", help="only keys that begin so")
    events.add_argument("--types", default="", metavar="TYPES", help="only these: key, job, node, backup, job.failed …")
    events.add_argument("--after", default="", metavar="ID", help="go on behind the event with this id")
    events.add_argument("--count", type=_positive, metavar="N", help="end after so many events")


def _listing(add: _Adder) -> None:
    ls = add("ls", "list keys and folders")
    ls.add_argument("prefixes", nargs="*", metavar="PREFIX", help="or a pattern: logs/*.txt, logs/**/2026-?.txt")
    ls.add_argument("-r", "--recursive", action="store_true", help="all keys, also in folders")
    ls.add_argument("-l", "--long", action="store_true", help="with size and time")
    _literal(ls)
    stat = add("stat", "show size, digest, nodes, times and type of keys")
    stat.add_argument("keys", nargs="+", metavar="KEY")
    _literal(stat)
    rm = add("rm", "delete keys; they can be brought back for some days")
    rm.add_argument("keys", nargs="+", metavar="KEY", help="or a pattern, or with -r a folder that ends with /")
    rm.add_argument("-r", "--recursive", action="store_true", help="all keys below a folder")
    rm.add_argument("--purge", action="store_true", help="for good: they can't be brought back")
    rm.add_argument("-n", "--dry-run", action="store_true", help="only say what would be deleted")
    _literal(rm)
    for name, text in (
        ("cp", "store a value under another key as well; a folder ends with /"),
        ("mv", "give a value another key; a folder ends with /"),
    ):
        command = add(name, text)
        command.add_argument("key", metavar="KEY")
        command.add_argument("to", metavar="TO")
        command.add_argument("-f", "--overwrite", action="store_true", help="replace the value of a key that exists")
        command.add_argument("--ttl", metavar="TIME", help="another lifetime")
        command.add_argument("--detach", action="store_true", help="do not wait for the job that does a folder")


def _sync(add: _Adder) -> None:
    sync = add("sync", "make a folder and the keys below a prefix alike")
    sync.add_argument("source", metavar="SOURCE", help="a folder, or :PREFIX")
    sync.add_argument("target", metavar="TARGET", help="the other one")
    sync.add_argument("--delete", action="store_true", help="delete what the source does not have")
    sync.add_argument("-n", "--dry-run", action="store_true", help="only say what would be done")
    sync.add_argument("-v", "--verbose", action="store_true", help="say each file")
    sync.add_argument("--include", action="append", default=[], metavar="GLOB", help="only names that fit")
    sync.add_argument("--exclude", action="append", default=[], metavar="GLOB", help="no names that fit")
    sync.add_argument("--threads", type=_positive, default=32, metavar="N", help="transfers at once (32)")


def _launching(command: argparse.ArgumentParser) -> None:
    command.add_argument("script", metavar="SCRIPT", help="folder/name")
    command.add_argument("arguments", nargs="*", metavar="NAME=VALUE", help="by declared type; NAME:=JSON; NAME=@FILE")
    command.add_argument("--data", metavar="KEY", help="pulzar_data: the key that the job works on")
    command.add_argument("--timeout", type=_seconds, metavar="SECONDS")
    command.add_argument("--attempts", type=_positive, metavar="N")
    command.add_argument("--retry-delay", type=_seconds, metavar="SECONDS")
    command.add_argument("--priority", choices=("high", "normal", "low"))
    command.add_argument("--memory-mb", type=_positive, metavar="MB")
    command.add_argument("--node", metavar="NODE")
    command.add_argument("--unique", metavar="TOKEN", help="a launch with a known token is the same job")


def _jobs(add: _Adder) -> None:
    run = add("run", "run a job: its log goes to standard error, its output to standard output")
    _launching(run)
    run.add_argument("--detach", action="store_true", help="print the number of the job, do not wait")
    logs = add("logs", "show the log of a job")
    logs.add_argument("job_id", type=_positive, metavar="ID")
    logs.add_argument("-f", "--follow", action="store_true", help="until it has ended; exit status 1 when it failed")
    jobs = add("jobs", "list jobs, the newest first, or show one")
    jobs.add_argument("job_id", type=_positive, nargs="?", metavar="ID")
    jobs.add_argument("--scripts", action="store_true", help="list the scripts that may be launched")
    jobs.add_argument("--state", choices=_STATES)
    jobs.add_argument("--script", metavar="SCRIPT")
    jobs.add_argument("--node", metavar="NODE")
    jobs.add_argument("--text", metavar="TEXT", help="in script, arguments or reason")
    jobs.add_argument("--limit", type=_positive, default=20, metavar="N", help="at most so many (20)")
    cancel = add("cancel", "cancel jobs and schedules")
    cancel.add_argument("job_ids", type=_positive, nargs="+", metavar="ID")


def _schedule(add: _Adder) -> None:
    schedule = add("schedule", "launch a script on a schedule; list, pause, resume and run schedules")
    actions = schedule.add_subparsers(dest="action", metavar="ACTION", required=True)
    inner = _Adder(actions, _common())
    one = inner("add", "launch a script on a schedule")
    _launching(one)
    timing = one.add_mutually_exclusive_group(required=True)
    timing.add_argument("--every", metavar="TIME", help="5m, 2h, 1d, 1w")
    timing.add_argument("--cron", metavar="FIELDS", help="'0 9 * * 1': minute, hour, day, month, day of the week")
    one.add_argument("--zone", metavar="ZONE", help="time zone of --cron: Europe/Vienna; else UTC")
    one.add_argument("--once", action="store_true", help="only at the first of these times")
    listed = inner("list", "list schedules")
    listed.add_argument("--limit", type=_positive, default=100, metavar="N")
    for name in ("pause", "resume", "run"):
        inner(name, f"{name} a schedule").add_argument("schedule_id", type=_positive, metavar="ID")


def _cluster(add: _Adder) -> None:
    add("status", "show statistics of master and index")
    add("nodes", "list the nodes")
    add("health", "say whether a value would be stored now")
    completion = add("completion", "print the completion for a shell")
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))


def _literal(command: argparse.ArgumentParser) -> None:
    command.add_argument("-L", "--literal", action="store_true", help="take * ? [ in keys as they are")


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text[:19]) > 0 or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number from 1 on")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 1e9:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number of seconds")
    return int(seconds) if seconds.is_integer() else seconds
