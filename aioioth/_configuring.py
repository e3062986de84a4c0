"""What can be changed of a stack while it is open, as methods of it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from aioioth import _sysctls
from aioioth._addressing import StackAddressing
from aioioth._background import carried
from aioioth._linkmethods import StackLinks
from aioioth._ready import wait_ready
from aioioth._settings import Settings
from aioioth.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioioth._ip import IPInterface
    from aioioth._wiring import Wiring
    from aioioth.abc import FrameTransport
    from aioioth.interfaces import Interface


class StackConfiguring(StackLinks, StackAddressing):
    """The part of `aioioth.Stack` that changes it while it is open.

    All of it belongs to the event loop that the stack was opened on.
    """

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
        return self._own_parts().interfaces[wanted.name]

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
        wiring = self._wiring("does not let go of")
        sources = self._own_parts().sources
        if sources is not None and name in wiring.interfaces:
            await sources.forget(name)  # which gives leases back
        await wiring.remove(name)

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

    # Settings

    @carried
    async def sysctl(self, name: str, value: str | int | None = None) -> str:
        """Do ``sysctl NAME`` or ``sysctl -w NAME=VALUE`` in the stack.

        Args:
            name: ``net.ipv4.ip_forward``; with slashes where an interface's name has a
                dot: ``net/ipv4/conf/eth0.5/rp_filter``.
            value: What to write; None to leave it as it is.

        Returns:
            Its value, or what was written.

        Raises:
            OSError: There is no such sysctl, or it does not take the value.
            ConfigurationError: It is not one of a network stack.
        """
        space = self._usable_parts().space
        if value is None:
            return await _sysctls.read(space, name)
        await _sysctls.write(space, name, value)
        return str(value)

    @carried
    async def set_forwarding(self, on: bool) -> None:  # noqa: FBT001  (a switch)
        """Have the stack be a router, of IPv4 and IPv6, or a host again.

        Args:
            on: Whether packets for others are passed on.

        Raises:
            OSError: The kernel refused.
        """
        space = self._usable_parts().space
        await _sysctls.write(space, "net.ipv4.ip_forward", int(on))
        with suppress(FileNotFoundError):  # a kernel without IPv6
            await _sysctls.write(space, "net.ipv6.conf.all.forwarding", int(on))

    # Waiting

    @carried
    async def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until the stack can be used as it was configured.

        Every interface on a virtual network is up and has its carrier, everybody who
        is asked for its configuration has answered (`configure`), and every address is
        usable.

        Args:
            timeout: Seconds; None to wait for ever.

        Raises:
            NetlinkError: Somebody else on the network has one of the addresses
                (EADDRINUSE); the message names it.
            TimeoutError: It is not ready; the message says what is missing.
            ClosedError: The stack was closed.
        """
        await wait_ready(self._usable_parts(), str(self), timeout)
