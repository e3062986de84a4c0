"""The default stack of the current context (PEP 567), and what it stands for."""

from __future__ import annotations

import socket
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aioioth.stack import Stack

# What a network namespace has of its own; other sockets belong to the host.
FAMILIES = {socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET}

# The host's own stack is None.
current: ContextVar[Stack | None] = ContextVar("aioioth_stack", default=None)

# Whether plain sockets take it, too.
patching: ContextVar[bool] = ContextVar("aioioth_patching", default=False)


def current_stack() -> Stack | None:
    """Return the default stack of the current context; None: the host's own."""
    return current.get()
