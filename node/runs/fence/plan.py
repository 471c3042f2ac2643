"""The fence that the settings ask for."""

from __future__ import annotations

import grp
import os
import pwd
import sys
from collections.abc import Mapping
from pathlib import Path

from broker.errors import SettingsError
from broker.settings import CONFIG_VARIABLE, Settings
from node.runs.fence import groups
from node.runs.fence.options import OFF, FenceOptions

_ROOT = Path(__file__).parents[3]
_FILE = "file:"
_CAP_SETGID, _CAP_SETUID = 6, 7


def of(config: Settings, environment: Mapping[str, str] = os.environ) -> FenceOptions:
    """The fence of this node's runs; raises `SettingsError`."""
    jobs = config.jobs
    if jobs.fence == OFF:
        if not jobs.network or jobs.user:
            raise SettingsError("[jobs] network = off and [jobs] user need a fence: set [jobs] fence = auto")
        return FenceOptions()
    user, group = _user(jobs.user) if jobs.user else (-1, -1)
    return FenceOptions(
        mode=jobs.fence,
        hidden=_hidden(config, environment),
        shown=[str(path) for path in (Path(jobs.dir).absolute(), _ROOT, Path(sys.prefix), Path(sys.base_prefix))],
        user=user,
        group=group,
        network=jobs.network,
        tmp=jobs.tmp,
        cgroup=groups.prepare(group) if jobs.cgroups != OFF else "",
        pids=jobs.pids,
        scratch=jobs.scratch,
    )


def _hidden(config: Settings, environment: Mapping[str, str]) -> list[str]:
    """The node's directory and what has credentials; the master's, too, when it is on this machine."""
    general = config.general.secret
    places = [
        config.volume.dir,
        config.server.dir,
        environment.get(CONFIG_VARIABLE, ""),
        config.jobs.secrets,
        config.security.tokens,
        config.server.key,
        config.volume.key,
        general.removeprefix(_FILE) if general.startswith(_FILE) else "",
    ]
    return [str(Path(place).absolute()) for place in places if place]


def _user(name: str) -> tuple[int, int]:
    """The numbers of a user and his group; raises `SettingsError` when the node can't be him."""
    try:
        found = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except KeyError:
        raise SettingsError(f"[jobs] user = {name!r}: there is no such user; useradd --system {name}") from None
    if found.pw_uid == 0:
        raise SettingsError(f"[jobs] user = {name!r} is root, whom nothing is kept from; name another user")
    rights = _capabilities()
    if found.pw_uid != os.geteuid() and not (rights >> _CAP_SETUID & 1 and rights >> _CAP_SETGID & 1):
        raise SettingsError(
            f"[jobs] user = {name!r}: this node, user {os.geteuid()}, may not start processes of another user. Start "
            "it as root or by ops/systemd/pulzar-node.service, or leave [jobs] user empty"
        )
    if os.geteuid() and found.pw_uid != os.geteuid() and found.pw_gid not in os.getgroups():
        group = grp.getgrgid(found.pw_gid).gr_name
        raise SettingsError(f"[jobs] user = {name!r}: the node's user must be in its group, {group}")
    return found.pw_uid, found.pw_gid


def _capabilities() -> int:
    """Those in force, as a set of bits."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def open_way(directory: Path, group: int) -> None:
    """Let another user reach the runner's directory below the node's, and nothing else in there. Raises `OSError`."""
    if group < 0:
        return
    for folder in (directory, directory / "runs"):
        folder.mkdir(parents=True, exist_ok=True)
        for entry in folder.iterdir():
            if entry.name not in ("runs", "work") and not entry.is_symlink():
                entry.chmod(entry.stat().st_mode & 0o7700)
        folder.chmod((folder.stat().st_mode & 0o7770) | 0o011)
    os.umask(0o077)
