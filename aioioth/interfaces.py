"""A stack's interfaces, as users see them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

from aioioth import _listing
from aioioth._background import Resident, carried, is_in_thread
from aioioth._ip import parse_mac
from aioioth._iproute import (
    LARGEST_MTU,
    carry_out,
    change_in,
    control_socket,
    set_link,
)
from aioioth._linux import netdevice
from aioioth._said import number
from aioioth.errors import ClosedError
from aioioth.iproute import Address

if TYPE_CHECKING:
    from aioioth._attached import RemoteLink
    from aioioth._ip import IPInterface
    from aioioth._kernellink import KernelLink
    from aioioth._link import Link
    from aioioth._netstate import Monitor
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
        name: Its name in the stack: ``vde0``. `Stack.set_link` gives it another one.
        vnl: The virtual network it belongs to.
    """

    __slots__ = ("_link", "_lives_in_thread", "_monitor", "_space", "name", "vnl")

    def __init__(
        self,
        name: str,
        vnl: str,
        link: Link | KernelLink | RemoteLink,
        space: Space,
        monitor: Monitor,
    ) -> None:
        self.name: str = name
        self.vnl: str = vnl
        self._link = link
        self._space = space
        self._monitor = monitor
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

    # As with ``ip``

    @carried
    async def up(self) -> None:
        """Do ``ip link set NAME up``.

        Raises:
            NetlinkError: It is gone (ENODEV).
            ClosedError: The stack is closed.
        """
        await carry_out(self._space, [set_link(self.name, up=True)])

    @carried
    async def down(self) -> None:
        """Do ``ip link set NAME down``: routes through it, and IPv6 addresses, go.

        Raises:
            NetlinkError: It is gone (ENODEV).
            ClosedError: The stack is closed.
        """
        await carry_out(self._space, [set_link(self.name, up=False)])

    @carried
    async def set_mtu(self, mtu: int) -> None:
        """Do ``ip link set NAME mtu MTU``.

        Args:
            mtu: In bytes, Ethernet header not counted. Frames longer than the virtual
                network carries are dropped, and counted in `stats`.

        Raises:
            NetlinkError: The interface cannot have that (EINVAL), or is gone (ENODEV).
            ConfigurationError: It is no number of bytes.
            ClosedError: The stack is closed.
        """
        wanted = number("mtu", mtu, 0, LARGEST_MTU)
        await carry_out(self._space, [set_link(self.name, mtu=wanted)])

    @carried
    async def set_mac(self, mac: str) -> None:
        """Do ``ip link set NAME address MAC``.

        Args:
            mac: As ``02:00:00:00:00:01``.

        Raises:
            NetlinkError: It is no station's address (EADDRNOTAVAIL), say.
            ConfigurationError: It is no MAC address.
            ClosedError: The stack is closed.
        """
        await carry_out(self._space, [set_link(self.name, mac=parse_mac(mac))])

    @carried
    async def add_address(
        self, address: str | IPInterface, *, nodad: bool = True
    ) -> None:
        """Do ``ip address add ADDRESS dev NAME``; see `Stack.add_address`.

        Args:
            address: With prefix length: ``10.0.0.1/24``, ``fd00::1/64``.
            nodad: An IPv6 address is usable at once, whoever else may have it.

        Raises:
            NetlinkError: The kernel refused: EEXIST, ENODEV.
            ConfigurationError: It is no address with a prefix length.
            ClosedError: The stack is closed.
        """
        wanted = Address(address, self.name, nodad=nodad)
        await change_in(self._space, "add", wanted, own=(self.name,))

    @carried
    async def del_address(self, address: str | IPInterface) -> None:
        """Do ``ip address del ADDRESS dev NAME``.

        Args:
            address: With prefix length.

        Raises:
            NetlinkError: The kernel refused: EADDRNOTAVAIL, ENODEV.
            ConfigurationError: It is no address with a prefix length.
            ClosedError: The stack is closed.
        """
        await change_in(self._space, "del", Address(address, self.name))

    @carried
    async def addresses(self) -> list[Address]:
        """Return what ``ip address show dev NAME`` shows, IPv4 first.

        Raises:
            NetlinkError: It is gone (ENODEV).
            ClosedError: The stack is closed.
        """
        return await _listing.addresses(self._space, self.name)

    @carried
    async def wait_carrier(self, timeout: float | None = None) -> None:
        """Wait until it is up and has a carrier: frames can go out.

        Args:
            timeout: Seconds; None to wait for ever.

        Raises:
            TimeoutError: It has none yet.
            ClosedError: It is gone, or the stack is closed.
        """
        async with asyncio.timeout(timeout):
            await self._monitor.wait_for(self._has_carrier)

    def _has_carrier(self, monitor: Monitor) -> bool:
        for link in monitor.links:
            if link.name == self.name:
                return link.up and link.carrier
        raise self._gone()

    def _gone(self) -> ClosedError:
        return ClosedError(f"interface {self.name}")

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
