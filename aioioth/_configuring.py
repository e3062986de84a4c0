"""Interfaces, addresses, routes and sysctls as methods of a stack."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from aioioth._background import carried
from aioioth._settings import Settings
from aioioth.errors import ConfigurationError
from aioioth.iproute import Address, Route

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from aioioth._ip import IPInterface
    from aioioth._running import Running
    from aioioth._wiring import Wiring
    from aioioth.abc import FrameTransport
    from aioioth.interfaces import Interface


class StackConfiguring:
    """The part of `aioioth.Stack` that changes it while it is open.

    All of it belongs to the event loop that the stack was opened on.
    """

    @abstractmethod
    def check_usable(self) -> asyncio.AbstractEventLoop:
        """Return the stack's loop; see `aioioth.Stack.check_usable`."""

    @abstractmethod
    def _own_parts(self) -> Running:
        """Return what the stack consists of."""

    # Interfaces

    @carried
    async def add_interface(
        self,
        vnl: str | FrameTransport,
        name: str | None = None,
        *,
        ip: str | IPInterface | Sequence[str | IPInterface] = (),
        mac: str | None = None,
        mtu: int | None = None,
    ) -> Interface:
        """Give the stack one interface more, on another virtual network.

        Args:
            vnl: The virtual network, with or without a name in front:
                ``"eth1:vde:///tmp/sw"``. Also a `Switch`.
            name: The interface's. None: the first of ``vde0``, ``vde1``, ... that is
                free.
            ip: Addresses with prefix length.
            mac: None: the kernel makes one up.
            mtu: In bytes, Ethernet header not counted. None: 1500, or less if the
                network carries less.

        Returns:
            The interface, up and on its network.

        Raises:
            ConfigurationError: An argument cannot be right, the name is taken, or the
                stack was made by another process or is the host's own.
            BrokenTransportError: The network cannot be reached.
            MissingPrivilegeError: The kernel refuses; the message says what to do.
            NetlinkError: The kernel does not take an address.
            ClosedError: The stack is not open.
            WrongLoopError: The stack belongs to another event loop.

        Cancellation:
            Safe anywhere. Nothing is left behind.
        """
        wiring = self._wiring("has no place for")
        settings = Settings.check_added(
            vnl, name, ip=ip, mtu=mtu, mac=mac, is_taken=wiring.is_taken
        )
        [wanted] = settings.interfaces
        with wiring.reserved(wanted.name):
            await wiring.add_to_running(wanted, settings.addresses)
        return wiring.interfaces[wanted.name]

    @carried
    async def remove_interface(self, name: str) -> None:
        """Take an interface away from its network, and from the stack.

        What it has queued is sent first. Its addresses and routes go with it, and
        connections that used them are on their own.

        Args:
            name: Its name: ``vde0``.

        Raises:
            ConfigurationError: There is none of that name, or the stack was made by
                another process or is the host's own.
            ClosedError: The stack is not open.
            WrongLoopError: The stack belongs to another event loop.

        Cancellation:
            The interface is taken away all the same; the last frames may be lost, and
            the kernel may need some milliseconds more.
        """
        await self._wiring("does not let go of").remove(name)

    def _wiring(self, refusal: str) -> Wiring:
        self.check_usable()
        wiring = self._own_parts().wiring
        if wiring is None:
            msg = (
                f"{self} {refusal} interfaces: that is for the process that made the "
                f"stack, and for stacks of the kind 'netns'"
            )
            raise ConfigurationError(msg)
        return wiring

    # Addresses and routes

    @carried
    async def add_address(self, address: str | IPInterface, *, dev: str) -> None:
        """Do ``ip address add ADDRESS dev DEV``.

        An IPv6 address is usable at once: nobody is asked whether he has it already.

        Args:
            address: With prefix length: ``10.0.0.1/24``, ``fd00::1/64``.
            dev: Name of the interface.

        Raises:
            NetlinkError: The kernel refused: EEXIST, ENODEV.
            ConfigurationError: It is no address with a prefix length.
        """
        self.check_usable()
        await self._own_parts().change("add", Address(address, dev))

    @carried
    async def del_address(self, address: str | IPInterface, *, dev: str) -> None:
        """Do ``ip address del ADDRESS dev DEV``.

        Raises:
            NetlinkError: The kernel refused: EADDRNOTAVAIL, ENODEV.
            ConfigurationError: It is no address with a prefix length.
        """
        self.check_usable()
        await self._own_parts().change("del", Address(address, dev))

    @carried
    async def add_route(
        self, destination: str, *, via: str | None = None, dev: str | None = None
    ) -> None:
        """Do ``ip route add DESTINATION via VIA dev DEV``.

        Args:
            destination: Network with prefix length: ``10.1.0.0/16``, ``::/0``.
            via: Address of the router.
            dev: Name of the interface; needed for a link-local router.

        Raises:
            NetlinkError: The kernel refused: EEXIST, ENETUNREACH, ENODEV.
            ConfigurationError: The destination is no network.
        """
        self.check_usable()
        route = Route(destination, via=via, dev=dev)
        await self._own_parts().change("add", route)

    @carried
    async def del_route(
        self, destination: str, *, via: str | None = None, dev: str | None = None
    ) -> None:
        """Do ``ip route del DESTINATION via VIA dev DEV``; see `add_route`.

        Raises:
            NetlinkError: The kernel refused: ESRCH, ENODEV.
            ConfigurationError: The destination is no network.
        """
        self.check_usable()
        route = Route(destination, via=via, dev=dev)
        await self._own_parts().change("del", route)

    @carried
    async def sysctl(self, name: str, value: str | int) -> None:
        """Do ``sysctl -w NAME=VALUE`` in the stack.

        Args:
            name: ``net.ipv4.ip_forward``; with slashes where an interface's name has a
                dot: ``net/ipv4/conf/eth0.5/rp_filter``.
            value: What to write.

        Raises:
            OSError: There is no such sysctl, or it does not take the value.
            ConfigurationError: It is not one of a network stack.
        """
        self.check_usable()
        await self._own_parts().sysctl(name, value)
