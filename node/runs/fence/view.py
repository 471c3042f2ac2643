"""What a run can see and reach: the zygote makes most of it once, each run the rest.

The zygote gets a mount namespace where the node's files are covered. A run gets a copy of that, where the scratch
directories of others are covered, too. Whoever has no right to do that gets a user namespace first.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from node.runs.fence import groups, kernel
from node.runs.fence.options import OFF, PRIVATE, REQUIRED, Fenced, FenceOptions

_COVER = kernel.NO_SUID | kernel.NO_DEVICES
TEMPORARY = "/tmp"


class View:
    """The fence of a zygote and of the runs that are forked from it."""

    def __init__(self, options: FenceOptions, directory: str) -> None:
        """`directory` is that of the runner; see `scratch.py`."""
        self._options = options
        self._directory = directory
        self._scratch = f"{directory}/scratch"
        self._parts: list[str] = []
        self._missing: list[str] = []
        self._has_files = False
        self._has_signals = False
        self._is_root = False  # runs are root, and keep what root may do
        self.private_tmp = False

    def close(self) -> Fenced:
        """Fence this process, which must be the zygote; what is in force then. Raises `OSError`."""
        options = self._options
        wanted = options.mode != OFF
        privileged = wanted and self._unshare()
        if privileged:
            self._arrange()
        self._is_root = options.user < 0 and os.geteuid() == 0
        if privileged and not self._is_root:
            kernel.forbid_capabilities()
        if options.user >= 0:
            if options.user != os.geteuid():
                kernel.become(options.user, options.group)
            self._parts.insert(0, "user")
        if not self._is_root:
            kernel.keep_capabilities(1 << kernel.CAP_SYS_ADMIN if self._has_files else 0)
        if wanted and not privileged and self._unshare_as_user():
            self._arrange()
            kernel.forbid_capabilities()
            kernel.keep_capabilities(1 << kernel.CAP_SYS_ADMIN if self._has_files else 0)
        if options.cgroup:
            if problem := groups.objection(Path(options.cgroup)):
                self._missing.append(f"cgroup: {problem}")
            else:
                self._parts.append("cgroup")
        if wanted:
            self._keep_signals_in()
            kernel.hide_process()
        return Fenced(self._parts, "; ".join(self._missing), self._is_refused())

    def _is_refused(self) -> bool:
        options = self._options
        lacks_files = options.mode == REQUIRED and not self._has_files
        return lacks_files or (not options.network and "network" not in self._parts)

    @property
    def _flags(self) -> int:
        return kernel.NEWNS | (0 if self._options.network else kernel.NEWNET)

    def _unshare(self) -> bool:
        try:
            kernel.unshare(self._flags)
        except OSError:  # it has no right to; perhaps in a user namespace
            return False
        return True

    def _unshare_as_user(self) -> bool:
        try:
            # A process that changed its user owns none of its files in /proc until this is set again.
            kernel.hide_process(False)
            kernel.become_alone_in_user_namespace(self._flags)
        except OSError as error:
            self._missing.append(f"files: no namespaces for this user ({error.strerror})")
            return False
        return True

    def _arrange(self) -> None:
        """Cover what is hidden, in new namespaces."""
        options = self._options
        try:
            if not options.network:
                kernel.loopback_up()
                self._parts.append("network")
            kernel.mount("none", "/", "", kernel.RECURSIVE | kernel.SLAVE)
            cover(options.hidden, [*options.shown, self._directory])
            os.chdir(self._directory)
        except OSError as error:
            self._missing.append(f"files: {error.strerror or error}")
            return
        self._has_files = True
        self._parts.append("files")
        if options.tmp == PRIVATE:
            self.private_tmp = True
            self._parts.append("tmp")

    def _keep_signals_in(self) -> None:
        if kernel.can_scope_signals() and (self._has_files or kernel.cannot_gain_privileges()):
            self._has_signals = True
            self._parts.append("signals")
        else:
            self._missing.append("signals: Linux 6.12 with Landlock is needed")

    # In the process of a run.

    def prepare(self) -> None:
        """Do what can be done before it is known which run this process is."""
        if self._has_files:
            kernel.unshare(kernel.NEWNS)

    def enter(self, scratch: str, lent: str) -> None:
        """Show this run its own directories alone, and give up what is needed for that. Raises `OSError`.

        `lent` is the directory with the name of its value, "" for none.
        """
        if self._has_files:
            places = [place for place in (scratch, lent) if place]
            if self.private_tmp:
                temporary = f"{scratch}.tmp"
                os.mkdir(temporary, 0o700)
                cover([TEMPORARY], [*self._options.shown, self._directory], temporary)
            cover([self._scratch, os.path.dirname(self._options.cgroup) or self._scratch], places)
        if self._has_signals:
            kernel.scope_signals()
        if self._has_files and not self._is_root:
            kernel.keep_capabilities()
        if self._options.mode != OFF or self._options.user >= 0:
            kernel.hide_process(False)  # from the zygote, which looks at its memory


def _bind(source: str, target: str) -> None:
    kernel.mount(source, target, "", kernel.BIND | kernel.RECURSIVE)


def cover(hidden: Iterable[str], shown: Sequence[str], source: str = "") -> None:
    """Cover folders and files with `source` or nothing, but for what is shown inside them. Raises `OSError`.

    What is not there is not covered. A folder that is both stays as it is.
    """
    opened: dict[str, int] = {}
    try:
        for path in {os.path.realpath(path) for path in shown}:
            with suppress(FileNotFoundError, PermissionError):  # for this user there is no way there
                opened[path] = os.open(path, os.O_PATH | os.O_CLOEXEC)
        for path in sorted({os.path.realpath(path) for path in hidden}, key=len):  # the outer ones first
            if path in opened or not os.path.exists(path):
                continue
            if not os.path.isdir(path):
                _bind(os.devnull, path)
                continue
            inside = sorted(place for place in opened if place.startswith(f"{path}/"))
            if source:
                _bind(source, path)
            else:
                kernel.mount("none", path, "tmpfs", _COVER, "size=256k,mode=755")
            for place in inside:
                if not os.path.exists(place):
                    _make_place(place, opened[place])
                _bind(f"/proc/self/fd/{opened[place]}", place)
            if not source:
                kernel.mount("none", path, "", _COVER | kernel.REMOUNT | kernel.BIND | kernel.READ_ONLY)
    finally:
        for descriptor in opened.values():
            os.close(descriptor)


def _make_place(path: str, like: int) -> None:
    """Make something to mount on, a folder or a file."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.isdir(f"/proc/self/fd/{like}"):
        os.mkdir(path)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
