"""Becomes a command that does not outlive the process that started it.

    python child.py PARENT SIGNAL COMMAND [ARGUMENT …]

On Linux the kernel sends SIGNAL to the command when PARENT is gone, be it by kill -9. PARENT is the id of the process
that started this one. It is a program of its own, since Popen's preexec_fn may deadlock in a process with threads.
Started as a file, with -I and -S, it costs about 10 ms.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from broker.process import die_with_parent


def main() -> None:
    """Arrange for the signal, then turn into the command."""
    parent, signal_number, *command = sys.argv[1:]
    die_with_parent(int(signal_number))
    # The parent may have died before the kernel was told what to do then.
    if os.getppid() != int(parent):
        sys.exit(f"process {parent} is gone; {command[0]} is not started")
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]} can't be started: {error}")


if __name__ == "__main__":
    main()
