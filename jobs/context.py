"""What a script can ask about its run, and tell the node."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from jobs import channel
from jobs.errors import NoSecret

if TYPE_CHECKING:
    from jobs.client import Client

T = TypeVar("T")


class _Told(Generic[T]):
    """A property that a job's class may replace by an attribute of the same name."""

    def __init__(self, function: Callable[[Any], T]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> _Told[T]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: object, owner: type) -> T | _Told[T]:
        return self if instance is None else self._function(instance)


class Run:
    """The run that this process belongs to. All objects of this class, `Job` included, are about that one run.

    Environment variables (`PULZAR_…`, see docs/jobs.md) hold it. Processes that a run starts inherit them.
    """

    @_Told
    def arguments(self) -> dict[str, Any]:
        """The arguments of the job."""
        if _this.arguments is None:
            file = os.environ.get("PULZAR_ARGUMENTS_FILE")
            text = Path(file).read_text(encoding="utf-8") if file else os.environ.get("PULZAR_ARGUMENTS") or "{}"
            _this.arguments = json.loads(text)
        return _this.arguments

    @_Told
    def job_id(self) -> int:
        """The job's number, 0 when it has none."""
        return int(os.environ.get("PULZAR_JOB_ID") or 0)

    @_Told
    def attempt(self) -> int:
        """1 for the first attempt at the job."""
        return int(os.environ.get("PULZAR_ATTEMPT") or 1)

    @_Told
    def scratch(self) -> Path:
        """A directory for this run alone. It is the current directory at the start, and is removed at the end."""
        directory = os.environ.get("PULZAR_SCRATCH")
        if not directory:
            import tempfile

            directory = os.environ["PULZAR_SCRATCH"] = tempfile.mkdtemp(prefix="pulzar-job-")
        return Path(directory)

    @_Told
    def data_path(self) -> Path | None:
        """The file with the value of `pulzar_data`, None without one. Scripts may read it, not change it."""
        path = os.environ.get("PULZAR_DATA")
        return Path(path) if path else None

    @_Told
    def data_key(self) -> str:
        """The key of that value, "" for none."""
        return os.environ.get("PULZAR_DATA_KEY", "")

    @_Told
    def client(self) -> Client:
        """A client of the cluster: its keys, and `launch` for other jobs."""
        return _client()

    def log(self, *values: object) -> None:
        """Write a line to the log, in the form of `print`. What a script prints goes to the log too."""
        _channel().line(" ".join(map(str, values)))

    def output(self, value: Any) -> None:
        """Set the output, up to 1 MiB of JSON (see `jobs/plain.py`). The last one counts. Raises `BadOutput`."""
        to = _channel()
        to.output(channel.encode_output(value, _this.limit, to.line))
        _this.has_output = True

    def progress(self, done: float, total: float | None = None, text: str = "") -> None:
        """Report progress. Calls are cheap: at most 20 a second are sent."""
        numbers = (float(done), float(total or 0))
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"a progress of {done} of {total} is none")
        _channel().progress(numbers[0], None if total is None else numbers[1], str(text))

    def secret(self, name: str) -> str:
        """A secret of the node for scripts of this folder. Log and output mask it. Raises `NoSecret`.

        By hand, and in programs that a run starts, the environment variable of this name is used.
        """
        value = os.environ.get(name) if _this.secrets is None else _this.secrets.get(name)
        if value is None:
            raise NoSecret(_no_secret(name))
        return value

    def store(
        self, value: bytes | str | os.PathLike[str], key: str, ttl: str | None = None, overwrite: bool = False
    ) -> str:
        """Store bytes, or the file of a path, under a key; its URL.

        `ttl` is a lifetime: "90s", "15m", "12h", "7d". Raises `KeyExists` when the key is taken and may not be
        overwritten, `StoreError` for the rest.
        """
        return _client().store(value, key, ttl, overwrite)

    def fetch(self, key: str) -> bytes:
        """The value of a key; raises `KeyMissing` or `StoreError`."""
        return _client().fetch(key)

    def fetch_to(self, key: str, path: str | os.PathLike[str]) -> None:
        """Write the value of a key, however large, to a file; raises `KeyMissing` or `StoreError`."""
        _client().fetch_to(key, path)

    def keys(self, prefix: str = "") -> Iterator[dict[str, Any]]:
        """The keys that begin with the prefix, in order, with `size`, `created` and more; raises `StoreError`."""
        return _client().keys(prefix)

    def delete(self, key: str) -> None:
        """Delete a key; raises `KeyMissing` or `StoreError`."""
        _client().delete(key)

    def launch(
        self, script: str, arguments: Mapping[str, Any] | None = None, options: Mapping[str, Any] | None = None
    ) -> int:
        """Launch another job, `folder/name`; its id. `options` are those of `pulzar_options`; raises `StoreError`.

        It is not waited for. Arguments are written as an output is. What is odd about them goes to the log.
        """
        number, warnings = _client().launch_told(script, arguments, options)
        for text in warnings:
            self.log(f"launched {script}: {text}")
        return number


class _This:
    """What this process knows of its run."""

    def __init__(self) -> None:
        self.arguments: dict[str, Any] | None = None
        self.channel: channel.Channel | None = None
        self.client: Client | None = None
        self.has_output = False
        self.limit = channel.OUTPUT_BYTES
        self.job_made = False
        self.secrets: Mapping[str, str] | None = None  # None: not the process that has them


_this = _This()


def _client() -> Client:
    if _this.client is None:
        from jobs.client import Client  # takes its time, and most jobs need none

        _this.client = Client(os.environ.get("PULZAR_MASTER") or "localhost:31414")
    return _this.client


def _channel() -> channel.Channel:
    if _this.channel is None:
        _this.channel = channel.of_environment()
    return _this.channel


def _no_secret(name: str) -> str:
    if _this.secrets is None:
        return f"there is no environment variable {name}, which stands for the secret here"
    there = f"there are {', '.join(sorted(_this.secrets))}" if _this.secrets else "there are none"
    return (
        f"there is no secret {name} for scripts of this folder, {there};"
        " they stand in the file [jobs] secrets of the node"
    )


def begin(
    to: channel.Channel,
    arguments: dict[str, Any] | None = None,
    limit: int = channel.OUTPUT_BYTES,
    secrets: Mapping[str, str] | None = None,
) -> None:
    """Make this process speak of a run that begins now."""
    _this.arguments, _this.channel, _this.client = arguments, to, None
    _this.has_output, _this.limit, _this.job_made, _this.secrets = False, limit, False, secrets


def note_job() -> None:
    """An object of a job's class is made."""
    _this.job_made = True


def job_made() -> bool:
    """Whether one was made since the run began."""
    return _this.job_made


def returned(value: Any) -> None:
    """Take what `execute` returned for the output, unless there was one."""
    if value is not None and not _this.has_output:
        run.output(value)


run = Run()
