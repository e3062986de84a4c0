"""A stack's interfaces, as users see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

from aioioth._background import Resident, carried, is_in_thread
from aioioth._iproute import control_socket
from aioioth._linux import netdevice

if TYPE_CHECKING:
    from aioioth._attached import RemoteLink
    from aioioth._kernellink import KernelLink
    from aioioth._link import Link
    from aioioth._pump import Counters
    from aioioth.abc import Space

__all__ = ["Interface", "InterfaceStats"]


@dataclass(frozen=True)
class InterfaceStats:
    """What went through an interface, counted by aioioth's pumps.

    The kernel's own counters are ``ip -s link``'s; these count what the virtual network
    took and gave. Where no frame enters the program (``bridge://``, or a stack that is
    another process's, `aioioth.Stack.attach`), they are the kernel's.

    Attributes:
        sent: From the stack to the network.
        received: From the network to the stack; its drops include those that the
            network itself counted, such as a full queue at a switch's port.
    """

    sent: Counters
    received: Counters


class Interface(Resident):
    """One interface of an open stack.

    Attributes:
        name: Its name in the stack: ``vde0``.
        vnl: The virtual network it belongs to.
    """

    __slots__ = ("_link", "_lives_in_thread", "_space", "name", "vnl")

    def __init__(
        self,
        name: str,
        vnl: str,
        link: Link | KernelLink | RemoteLink,
        space: Space,
    ) -> None:
        self.name: str = name
        self.vnl: str = vnl
        self._link = link
        self._space = space
        self._lives_in_thread = is_in_thread()

    @property
    @override
    def _in_thread(self) -> bool:
        return self._lives_in_thread

    @property
    def index(self) -> int:
        """The kernel's number for it, as in ``ip link``."""
        with control_socket(self._space) as control:
            return netdevice.interface_index(control, self.name)

    @property
    def mac(self) -> str:
        """Its MAC address, as ``02:00:00:00:00:01``."""
        with control_socket(self._space) as control:
            return netdevice.interface_mac(control, self.name)

    @property
    def mtu(self) -> int:
        """Its MTU in bytes, Ethernet header not counted."""
        with control_socket(self._space) as control:
            return netdevice.interface_mtu(control, self.name)

    @property
    def device(self) -> str:
        """How its frames reach aioioth: ``tap`` or ``packet``.

        Where they do not, what it is for the kernel: ``veth``, ``macvlan``, ...
        """
        return self._link.device_kind

    @property
    def attached(self) -> bool:
        """Whether it is on its virtual network right now."""
        return self._link.attached

    @property
    def stats(self) -> InterfaceStats:
        """What went through it until now."""
        return InterfaceStats(*self._link.stats())

    @carried
    async def set_carrier(self, on: bool) -> None:  # noqa: FBT001  (a switch)
        """Pull the cable out, or plug it in again. Idempotent.

        Without it the network sees us leave, and the stack an interface without a
        carrier. Nobody tries to get the network back until it is plugged in.

        Args:
            on: Whether the cable shall be in.

        Raises:
            BrokenTransportError: The network cannot be reached; it stays pulled out.
            ClosedError: The interface is gone, or its stack is closed.
            ConfigurationError: The interface's cable is another process's.
            WrongLoopError: The stack belongs to another event loop.

        Cancellation:
            The cable is in, or it is out.
        """
        await self._link.set_carrier(on=on)

    @override
    def __repr__(self) -> str:
        state = "attached" if self.attached else "no carrier"
        return f"<Interface {self.name} on {self.vnl} ({self.device}, {state})>"
