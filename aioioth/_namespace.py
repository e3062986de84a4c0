"""A network namespace that the program holds, and what the keeper does in it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from aioioth._fd import OwnedFd
from aioioth._keeper import messages
from aioioth._linux.sockets import sockets_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioioth._keeper.client import Channel, Keeper


class Namespace:
    """One network namespace; it lives while this or any socket in it is open.

    Args:
        descriptor: The namespace. Taken over.
        label: Whose it is, for messages.
        keeper: For sockets.
        channel: For all that may have to wait.
    """

    def __init__(
        self, descriptor: int, label: str, keeper: Keeper, channel: Channel
    ) -> None:
        self._fd = OwnedFd(descriptor, label)
        self._keeper = keeper
        self._channel = channel

    @classmethod
    async def make(
        cls, label: str, sysctls: Sequence[str], keeper: Keeper, channel: Channel
    ) -> Namespace:
        """Make a namespace, with ``lo`` up.

        Args:
            label: Whose it is, for messages.
            sysctls: ``net/...=value``, written in it; with ``?`` in front, one that the
                kernel may lack.
            keeper: For its sockets.
            channel: For all that may have to wait.

        Raises:
            MissingPrivilegeError: The kernel refused; the message says what to do.
            KeeperError: The keeper cannot be started.
        """
        body = "\n".join(sysctls).encode()
        operation = messages.NETWORK_NAMESPACE
        descriptors = await channel.ask(operation, body, (), wanted=1)
        return cls(descriptors[0], label, keeper, channel)

    async def sibling(self, label: str, sysctls: Sequence[str]) -> Namespace:
        """Make another namespace beside this one; see `make`."""
        return await self.make(label, sysctls, self._keeper, self._channel)

    def fileno(self) -> int:
        """Return the namespace's descriptor.

        Raises:
            ClosedError: It was closed before.
        """
        return self._fd.fileno()

    def socket(self, family: int, kind: int, protocol: int) -> socket.socket:
        """Open a non-blocking socket in the namespace, from any thread.

        Raises:
            OSError: What ``socket()`` raises.
            ClosedError: The namespace was closed before.
        """
        body = messages.pack_socket(family, kind, protocol)
        made = self._keeper.ask(messages.SOCKET, body, [self.fileno()], wanted=1)
        sock = socket.socket(family, kind, protocol, fileno=made[0])
        sock.setblocking(False)
        return sock

    async def tap(self, name: str) -> int:
        """Make TAP interface ``name`` and return its descriptor, the caller's to close.

        Raises:
            MissingPrivilegeError: /dev/net/tun cannot be opened.
            OSError: The name is taken.
        """
        sent = [self.fileno()]
        made = await self._channel.ask(messages.TAP, name.encode(), sent, wanted=1)
        return made[0]

    async def sysctl(self, name: str, value: str | int) -> None:
        """Write a sysctl of the namespace.

        Args:
            name: Path below ``/proc/sys``: ``net/ipv4/ip_forward``.
            value: What to write.

        Raises:
            OSError: There is no such sysctl, or it does not take the value.
        """
        body = f"{name}={value}".encode()
        await self._channel.ask(messages.SYSCTL, body, [self.fileno()], wanted=0)

    def sockets(self) -> list[int]:
        """Return the descriptors of this process that are sockets in the namespace."""
        return sockets_of(self.fileno())

    def close(self) -> None:
        """Let go. Sockets that are still open keep the namespace alive."""
        self._fd.close()
