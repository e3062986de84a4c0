"""An interface whose frames another process carries."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from aioioth._linux import linkstats, netdevice
from aioioth._pump import Counters
from aioioth.errors import ConfigurationError

if TYPE_CHECKING:
    from aioioth._namespace import Namespace
    from aioioth._sharing import SharedInterface


class RemoteLink:
    """What can be said of it here, in place of a `aioioth._link.Link`.

    Args:
        interface: What its owner says.
        space: The namespace that it is in.
    """

    def __init__(self, interface: SharedInterface, space: Namespace) -> None:
        self._name = interface.name
        self._space = space
        self.device_kind: str = interface.device

    @property
    def attached(self) -> bool:
        """Whether it has a carrier, which its owner takes away with the network."""
        with self._socket() as sock:
            return netdevice.has_carrier(sock.fileno(), self._name)

    async def set_carrier(self, *, on: bool) -> None:
        """Refuse; see `aioioth.Interface.set_carrier`.

        Raises:
            ConfigurationError: Always.
        """
        what = "plugged in" if on else "pulled out"
        msg = f"{self._name} can only be {what} by the process that made the stack"
        raise ConfigurationError(msg)

    def stats(self) -> tuple[Counters, Counters]:
        """Return what was sent and received so far, by the kernel's count."""
        with self._socket() as sock:
            index = netdevice.interface_index(sock.fileno(), self._name)
            count = linkstats.link_stats(sock, index)
        sent = Counters(count.sent_frames, count.sent_bytes)
        received = Counters(count.received_frames, count.received_bytes)
        for counters, drops, errors in (
            (sent, count.sent_drops, count.sent_errors),
            (received, count.received_drops, count.received_errors),
        ):
            causes = {"dropped by the kernel": drops, "malformed": errors}
            counters.drops.update({why: n for why, n in causes.items() if n})
        return sent, received

    def _socket(self) -> socket.socket:
        return self._space.socket(
            socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE
        )
