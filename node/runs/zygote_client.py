"""The zygote as the runner sees it: a process that is started, talked to and ended."""

from __future__ import annotations

import json
import os
import pwd
import re
import socket
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

from broker import logs
from jobs import surroundings
from node.runs import processes, scratch
from node.runs.fence.options import Fenced, FenceOptions
from node.runs.framing import Frames, Message
from node.runs.model import RunLimits
from node.runs.protocol import ZygoteOptions

log = logs.get(__name__)

_ROOT = Path(__file__).parents[2]
_GONE_SECS = 15.0  # for it to kill all runs and to end
_MOST_SPARES = 2  # of a zygote that has loaded modules, since each of its processes takes more memory
_NOT_PASSED_ON = ("PYTHONUNBUFFERED", "PYTHONINSPECT")  # lines are a good size to write, and at its end a run ends
# What runs get to see of the agent's environment: there are credentials in the rest.
_PASSED_ON = re.compile(
    r"PATH|LANG|LC_[A-Z]+|TZ|VIRTUAL_ENV|LD_LIBRARY_PATH|PYTHON[A-Z]+|PULZAR_MASTER|PULZAR_SECURITY_CA"
)


class ZygoteClient:
    """A running zygote, and the socket to it, which does not block."""

    def __init__(
        self,
        directory: Path,
        scripts: Path,
        limits: RunLimits,
        marks: processes.Marks,
        *,
        environment: Mapping[str, str],
        passed: Collection[str] = (),
        number: int = 0,
        modules: Sequence[str] = (),
    ) -> None:
        """Start a zygote; raises `OSError`. For `environment` and `passed` see `Runner`.

        `number`, `modules`: of one that loads modules ahead; see `zygotes/fleet.py`.
        """
        ours, theirs = socket.socketpair()
        options = ZygoteOptions(
            socket=theirs.fileno(),
            node=marks.node,
            directory=str(directory),
            scripts=str(scripts),
            spares=min(limits.spares, _MOST_SPARES) if modules else limits.spares,
            processes=limits.processes,
            output=limits.output,
            cache=str(directory / scratch.CACHE) if limits.cache else "",
            cache_bytes=limits.cache,
            fence=limits.fence,
            workers=limits.workers,
            number=number,
            modules=modules,
        )
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "node.runs.zygote", json.dumps(options)],
                stdin=subprocess.DEVNULL,
                pass_fds=(options.socket,),
                cwd=directory,
                env=_user_and_caches(options.cache, limits.fence.user)
                | {name: environment[name] for name in passed if name in environment}
                | _environment(environment, directory, scripts)
                | {processes.NODE_VARIABLE: marks.node},
                start_new_session=True,
                **(_identity(limits.fence) if os.geteuid() else {}),  # root's zygote drops its rights itself
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        self._frames = Frames(ours)
        self.fenced: Fenced | None = None  # until it has told
        self.descriptor = ours.fileno()
        self.pid = self._process.pid
        self.number = number
        log.info("zygote started", pid=self.pid, modules=" ".join(modules) or "none")

    def send(self, message: Sequence[object], descriptors: tuple[int, ...] = ()) -> bool:
        """Send a message and close the descriptors that go with it; False: the rest waits for `flush`."""
        try:
            return self._frames.send(message, descriptors)
        except OSError as error:  # reading from it fails too, and then a new zygote is started
            log.debug("message to the zygote not sent", reason=error)
            return True

    def flush(self) -> bool:
        """Send what waits; whether that was all. Raises `OSError`."""
        return self._frames.flush()

    def receive(self) -> list[Message]:
        """Its messages; raises `EOFError` or `OSError` when it is gone."""
        messages = []
        for message in self._frames.receive():
            if self.fenced or isinstance(message[0], int):
                messages.append(message)
            else:
                self.fenced = Fenced(*message)
        return messages

    def leave(self) -> None:
        """Let it end, which ends everything of it."""
        self._frames.close()

    def gone(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """End it at once."""
        with suppress(PermissionError):  # another user's, which ends when nobody listens to it
            self._process.kill()

    def close(self) -> str:
        """End it, which ends everything of it; how it ended, in words."""
        self.leave()
        try:
            status = self._process.wait(_GONE_SECS)
        except subprocess.TimeoutExpired:
            self.kill()  # of another user's, the sweep that follows is done as that user
            status = self._process.wait()
        return processes.describe_status(-status if status < 0 else status << 8) or "exit status 0"


class _Identity(TypedDict, total=False):
    user: int
    group: int
    extra_groups: Sequence[int]


def _identity(fence: FenceOptions) -> _Identity:
    """The user of a process of runs, when it is not the node's."""
    if fence.user in (-1, os.geteuid()):
        return {}
    return {"user": fence.user, "group": fence.group, "extra_groups": []}


def sweep_as(fence: FenceOptions, node: str, seconds: float, number: int = -1) -> int:
    """`processes.sweep` for a node whose runs have another user; how many processes are left."""
    command = [sys.executable, "-P", "-m", "node.runs.processes", node, str(seconds), str(number)]
    try:
        done = subprocess.run(
            command, cwd=_ROOT, env={"PYTHONPATH": str(_ROOT)}, timeout=2 * seconds, check=False, **_identity(fence)
        )
    except (OSError, subprocess.SubprocessError) as error:
        log.error("what is left of runs can't be looked for", reason=error)
        return 0
    return done.returncode


def _user_and_caches(cache: str, user: int) -> dict[str, str]:
    """The variables that name the user of runs, and the directories of libraries' caches."""
    number = user if user >= 0 else os.geteuid()
    try:
        name = pwd.getpwuid(number).pw_name
    except KeyError:  # a number without a name, as in some containers
        name = str(number)
    places = {"XDG_CACHE_HOME": f"{cache}/xdg", "NUMBA_CACHE_DIR": f"{cache}/numba"} if cache else {}
    return {"USER": name, "LOGNAME": name} | places


def _environment(given: Mapping[str, str], directory: Path, scripts: Path) -> dict[str, str]:
    """The environment of all runs, and the path of our packages, which only the zygote sees."""
    passed = {name: value for name, value in given.items() if _PASSED_ON.fullmatch(name) and name not in _NOT_PASSED_ON}
    around = surroundings.environment(passed, directory / scratch.PATH, scripts)
    return (
        passed | around | {"PYTHONPATH": f"{_ROOT}{os.pathsep}{around['PYTHONPATH']}", "PYTHONDONTWRITEBYTECODE": "1"}
    )
