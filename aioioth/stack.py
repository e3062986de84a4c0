"""A TCP/IP stack that the program owns."""

from __future__ import annotations

import asyncio
import itertools
import socket
from enum import Enum
from typing import TYPE_CHECKING, Any, Self, TypeVar

from typing_extensions import override

from aioioth import _iproute, _names, endpoints, streams
from aioioth._linux import netdevice
from aioioth._manager import calling_place, running_manager
from aioioth._plugins import load_kind
from aioioth._running import Running
from aioioth._settings import Settings, parse_ip
from aioioth._sockets import SocketInfo, describe
from aioioth.errors import BusyError, ClosedError, WrongLoopError
from aioioth.events import Event, EventStream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from aioioth._manager import Place
    from aioioth._settings import IPAddress, IPInterface
    from aioioth.abc import FrameTransport
    from aioioth.interfaces import Interface, InterfaceStats
    from aioioth.netlink import Netlink

    Addresses = str | IPInterface | Sequence[str | IPInterface]

__all__ = ["SocketInfo", "Stack"]

_ProtocolT = TypeVar("_ProtocolT", bound=asyncio.BaseProtocol)

_numbers = itertools.count(1)


class _State(Enum):
    """Where a stack is in its life; the value says why it cannot be used."""

    NEW = "not open: use 'async with', or open() it"
    OPENING = "not open yet"
    OPEN = "open"
    CLOSED = "closed: make a new one"


