"""What a source of configuration stands on: one interface of one stack."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from weakref import WeakSet

if TYPE_CHECKING:
    import socket
    from collections.abc import Collection

    from aioioth._autoconf.findings import Findings
    from aioioth._ip import IPAddress
    from aioioth.abc import Space


class Apply(Protocol):
    """Has the stack be as a source says, in place of what the source said before."""

    async def __call__(
        self, findings: Findings | None, cause: str = ""
    ) -> Collection[IPAddress]:
        """Return the addresses that somebody else has already.

        Args:
            findings: What shall hold from now on; None: nothing any more.
            cause: Why, in words, where something was lost: ``lease expired``.

        Raises:
            NetlinkError: The kernel refused.
        """
        ...


@dataclass(frozen=True)
class Ground:
    """One interface, for one source.

    Attributes:
        space: The stack's, for what is not a socket.
        sockets: Those that were made here, as long as they live.
        dev: Name of the interface.
        index: The kernel's number for it.
        mac: Its MAC address, 6 bytes.
        label: Whose it is, for log messages.
        fqdn: Name that the stack shall have in the network; None for none.
        apply: Called, and awaited, with what was found out. What `Findings` holds is
            written to the kernel and to the stack's resolver; IPv6 addresses without
            ``nodad`` are waited for until they are usable, or found to be another's.
    """

    space: Space
    dev: str
    index: int
    mac: bytes
    label: str
    fqdn: str | None
    apply: Apply
    sockets: WeakSet[socket.socket] = field(default_factory=WeakSet)

    def socket(self, family: int, kind: int, protocol: int) -> socket.socket:
        """Open a non-blocking socket in the stack, which is none of the user's.

        Raises:
            OSError: What ``socket()`` raises.
            ClosedError: The stack was closed before.
        """
        sock = self.space.socket(family, kind, protocol)
        self.sockets.add(sock)
        return sock


class Source(Protocol):
    """A protocol that finds an interface's configuration, and keeps it."""

    async def run(self) -> None:
        """Find out, apply it, and keep it true, until cancelled.

        All sockets are closed when this ends. What was applied stays as it is: taking
        it away is the caller's business.

        Raises:
            OSError: No socket can be had in the stack.
        """
        ...

    def refresh(self) -> None:
        """Ask again now: the carrier is back, or the user wants to know."""
        ...

    def release(self) -> None:
        """Tell the network that we are going, if that is usual. Never waits or raises.

        Called while `run` is running, right before it is cancelled.
        """
        ...
