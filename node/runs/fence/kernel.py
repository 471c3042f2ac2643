"""What the kernel does for a fence, as functions that raise `OSError`: namespaces, mounts, capabilities, Landlock."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct

NEWNS, NEWUSER, NEWNET = 0x00020000, 0x10000000, 0x40000000
READ_ONLY, NO_SUID, NO_DEVICES, REMOUNT, BIND, RECURSIVE, SLAVE = 1, 2, 4, 32, 4096, 16384, 1 << 19
CAP_SYS_ADMIN = 21

_PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_CAPBSET_DROP, _PR_CAP_AMBIENT = 4, 8, 24, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_PR_GET_NO_NEW_PRIVS = 39
_CAPABILITIES_VERSION = 0x20080522
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446  # the same on all architectures
_LANDLOCK_VERSION = 1
_SIGNALS_SINCE = 6  # version of Landlock that can keep signals in
_SCOPE_SIGNAL = 1 << 1
_GET_FLAGS, _SET_FLAGS, _IFF_UP = 0x8913, 0x8914, 1  # of a network interface

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def unshare(flags: int) -> None:
    """Give this process namespaces of its own; it must have one thread."""
    _check(_libc.unshare(flags))


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Mount something."""
    _check(
        _libc.mount(source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), data.encode() or None)
    )


def become_alone_in_user_namespace(flags: int) -> None:
    """Be in a new user namespace, and others of `flags`, with all capabilities there and the same user and group."""
    user, group = os.geteuid(), os.getegid()
    unshare(NEWUSER | flags)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def hide_process(hidden: bool = True) -> None:
    """Make environment, memory and descriptors of this process unreadable for others of its user, or readable again."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0 if hidden else 1, 0, 0, 0))


def become(user: int, group: int) -> None:
    """Be this user for good, without the groups of before; capabilities stay permitted."""
    _check(_libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0))
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)


def forbid_capabilities() -> None:
    """Let no program that this process or a fork of it starts have any capability."""
    _check(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    for number in range(64):
        if _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) < 0:  # the first that this kernel does not know
            break


_HEADER = struct.pack("Ii", _CAPABILITIES_VERSION, 0)


def keep_capabilities(kept: int = 0) -> None:
    """Keep these capabilities alone, as a set of bits."""
    low, high = kept & 0xFFFFFFFF, kept >> 32
    _check(_libc.capset(_HEADER, struct.pack("6I", low, low, 0, high, high, 0)))


def cannot_gain_privileges() -> bool:
    """Whether no program gives this process more rights than it has."""
    return bool(_libc.prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1)


def can_scope_signals() -> bool:
    """Whether `scope_signals` works here."""
    version: int = _libc.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_VERSION)
    return version >= _SIGNALS_SINCE


def scope_signals() -> None:
    """Let this process and what it starts signal and trace each other alone."""
    attributes = struct.pack("3Q", 0, 0, _SCOPE_SIGNAL)
    rules = _check(_libc.syscall(_LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0))
    try:
        _check(_libc.syscall(_LANDLOCK_RESTRICT_SELF, rules, 0))
    finally:
        os.close(rules)


def loopback_up() -> None:
    """Switch on the loopback interface of a new network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        name = b"lo".ljust(16, b"\0")
        answer = fcntl.ioctl(any_socket, _GET_FLAGS, name + bytes(24))
        flags = struct.unpack_from("H", answer, 16)[0] | _IFF_UP
        fcntl.ioctl(any_socket, _SET_FLAGS, name + struct.pack("H", flags) + bytes(22))
