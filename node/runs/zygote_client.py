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
from pathlib import Path

from broker import logs
from jobs import surroundings
from node.runs import processes, scratch
from node.runs.framing import Frames, Message
from node.runs.model import RunLimits
from node.runs.protocol import ZygoteOptions

log = logs.get(__name__)

_ROOT = Path(__file__).parents[2]
_GONE_SECS = 15.0  # for it to kill all runs and to end
_NOT_PASSED_ON = ("PYTHONUNBUFFERED", "PYTHONINSPECT")  # lines are a good size to write, and at its end a run ends
# What runs get to see of the agent's environment: there are credentials in the rest.
_PASSED_ON = re.compile(r"PATH|LANG|LC_[A-Z]+|TZ|VIRTUAL_ENV|LD_LIBRARY_PATH|PYTHON[A-Z]+|PULZAR_MASTER")


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
    ) -> None:
        """Start a zygote; raises `OSError`. For `environment` and `passed` see `Runner`."""
        ours, theirs = socket.socketpair()
        options = ZygoteOptions(
            socket=theirs.fileno(),
            node=marks.node,
            directory=str(directory),
            scripts=str(scripts),
            spares=limits.spares,
            processes=limits.processes,
            output=limits.output,
            cache=str(directory / scratch.CACHE) if limits.cache else "",
        )
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "node.runs.zygote", json.dumps(options)],
                stdin=subprocess.DEVNULL,
                pass_fds=(options.socket,),
                cwd=directory,
                env=_user_and_caches(options.cache)
                | {name: environment[name] for name in passed if name in environment}
                | _environment(environment, directory, scripts)
                | {processes.NODE_VARIABLE: marks.node},
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        self._frames = Frames(ours)
        self.descriptor = ours.fileno()
        self.pid = self._process.pid
        log.info("zygote started", pid=self.pid)

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
        return self._frames.receive()

    def close(self) -> str:
        """End it, which ends everything; how it ended, in words."""
        self._frames.close()
        try:
            status = self._process.wait(_GONE_SECS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        return processes.describe_status(-status if status < 0 else status << 8) or "exit status 0"


def _user_and_caches(cache: str) -> dict[str, str]:
    """The variables that name the node's user, and the directories of libraries' caches."""
    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a number without a name, as in some containers
        name = str(os.geteuid())
    places = {"XDG_CACHE_HOME": f"{cache}/xdg", "NUMBA_CACHE_DIR": f"{cache}/numba"} if cache else {}
    return {"USER": name, "LOGNAME": name} | places


def _environment(given: Mapping[str, str], directory: Path, scripts: Path) -> dict[str, str]:
    """The environment of all runs, and the path of our packages, which only the zygote sees."""
    passed = {name: value for name, value in given.items() if _PASSED_ON.fullmatch(name) and name not in _NOT_PASSED_ON}
    around = surroundings.environment(passed, directory / scratch.PATH, scripts)
    return (
        passed | around | {"PYTHONPATH": f"{_ROOT}{os.pathsep}{around['PYTHONPATH']}", "PYTHONDONTWRITEBYTECODE": "1"}
    )
