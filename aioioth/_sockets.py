"""What is known about an open socket."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from typing import Any

from typing_extensions import override


@dataclass(frozen=True)
class SocketInfo:
    """An open socket of this process.

    Attributes:
        fd: Its descriptor.
        family: For example `socket.AF_INET`.
        type: For example `socket.SOCK_STREAM`.
        local: Its own address, as ``getsockname`` gives it; None if it has none.
        remote: Its peer's address; None if it is not connected.
    """

    fd: int
    family: int
    type: int
    local: Any
    remote: Any

    @override
    def __str__(self) -> str:
        with contextlib.suppress(ValueError):
            family = socket.AddressFamily(self.family).name
            kind = socket.SocketKind(self.type).name
            ends = f"{self.local}" + (f" -> {self.remote}" if self.remote else "")
            return f"fd {self.fd}: {family} {kind} {ends}"
        return f"fd {self.fd}: family {self.family}, type {self.type}"


def describe(descriptor: int) -> SocketInfo | None:
    """Return what is known about a socket of this process.

    None if it is none any more: another thread has closed it.
    """
    try:
        # A copy, since the socket object closes what it is given.
        copy = os.dup(descriptor)
    except OSError:
        return None
    try:
        sock = socket.socket(fileno=copy)
    except OSError:  # another file has the number now
        os.close(copy)
        return None
    with sock:
        local = remote = None
        with contextlib.suppress(OSError):
            local = sock.getsockname()
        with contextlib.suppress(OSError):
            remote = sock.getpeername()
        return SocketInfo(descriptor, sock.family, sock.type, local, remote)
