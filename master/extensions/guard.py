"""`python -m master.extensions.guard SOCKET`: a process for extensions, and the guard that ends it.

The guard only waits: for the process to end, or for the web worker to close its end of the socket. The worker closes
it when the time is over; the kernel does when the worker is killed. Then the guard kills the process and all that came
from it, also what changed its process group or session: orphans become children of the guard.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import NoReturn

from broker import process
from master.extensions.children import children

_SIGNALLED = 128  # plus the number of the signal is the exit status, as in a shell
_NICE = 10  # the routes of the keys come first


def main() -> int:
    """Returns the exit status of the process, 0 when it was ended from outside."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    process.adopt_orphans()
    guard = os.getpid()
    pid = os.fork()
    if not pid:
        _be_process(sock, guard)
    with suppress(OSError):  # the process did it already, or is gone
        os.setpgid(pid, pid)
    poll = select.poll()
    poll.register(sock, 0)  # reports in any case that the other end is closed
    poll.register(os.pidfd_open(pid), select.POLLIN)
    while not (events := poll.poll()):
        continue
    ended = any(descriptor != sock.fileno() for descriptor, _ in events)
    status = _end(pid)
    return status if ended else 0


def _be_process(sock: socket.socket, guard: int) -> NoReturn:
    status = 1
    try:
        os.setpgid(0, 0)
        process.die_with_parent()
        # What `nohup` has the master ignore is not ignored by programs that extensions start.
        for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if os.getppid() == guard:
            os.nice(_NICE)
            from master.extensions.request_runner import RequestRunner  # not in the guard, which stays small

            RequestRunner(sock).run()
            status = 0
    except BaseException:  # noqa: BLE001 - nothing may go on into the guard, whose copy this process is
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _end(pid: int) -> int:
    """Kill the process and all that came from it. Returns its exit status."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    result = 0
    while True:
        # Children of a killed process become children of this one, so this ends with the last of all.
        for child in children(os.getpid()):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        try:
            ended, status = os.waitpid(-1, 0)
        except ChildProcessError:
            return result
        if ended == pid:
            result = _SIGNALLED + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


if __name__ == "__main__":
    sys.exit(main())
