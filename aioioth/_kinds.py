"""The kinds of stacks that come with aioioth; see `aioioth.abc.StackKind`."""

from __future__ import annotations

import _socket
import socket
import weakref
from typing import TYPE_CHECKING

from aioioth._manager import running_manager
from aioioth.errors import ClosedError

if TYPE_CHECKING:
    from aioioth._namespace import Home, Namespace

# With hundreds of stacks on one network, what IPv6 says by itself drowns the network:
# nothing is said until an IPv6 address is asked for. Addresses are ours to choose, so
# that looking for duplicates would only make every bind wait a second.
_SYSCTLS = (
    # Linux takes IPv4's settings over from the host (devconf_inherit_init_net).
    "net/ipv4/ip_forward=0",
    # An address that is taken away shall not take others of its network with it.
    "?net/ipv4/conf/all/promote_secondaries=1",
    "?net/ipv6/conf/default/addr_gen_mode=1",
    "?net/ipv6/conf/default/accept_ra=0",
    "?net/ipv6/conf/default/accept_dad=0",
)


async def open_netns(label: str, home: Home | None = None) -> Namespace:
    """Make a network namespace; the kind ``netns``, also called ``vdestack``.

    Args:
        label: Whose it is, for messages.
        home: The user namespace to make it in; None: the program's own.
    """
    if home is None:
        manager = await running_manager()
        home = await manager.settle()
    return await home.namespace(label, _SYSCTLS)


async def open_kernel(label: str) -> HostSpace:
    """Return the host's own stack; the kind ``kernel``."""
    return HostSpace(label)


class HostSpace:
    """The host's own stack as a `aioioth.abc.Space`."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._closed = False
        self._made: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def socket(self, family: int, kind: int, protocol: int) -> socket.socket:
        """See `aioioth.abc.Space.socket`."""
        if self._closed:
            raise ClosedError(self._label)
        # Not socket.socket(), which may be asking this very stack.
        made = _socket.socket(family, kind, protocol).detach()
        sock = socket.socket(family, kind, protocol, fileno=made)
        sock.setblocking(False)
        self._made.add(sock)
        return sock

    def sockets(self) -> list[int]:
        """Return the descriptors of the sockets made here that are still open."""
        return sorted(sock.fileno() for sock in self._made if sock.fileno() != -1)

    def close(self) -> None:
        """See `aioioth.abc.Space.close`."""
        self._closed = True
