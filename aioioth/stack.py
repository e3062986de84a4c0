"""A TCP/IP stack that the program owns."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import itertools
import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import Self, override

from aioioth import _names, _settings, endpoints, streams
from aioioth._device import PacketDevice, TapDevice
from aioioth._link import Link
from aioioth._linux import netdevice
from aioioth._manager import Manager, calling_place, running_manager
from aioioth._namespace import Namespace
from aioioth._plugins import load_kind
from aioioth._preflight import TUN
from aioioth._sockets import SocketInfo, describe
from aioioth.errors import (
    BusyError,
    ClosedError,
    ConfigurationError,
    MissingPrivilegeError,
    NetlinkError,
    WrongLoopError,
)
from aioioth.events import Event, EventStream
from aioioth.interfaces import Interface, InterfaceStats

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from types import TracebackType

    from aioioth._device import Device
    from aioioth._settings import Gateway, InterfaceSettings, IPAddress, IPInterface
    from aioioth.abc import FrameTransport, Plug, Space
    from aioioth.netlink import Netlink

    Addresses = str | IPInterface | Sequence[str | IPInterface]

__all__ = ["SocketInfo", "Stack"]

_ProtocolT = TypeVar("_ProtocolT", bound=asyncio.BaseProtocol)

_DEVICES = (None, "tap", "packet")

# <linux/if_addr.h>, Linux 6.1
_IFA_F_NODAD = 0x02

_numbers = itertools.count(1)


class Stack:
    """A TCP/IP stack of its own: interfaces, addresses, routes, ports.

    Use it as ``async with Stack("vde:///tmp/sw", ip="10.0.0.50/24") as stack:``, or call
    `open` and `aclose`. It belongs to the event loop that it was opened on; `socket` may
    be called from any thread. ``lo`` is always there and up.

    Args:
        vnls: The virtual networks, one interface for each, called ``vde0``, ``vde1``, ...
            or as a name in front says: ``"eth1:vde:///tmp/sw"``. Also a `Switch`.
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
        UnknownSchemeError: A VNL's scheme is not known; the message names those that are.
    """

    def __init__(  # noqa: PLR0913  (each says one thing about the stack)
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
        self._settings = _settings.interface_settings(vnls, ip=ip, mtu=mtu, mac=mac)
        self._gateways = _settings.gateways(gw, self._settings)
        if device not in _DEVICES:
            msg = f"device={device!r}: must be 'tap', 'packet' or None"
            raise ConfigurationError(msg)
        self._device = device
        self._place = calling_place()
        self._state = "not open: use 'async with', or open() it"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._manager: Manager | None = None
        self._space: Space | None = None
        self._netlink: Netlink | None = None
        self._links: list[Link] = []
        self._interfaces: dict[str, Interface] = {}
        self._event_streams: list[EventStream] = []
        self._undo = ExitStack()

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
    def interfaces(self) -> Mapping[str, Interface]:
        """Its interfaces by name, ``lo`` not counted; empty when not open."""
        return dict(self._interfaces)

    @property
    def netlink(self) -> Netlink:
        """pyroute2's `AsyncIPRoute`, bound to this stack.

        Raises:
            ClosedError: The stack is not open.
        """
        if self._netlink is None:
            raise ClosedError(str(self), hint=self._state)
        return self._netlink

    def stats(self) -> dict[str, InterfaceStats]:
        """Return what went through each interface so far."""
        return {name: each.stats for name, each in self._interfaces.items()}

    def sockets(self) -> list[SocketInfo]:
        """Return the sockets of this process that are open in the stack.

        However they came to be: made, accepted, or opened by a library in C.

        Raises:
            ClosedError: The stack is not open.
        """
        own = {self.netlink.fileno()}
        descriptors = self._opened().sockets()
        return [describe(number) for number in descriptors if number not in own]

    def events(self) -> EventStream:
        """Return what happens from now on, as an asynchronous iterator.

        Raises:
            ClosedError: The stack is not open.
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
        networks = ", ".join(each.vnl for each in self._settings if each.transport)
        return f"<Stack {self._name!r} {networks or 'without interfaces'}>"

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
            Safe anywhere. Nothing is left behind.
        """
        if self._space is not None or self._loop is not None:
            raise BusyError(f"{self} is open already")
        if self._state == "closed":
            raise ClosedError(str(self))
        self._loop = asyncio.get_running_loop()
        # Everything is undone by the ExitStack, synchronously and in reverse, so no
        # cancellation can interrupt it.
        try:
            with ExitStack() as self._undo:
                await self._open()
                self._undo = self._undo.pop_all()
        except BaseException:
            self._forget()
            raise
        self._state = "open"
        self._manager = await running_manager()
        self._manager.add(self, self._place)
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
        if self._space is None:
            self.close()
            return
        self.check_usable()
        if strict and (users := self.sockets()):
            message = f"{self} has open sockets; close them, or aclose(strict=False)"
            raise BusyError(message, [str(user) for user in users])
        try:
            # Connections closed a moment ago say goodbye in the loop's next turn.
            await asyncio.sleep(0)
            for link in self._links:
                link.flush()
        finally:
            self.close()

    def close(self) -> None:
        """Let everything go at once. Idempotent, never waits, never raises.

        `aclose` is better: it lets the last frames go first.
        """
        self._state = "closed"
        if self._manager is not None:
            self._manager.discard(self)
        self._undo.close()
        self._forget()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _open(self) -> None:
        undo = self._undo
        networks: list[tuple[InterfaceSettings, Plug]] = []
        # The networks first: what is wrong there is found before anything is made.
        for settings in self._settings:
            if settings.transport is not None:
                plug = await settings.transport.open(f"aioioth {self._name}")
                undo.callback(plug.close)
                settings.mtu_on(plug)
                networks.append((settings, plug))
        manager = await running_manager()
        self._space = space = await self._kind(str(self))
        undo.callback(space.close)
        # Not at the top: pyroute2 takes longer to import than all the rest.
        from aioioth.netlink import Netlink  # noqa: PLC0415

        self._netlink = Netlink(space)
        undo.callback(self._netlink.close)
        undo.callback(self._close_event_streams)
        if networks and not isinstance(space, Namespace):
            msg = f"a stack of kind {self.kind!r} has its own interfaces: leave out VNLs"
            raise ConfigurationError(msg)
        for settings, plug in networks:
            await self._add_link(settings, plug, manager)
        for settings in self._settings:
            await self._configure(settings)
        for gateway in self._gateways:
            await self._add_default_route(gateway)

    async def _add_link(
        self, settings: InterfaceSettings, plug: Plug, manager: Manager
    ) -> None:
        assert settings.transport is not None
        device = await self._make_device(settings.name)
        self._undo.callback(device.close)
        link = Link(
            settings.name,
            f"aioioth {self._name}",
            device,
            settings.transport,
            plug,
            manager.buffer,
            self._notify,
        )
        self._undo.callback(link.close)
        self._links.append(link)
        name, netlink = settings.name, self.netlink
        self._interfaces[name] = Interface(name, settings.vnl, link, netlink)
        attributes: dict[str, Any] = {"mtu": settings.mtu_on(plug)}
        if settings.mac is not None:
            attributes["address"] = settings.mac
        await self._set_link(name, **attributes)

    async def _make_device(self, name: str) -> Device:
        space = self._space
        assert isinstance(space, Namespace)
        if self._device != "packet":
            try:
                return await TapDevice.make(space, name)
            except MissingPrivilegeError as error:
                if self._device == "tap" or error.action != TUN:
                    raise
        return await PacketDevice.make(space, name, self.netlink)

    async def _configure(self, settings: InterfaceSettings) -> None:
        name = settings.name
        if settings.transport is None and settings.mtu is not None:
            await self._set_link(name, mtu=settings.mtu)
        if any(address.version == 6 for address in settings.addresses):
            await self._link_local(name)
        if settings.transport is not None:
            await self._set_link(name, state="up")
        for address in settings.addresses:
            await self.add_address(address, dev=name)

    async def _set_link(self, name: str, **attributes: Any) -> None:
        words = " ".join(f"{key} {value}" for key, value in attributes.items())
        index = netdevice.interface_index(self.netlink.fileno(), name)
        with self.netlink.translated(f"ip link set {name} {words}"):
            await self.netlink.link("set", index=index, **attributes)

    async def _link_local(self, name: str) -> None:
        """Give the interface its link-local address; see `_kinds._SYSCTLS`."""
        if isinstance(self._space, Namespace):
            await self._space.sysctl(f"net/ipv6/conf/{name}/addr_gen_mode", 0)

    def _forget(self) -> None:
        self._loop = self._manager = self._space = self._netlink = None
        self._links = []
        self._interfaces = {}

    def _notify(self, event: Event) -> None:
        for stream in self._event_streams:
            stream.push(event)

    def _close_event_streams(self) -> None:
        for stream in list(self._event_streams):
            stream.close()

    # Addresses and routes

    async def add_address(self, address: str | IPInterface, dev: str) -> None:
        """Do ``ip address add ADDRESS dev DEV``.

        An IPv6 address is usable at once: nobody else is asked whether he has it.

        Args:
            address: With prefix length: ``10.0.0.1/24``, ``fd00::1/64``.
            dev: Name of the interface.

        Raises:
            NetlinkError: The kernel refused: EEXIST, ENODEV.
            ConfigurationError: It is no address with a prefix length.
        """
        await self._address("add", _settings.parse_ip(address), dev)

    async def del_address(self, address: str | IPInterface, dev: str) -> None:
        """Do ``ip address del ADDRESS dev DEV``.

        Raises:
            NetlinkError: The kernel refused: EADDRNOTAVAIL, ENODEV.
            ConfigurationError: It is no address with a prefix length.
        """
        await self._address("del", _settings.parse_ip(address), dev)

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
        await self._route("add", destination, via, dev)

    async def del_route(
        self, destination: str, *, via: str | None = None, dev: str | None = None
    ) -> None:
        """Do ``ip route del DESTINATION via VIA dev DEV``; see `add_route`.

        Raises:
            NetlinkError: The kernel refused: ESRCH, ENODEV.
            ConfigurationError: The destination is no network.
        """
        await self._route("del", destination, via, dev)

    async def _address(self, command: str, address: IPInterface, dev: str) -> None:
        self.check_usable()
        request = f"ip address {command} {address} dev {dev}"
        index = self._index(dev, request)
        attributes: dict[str, Any] = {
            "address": str(address.ip),
            "prefixlen": address.network.prefixlen,
        }
        if address.version == 6:
            attributes["flags"] = _IFA_F_NODAD
        elif address.network.prefixlen < 31:
            attributes["broadcast"] = str(address.network.broadcast_address)
        with self.netlink.translated(request):
            await self.netlink.addr(command, index=index, **attributes)

    async def _route(
        self, command: str, destination: str, via: str | None, dev: str | None
    ) -> None:
        self.check_usable()
        try:
            network = ipaddress.ip_network(destination)
        except ValueError as error:
            msg = f"destination {destination!r} is no network: {error}"
            raise ConfigurationError(msg) from None
        request = f"ip route {command} {network}"
        attributes: dict[str, Any] = {"dst": str(network)}
        if via is not None:
            request += f" via {via}"
            attributes["gateway"] = via
        if dev is not None:
            request += f" dev {dev}"
            attributes["oif"] = self._index(dev, request)
        with self.netlink.translated(request):
            await self.netlink.route(command, **attributes)

    async def _add_default_route(self, gateway: Gateway) -> None:
        everything = "0.0.0.0/0" if gateway.address.version == 4 else "::/0"
        await self._route("add", everything, str(gateway.address), gateway.interface)

    def _index(self, dev: str, request: str) -> int:
        with _device_errors(request):
            return netdevice.interface_index(self.netlink.fileno(), dev)

    # Sockets

    def check_usable(self) -> asyncio.AbstractEventLoop:
        """Return the stack's loop, which must be the running one.

        Raises:
            ClosedError: The stack is not open.
            WrongLoopError: The stack belongs to another event loop.
        """
        if self._loop is None or self._space is None:
            raise ClosedError(str(self), hint=self._state)
        if asyncio.get_running_loop() is not self._loop:
            raise WrongLoopError(str(self))
        return self._loop

    def _opened(self) -> Space:
        if self._space is None:
            raise ClosedError(str(self), hint=self._state)
        return self._space

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
        return self._opened().socket(family, type, proto)

    async def resolve(  # noqa: PLR0913  (as the loop's getaddrinfo)
        self,
        host: str | bytes | None,
        port: int | str | None,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002  (as the loop's getaddrinfo)
        proto: int = 0,
        flags: int = 0,
    ) -> list[_names.AddressInfo]:
        """Return socket addresses; literal ones and ``localhost`` so far.

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
        client_connected_cb: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any],
        host: str | Sequence[str] | None = None,
        port: int | str | None = None,
        *,
        limit: int = streams.LIMIT,
        **kwds: Any,
    ) -> asyncio.AbstractServer:
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
    ) -> asyncio.AbstractServer:
        """Serve on this stack; see `asyncio.loop.create_server`."""
        return await endpoints.create_server(self, protocol_factory, host, port, **kwds)


@contextmanager
def _device_errors(request: str) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise NetlinkError(error.errno or errno.ENODEV, request) from error
