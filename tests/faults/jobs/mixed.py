"""Scripts of many kinds, and how their runs end: what `test_mixed.py` launches by the thousand."""

from __future__ import annotations

from typing import NamedTuple

from tests.faults.jobs_tools import in_mode

# Each names what it makes outside its scratch directory with the text that it is given, so that it can be found.
_HEAD = """
import multiprocessing, os, subprocess, sys, tempfile, time
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from jobs import run

tag = run.arguments["tag"]
"""

_POOL = """
def square(number):
    return number * number

if __name__ == "__main__":
    with multiprocessing.get_context("{how}").Pool(2) as pool:
        run.output(pool.map(square, range(50))[-1])
"""

_SHARED = """
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    kept = [SharedMemory(f"{tag}-{number}", create=True, size=1 << 16) for number in range(3)]
    locks = [context.Lock(), context.Semaphore(3), context.Queue()]
    print("made", flush=True)
    """

_DAEMON = """
subprocess.Popen(["sleep", "600"], start_new_session=True, cwd="/", stdout=subprocess.DEVNULL)
if not os.fork():
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    os.closerange(0, 256)
    time.sleep(600)
    os._exit(0)
os.wait()
print("left")
"""

_FILES = """
folder = Path(tempfile.mkdtemp(prefix=tag))
for number in range(40):
    (folder / f"{number}.txt").write_text("line\\n" * 500)
kept = tempfile.NamedTemporaryFile(prefix=tag, delete=False)
kept.write(bytes(2_000_000))
os.mkfifo(run.scratch / "fifo")
os.chmod(folder, 0o500)
run.output({"files": len(list(folder.iterdir()))})
"""

_COMPLETED = ("completed", "")


class Kind(NamedTuple):
    """A script, and the state and the reason (a pattern) that a run of it ends with when it is left alone."""

    script: str
    state: str
    reason: str
    weight: int = 2  # how often it is taken
    timeout: float = 0.0  # seconds, for those that never end
    held: bool = False  # it says that it runs, goes on for ever, and is cancelled


KINDS: dict[str, Kind] = {
    "noop": Kind("", *_COMPLETED, weight=4),
    "prints": Kind("for number in range(20_000): print(tag, number)", *_COMPLETED),
    "files": Kind(_FILES, *_COMPLETED),
    "programs": Kind("for _ in range(3): subprocess.run(['sh', '-c', 'echo $PPID; true'], check=True)", *_COMPLETED),
    "fork_pool": Kind(_POOL.replace("{how}", "fork"), *_COMPLETED),
    "spawn_pool": Kind(_POOL.replace("{how}", "spawn"), *_COMPLETED, weight=1),
    "shared": Kind(_SHARED, *_COMPLETED, weight=1),
    "shared_raises": Kind(_SHARED + "raise OSError(tag)", "failed", "OSError: ", weight=1),
    "shared_exits": Kind(_SHARED + "os._exit(7)", "failed", "exit status 7", weight=1),
    "shared_killed": Kind(_SHARED + "os.kill(os.getpid(), 9)", "failed", "signal 9", weight=1),
    "left": Kind(_DAEMON, *_COMPLETED),
    "raises": Kind("raise ValueError(tag)", "failed", "ValueError: "),
    "exits": Kind("os._exit(3)", "failed", "exit status 3"),
    "spins": Kind("while True: pass", "failed", "ran longer than ", weight=1, timeout=0.5),
    "deaf": Kind(
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + _DAEMON + "time.sleep(600)",
        "failed", "ran longer than ", weight=1, timeout=0.5,
    ),
    "held": Kind(
        "(Path(run.arguments['field']) / f'{tag}.runs').touch()\n" + _DAEMON + "time.sleep(600)",
        "cancelled", "", held=True,
    ),
    "held_pool": Kind(
        _POOL.replace("{how}", "fork").replace(
            "run.output", "(Path(run.arguments['field']) / f'{tag}.runs').touch()\n        pool.map(time.sleep, [600])\n        run.output"
        ),
        "cancelled", "", weight=1, held=True,
    ),
}  # fmt: skip


def scripts(mode: str) -> dict[str, str]:
    """The text of each script, by its kind, for runs in a mode of `jobs_tools.MODES`."""
    return {name: in_mode(_HEAD + kind.script + "\n", mode) for name, kind in KINDS.items()}