class Stack:
    """A TCP/IP stack of its own: interfaces, addresses, routes, ports.

    Use it as ``async with Stack("vde:///tmp/sw", ip="10.0.0.50/24") as stack:``, or
    call `open` and `aclose`. It belongs to the event loop that it was opened on;
    `socket` may be called from any thread. ``lo`` is always there and up.

    Args:
        vnls: The virtual networks, one interface for each, called ``vde0``, ``vde1``,
            ... or as a name in front says: ``"eth1:vde:///tmp/sw"``. Also a `Switch`.
        kind: ``netns`` (also ``vdestack``), ``kernel`` for the host's own stack, or
            what a plug-in registers.
        name: Shown in messages and by switches.
        ip: Addresses with prefix length, for the first interface; or a mapping from
            interfaces to addresses.
        gw: Default gateways; a link-local one as ``fe80::1%vde0``.
        mtu: For all interfaces, in bytes, Ethernet header not counted; or a mapping.
            None: 1500, or less if the network carries less.
        mac: For the first interface; or a mapping. None: the kernel makes one up.
        device: ``tap`` or ``packet`` for the way frames take; None: a TAP where
            /dev/net/tun opens, otherwise a packet socket behind a veth pair.

    Raises:
        ConfigurationError: An argument cannot be right.
        UnknownSchemeError: A VNL's scheme is not known; the message names the known.
    """

    def __init__(
        self,
        *vnls: str | FrameTransport,
        kind: str = "netns",
        name: str | None = None,
        ip: Addresses | Mapping[str, Addresses] = (),
        gw: str | IPAddress | Sequence[str | IPAddress] = (),
        mtu: int | Mapping[str, int] | None = None,
        mac: str | Mapping[str, str] | None = None,
        device: str | None = None,
    ) -> None:
        self._name = name if name is not None else f"stack{next(_numbers)}"
        self._kind_name = kind
        self._kind = load_kind(kind)
        self._settings = Settings.check(
            vnls, ip=ip, gw=gw, mtu=mtu, mac=mac, device=device
        )
        self._place = calling_place()
        self._state = _State.NEW
        self._running: Running | None = None
        self._event_streams: list[EventStream] = []

    # What it is

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self._name

    @property
    def kind(self) -> str:
        """How it is made: ``netns``, ``kernel``, or a plug-in's name."""
        return self._kind_name

    @property
    def place(self) -> Place:
        """The line of the program that made it."""
        return self._place

    @property
    def interfaces(self) -> Mapping[str, Interface]:
        """Its interfaces by name, ``lo`` not counted.

        Raises:
            ClosedError: The stack is not open.
        """
        return dict(self._parts().interfaces)

    @property
    def netlink(self) -> Netlink:
        """pyroute2's `AsyncIPRoute`, bound to this stack.

        Raises:
            ClosedError: The stack is not open.
        """
        return self._parts().netlink

    def stats(self) -> dict[str, InterfaceStats]:
        """Return what went through each interface so far.

        Raises:
            ClosedError: The stack is not open.
        """
        return {name: each.stats for name, each in self._parts().interfaces.items()}

    def sockets(self) -> list[SocketInfo]:
        """Return the sockets of this process that are open in the stack.

        However they came to be: made, accepted, or opened by a library in C.

        Raises:
            ClosedError: The stack is not open.
        """
        parts = self._parts()
        own = parts.netlink.fileno()
        return [describe(fd) for fd in parts.space.sockets() if fd != own]

    def events(self) -> EventStream:
        """Return what happens from now on, as an asynchronous iterator.

        Raises:
            ClosedError: The stack is not open.
            WrongLoopError: The stack belongs to another event loop.
        """
        self.check_usable()
        stream = EventStream(self._event_streams.remove)
        self._event_streams.append(stream)
        return stream

    @override
    def __str__(self) -> str:
        return f"stack {self._name!r}"

    @override
    def __repr__(self) -> str:
        networks = ", ".join(each.vnl for each in self._settings.interfaces)
        on = f"on {networks}" if networks else "without a network"
        return f"<Stack {self._name!r} {on}, {self._state.name.lower()}>"

    # Opening and closing

    async def open(self) -> Self:
        """Plug into the networks, make the stack and configure it.

        Returns:
            The stack itself.

        Raises:
            BrokenTransportError: A network cannot be reached.
            MissingPrivilegeError: The kernel refuses; the message says what to do.
            ConfigurationError: A network does not carry what was asked for.
            NetlinkError: The kernel does not take an address or route.
            BusyError: The stack is open already.
            ClosedError: The stack was closed; make a new one.

        Cancellation:
            Safe anywhere. Nothing is left behind; `open` may be called again.
        """
        if self._state is _State.CLOSED:
            raise ClosedError(str(self))
        if self._state is not _State.NEW:
            msg = f"{self} is open already"
            raise BusyError(msg)
        self._state = _State.OPENING
        try:
            manager = await running_manager()
            label = f"aioioth {self._name}"
            running = await Running.open(
                self._settings, self._kind, label, manager, self._notify
            )
        except BaseException:
            if self._state is _State.OPENING:
                self._state = _State.NEW
            raise
        if self._state is _State.CLOSED:  # by another task, meanwhile
            running.close()
            raise ClosedError(str(self))
        self._state = _State.OPEN
        self._running = running
        manager.add(self)
        return self

    async def aclose(self, *, strict: bool = False) -> None:
        """Leave the networks and let the stack go. Idempotent.

        What its interfaces have queued is sent first. Sockets that are still open stay
        open, without a network.

        Args:
            strict: Refuse if any socket of the stack is still open in this process.

        Raises:
            BusyError: ``strict``, and sockets are open; the message lists them.
            WrongLoopError: The stack belongs to another event loop.

        Cancellation:
            The stack is closed all the same; the last frames may be lost.
        """
        if self._running is None:
            self.close()
            return
        self.check_usable()
        if strict and (users := self.sockets()):
            message = f"{self} has open sockets; close them, or aclose() without strict"
            raise BusyError(message, [str(user) for user in users])
        try:
            await self._running.drain()
        finally:
            self.close()

    def close(self) -> None:
        """Let everything go at once. Idempotent, never waits, never raises.

        `aclose` is better: it lets the last frames go first.
        """
        self._state = _State.CLOSED
        running, self._running = self._running, None
        if running is not None:
            running.manager.discard(self)
            running.close()
        for stream in list(self._event_streams):
            stream.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def check_usable(self) -> asyncio.AbstractEventLoop:
        """Return the stack's loop, which must be the running one.

        Raises:
            ClosedError: The stack is not open.
            WrongLoopError: The stack belongs to another event loop.
        """
        loop = self._parts().manager.loop
        if asyncio.get_running_loop() is not loop:
            raise WrongLoopError(str(self))
        return loop

    def _parts(self) -> Running:
        if self._running is None:
            raise ClosedError(str(self), hint=self._state.value)
        return self._running

    def _notify(self, event: Event) -> None:
        for stream in self._event_streams:
            stream.push(event)

    # Addresses and routes

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
        parsed = parse_ip(address)
        if parsed.version == 6 and dev in self.interfaces:
            await _iproute.add_link_local(self.netlink, dev)
        await _iproute.change_address(self.netlink, "add", parsed, dev)

    async def del_address(self, address: str | IPInterface, *, dev: str) -> None:
        """Do ``ip address del ADDRESS dev DEV``.

        Raises:
            NetlinkError: The kernel refused: EADDRNOTAVAIL, ENODEV.
            ConfigurationError: It is no address with a prefix length.
        """
        self.check_usable()
        await _iproute.change_address(self.netlink, "del", parse_ip(address), dev)

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
        await _iproute.change_route(self.netlink, "add", destination, via, dev)

    async def del_route(
        self, destination: str, *, via: str | None = None, dev: str | None = None
    ) -> None:
        """Do ``ip route del DESTINATION via VIA dev DEV``; see `add_route`.

        Raises:
            NetlinkError: The kernel refused: ESRCH, ENODEV.
            ConfigurationError: The destination is no network.
        """
        self.check_usable()
        await _iproute.change_route(self.netlink, "del", destination, via, dev)

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
        await self._parts().sysctl(name, value)

    # Sockets

    def socket(
        self,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,  # noqa: A002  (as socket.socket)
        proto: int = 0,
    ) -> socket.socket:
        """Open a socket in the stack, as `socket.socket` does in the host's.

        Any family and type: TCP, UDP, raw, packet, netlink. One short round trip to the
        keeper, some tens of microseconds; never waits for a network. Callable from any
        thread.

        Returns:
            A real, non-blocking socket, the caller's to close.

        Raises:
            OSError: As `socket.socket` raises it.
            ClosedError: The stack is not open.
        """
        return self._parts().space.socket(family, type, proto)

    async def getaddrinfo(
        self,
        host: str | bytes | None,
        port: int | str | None,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002  (as the loop's getaddrinfo)
        proto: int = 0,
        flags: int = 0,
    ) -> list[_names.AddressInfo]:
        """Return socket addresses, as the loop's `getaddrinfo` does.

        The host's resolver is never asked: literal addresses and ``localhost`` so far.

        Raises:
            socket.gaierror: The host is a name, or the service is unknown.
            ClosedError: The stack is not open.
        """
        number = self.netlink.fileno()
        return _names.resolve(
            host,
            port,
            family=family,
            type=type,
            proto=proto,
            flags=flags,
            interface_index=lambda name: netdevice.interface_index(number, name),
        )

    async def open_connection(
        self,
        host: str | None = None,
        port: int | str | None = None,
        *,
        limit: int = streams.LIMIT,
        **kwds: Any,
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect from this stack; see `aioioth.open_connection`."""
        return await streams.open_connection(
            host, port, stack=self, limit=limit, **kwds
        )

    async def start_server(
        self,
        client_connected_cb: Callable[
            [asyncio.StreamReader, asyncio.StreamWriter], Any
        ],
        host: str | Sequence[str] | None = None,
        port: int | str | None = None,
        *,
        limit: int = streams.LIMIT,
        **kwds: Any,
    ) -> asyncio.Server:
        """Serve on this stack; see `aioioth.start_server`."""
        return await streams.start_server(
            client_connected_cb, host, port, stack=self, limit=limit, **kwds
        )

    async def create_connection(
        self,
        protocol_factory: Callable[[], _ProtocolT],
        host: str | bytes | None = None,
        port: int | str | None = None,
        **kwds: Any,
    ) -> tuple[asyncio.Transport, _ProtocolT]:
        """Connect from this stack; see `asyncio.loop.create_connection`."""
        return await endpoints.create_connection(
            self, protocol_factory, host, port, **kwds
        )

    async def create_server(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | Sequence[str] | None = None,
        port: int | str | None = None,
        **kwds: Any,
    ) -> asyncio.Server:
        """Serve on this stack; see `asyncio.loop.create_server`."""
        return await endpoints.create_server(self, protocol_factory, host, port, **kwds)
