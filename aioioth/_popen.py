"""The arguments of `subprocess.Popen`, checked as it checks them.

A launcher does with them what ``subprocess`` does between fork and exec, so that they
mean the same on every event loop: uvloop knows neither ``user`` nor ``umask``.

Source: CPython 3.11 to 3.13, Lib/subprocess.py and Modules/_posixsubprocess.c.
"""

from __future__ import annotations

import grp
import operator
import os
import pwd
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Argument = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def _encode(text: Argument) -> bytes:
    encoded = os.fsencode(text)
    if b"\0" in encoded:
        msg = "embedded null byte"
        raise ValueError(msg)
    return encoded


def _environment(env: Mapping[Any, Any] | None) -> list[bytes]:
    listed = []
    for name, value in (os.environb if env is None else env).items():
        encoded = _encode(name)
        if b"=" in encoded:
            msg = "illegal environment variable name"
            raise ValueError(msg)
        listed.append(encoded + b"=" + _encode(value))
    return listed


def _paths(executable: bytes, env: Mapping[Any, Any] | None) -> list[bytes]:
    """Return where ``subprocess`` would look for a program."""
    if os.path.dirname(executable):  # noqa: PTH120  (bytes)
        return [executable]
    directories = os.get_exec_path(env)
    return [os.path.join(os.fsencode(each), executable) for each in directories]  # noqa: PTH118


def _user(user: object) -> int | None:
    if user is None:
        return None
    if isinstance(user, str):
        return pwd.getpwnam(user).pw_uid
    if not isinstance(user, int):
        msg = "User must be a string or an integer"
        raise TypeError(msg)
    if user < 0:
        msg = f"User ID cannot be negative, got {user}"
        raise ValueError(msg)
    return user


def _group(group: object, what: str) -> int:
    if isinstance(group, str):
        return grp.getgrnam(group).gr_gid
    if not isinstance(group, int):
        msg = f"{what} must be a string or an integer, not {type(group)}"
        raise TypeError(msg)
    if group < 0:
        msg = f"Group ID cannot be negative, got {group}"
        raise ValueError(msg)
    return group


def _groups(groups: Sequence[str | int] | None) -> list[int] | None:
    if groups is None:
        return None
    if isinstance(groups, str):
        msg = "Groups must be a list, not a string"
        raise ValueError(msg)  # noqa: TRY004  (as subprocess)
    return [_group(each, "Items in extra_groups") for each in groups]


def _checked_descriptors(descriptors: Sequence[int]) -> list[int]:
    found = sorted({int(each) for each in descriptors})
    if found and found[0] < 0:
        msg = "bad value(s) in fds_to_keep"
        raise ValueError(msg)
    for each in found:
        os.fstat(each)  # a closed one is EBADF, as with subprocess
    return found


def _refuse(*, found: bool, message: str) -> None:
    if found:
        raise ValueError(message)


# What a launcher does for the caller, and may fail at.
STEPS = frozenset({"cwd", "exec", "setup"})


@dataclass(frozen=True, kw_only=True)
class Popen:
    """The arguments of a `subprocess.Popen`, without those for descriptors 0 to 2.

    They mean the same, are checked in the same way and raise the same errors.
    """

    executable: Any = None
    preexec_fn: Callable[[], Any] | None = None
    close_fds: bool = True
    cwd: Any = None
    env: Mapping[Any, Any] | None = None
    universal_newlines: bool | None = False
    bufsize: int = 0
    text: bool | None = None
    encoding: str | None = None
    errors: str | None = None
    startupinfo: Any = None
    creationflags: int = 0
    restore_signals: bool = True
    start_new_session: bool = False
    pass_fds: Sequence[int] = ()
    user: str | int | None = None
    group: str | int | None = None
    extra_groups: Sequence[str | int] | None = None
    umask: int = -1
    pipesize: int = -1
    process_group: int | None = None

    def __post_init__(self) -> None:
        """Refuse what asyncio or ``subprocess`` refuse, in their words."""
        _refuse(
            found=bool(self.universal_newlines),
            message="universal_newlines must be False",
        )
        _refuse(found=self.bufsize != 0, message="bufsize must be 0")
        _refuse(found=bool(self.text), message="text must be False")
        _refuse(found=self.encoding is not None, message="encoding must be None")
        _refuse(found=self.errors is not None, message="errors must be None")
        for name, given in [
            ("startupinfo", self.startupinfo is not None),
            ("creationflags", self.creationflags != 0),
        ]:
            message = f"{name} is only supported on Windows platforms"
            _refuse(found=given, message=message)
        message = (
            "close_fds=False cannot be had in a stack: name in pass_fds the "
            "descriptors that the program shall inherit"
        )
        _refuse(found=not self.close_fds, message=message)

    def request(self, command: Sequence[Argument]) -> dict[str, Any]:
        """Return what the launcher must know to run ``command`` with all this."""
        executable = command[0] if self.executable is None else self.executable
        group = self.process_group
        return {
            "gid": None if self.group is None else _group(self.group, "Group"),
            "groups": _groups(self.extra_groups),
            "uid": _user(self.user),
            "keep": _checked_descriptors(self.pass_fds),
            "environment": _environment(self.env),
            "paths": _paths(_encode(executable), self.env),
            "arguments": [_encode(each) for each in command],
            "cwd": None if self.cwd is None else _encode(self.cwd),
            "umask": operator.index(self.umask),
            "start_new_session": bool(self.start_new_session),
            "process_group": operator.index(-1 if group is None else group),
        }

    def error(self, code: int, step: str, command: Sequence[Argument]) -> OSError:
        """Return the exception that ``subprocess`` raises for one of the `STEPS`."""
        about = {
            "cwd": self.cwd,
            "exec": command[0] if self.executable is None else self.executable,
            "setup": None,
        }
        return OSError(code, os.strerror(code), about[step])
