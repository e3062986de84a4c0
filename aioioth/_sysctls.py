"""The settings of a stack below ``/proc/sys/net``, read and written.

Source: proc(5), sysctl(8).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from aioioth._kinds import HostSpace
from aioioth._namespace import Namespace
from aioioth.errors import ConfigurationError

if TYPE_CHECKING:
    from aioioth.abc import Space


async def read(space: Space, name: str) -> str:
    """Return a sysctl's value; see `Stack.sysctl`."""
    path = _path(name)
    if isinstance(space, Namespace):
        return await space.read_sysctl(path)
    return _on_the_host(space, path).read_text().rstrip("\n")


async def write(space: Space, name: str, value: str | int) -> None:
    """Write a sysctl; see `Stack.sysctl`."""
    path, text = _path(name), str(value)
    if len(text.splitlines()) > 1:
        msg = f"{name}={text!r}: a sysctl's value is one line"
        raise ConfigurationError(msg)
    if isinstance(space, Namespace):
        await space.sysctl(path, text)
    else:
        _on_the_host(space, path).write_text(text)


def _path(name: str) -> str:
    path = str(name) if "/" in str(name) else str(name).replace(".", "/")
    if not path.startswith("net/") or ".." in path or not path.isprintable():
        msg = f"{name!r} is no sysctl of a stack: they begin with 'net.'"
        raise ConfigurationError(msg)
    return path


def _on_the_host(space: Space, path: str) -> Path:
    if not isinstance(space, HostSpace):
        msg = "this kind of stack has no sysctls of its own"
        raise ConfigurationError(msg)
    return Path("/proc/sys", path)
