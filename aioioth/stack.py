"""A TCP/IP stack that the program owns."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import socket
from typing import TYPE_CHECKING, Any, ClassVar, Self

from typing_extensions import override

from aioioth import _configstring, _sharing
from aioioth._autoconf import wanted
from aioioth._background import carried, carried_call
from aioioth._calls import StackCalls
from aioioth._configuring import StackConfiguring
from aioioth._namespace import Namespace
from aioioth._owned import Owned
from aioioth._plugins import load_kind
from aioioth._running import Running
from aioioth._selfconfiguring import TIMEOUT, StackSelfConfiguring
from aioioth._settings import Settings
from aioioth._sockets import SocketInfo, describe
from aioioth.errors import BusyError, ConfigurationError, UnclosedStackWarning
from aioioth.events import CarrierUp
from aioioth.hashes import hash_mac
from aioioth.names import Resolver

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from aioioth._autoconf.sources import Sources
    from aioioth._ip import IPAddress, IPInterface
    from aioioth._manager import Manager
    from aioioth.abc import FrameTransport
    from aioioth.events import Event
    from aioioth.interfaces import Interface, InterfaceStats
    from aioioth.names import HostAddresses, Hosts
    from aioioth.netlink import Netlink

    Addresses = str | IPInterface | Sequence[str | IPInterface]

__all__ = ["SocketInfo", "Stack"]

_numbers = itertools.count(1)


class Stack(Owned[Running], StackConfiguring, StackSelfConfiguring, StackCalls):
    """A TCP/IP stack of its own: interfaces, addresses, routes, ports.

    Use it as ``async with Stack("vde:///tmp/sw", ip="10.0.0.50/24") as stack:``, or
    call `open` and `aclose`. It is configured on the event loop that it was opened on;
    what opens sockets may be called from any thread and loop, and from children made
    by `os.fork`. ``lo`` is always there and up.

    Args:
        vnls: The virtual networks, one interface for each, called ``vde0``, ``vde1``,
            ... or as a name in front says: ``"eth1:vde:///tmp/sw"``. Also a `Switch`.
        kind: ``netns`` (also ``vdestack``), ``kernel`` for the host's own stack, or
            what a plug-in registers.
        name: Shown in messages and by switches; also told to DHCP servers, if there is
            no fqdn, and it can be a host's.
        ip: Addresses with prefix length, for the first interface; or a mapping from
            interfaces to addresses.
        gw: Default gateways; a link-local one as ``fe80::1%vde0``.
        mtu: For all interfaces, in bytes, Ethernet header not counted; or a mapping.
            None: 1500, or less if the network carries less.
        mac: For the first interface; or a mapping. None: the kernel makes one up.
        dns: Addresses of DNS servers to ask, from within the stack. None: names that
            are not in `hosts` are not found.
        domain: Where names are searched first that have no dot in them.
        hosts: Names and their addresses; a `Hosts` may be shared between stacks.
        dhcp: Lease an IPv4 address for the first interface from a DHCP server on its
            network; or names of interfaces. `open` waits for it, and the lease is
            renewed in the background; see `configure`.
        dhcp6: Ask for IPv6 addresses and DNS servers, likewise.
        ra: Do what router advertisements say: IPv6 addresses, default routes, DNS
            servers; likewise.
        fqdn: The stack's name in the network: DHCP servers are told, and the first
            interface's MAC address, and its address in a router's network, are made of
            it; see `aioioth.hashes`.
        timeout: Seconds that `open` waits for the answers to dhcp, dhcp6 and ra. 0: not
            at all; they are dealt with whenever they come.
        device: ``tap`` or ``packet`` for the way frames take; None: a TAP where
            /dev/net/tun opens, otherwise a packet socket behind a veth pair.
        pump_thread: Move its frames in a thread of aioioth's, so that they do not wait
            while the program's event loop is busy. There is one thread for all such
            stacks and cables. They may be configured and closed from any event loop.

    Raises:
        ConfigurationError: An argument cannot be right.
        UnknownSchemeError: A VNL's scheme is not known; the message names the known.
    """

    _unclosed: ClassVar[type[Warning]] = UnclosedStackWarning

    def __init__(  # noqa: PLR0913  (one keyword for each thing that can be chosen)
        self,
        *vnls: str | FrameTransport,
        kind: str = "netns",
        name: str | None = None,
        ip: Addresses | Mapping[str, Addresses] = (),
        gw: str | IPAddress | Sequence[str | IPAddress] = (),
        mtu: int | Mapping[str, int] | None = None,
        mac: str | Mapping[str, str] | None = None,
        dns: str | IPAddress | Sequence[str | IPAddress] = (),
        domain: str | Sequence[str] = (),
        hosts: Hosts | Mapping[str, HostAddresses] | None = None,
        dhcp: bool | str | Sequence[str] = False,
        dhcp6: bool | str | Sequence[str] = False,
        ra: bool | str | Sequence[str] = False,
        fqdn: str | None = None,
        timeout: float = TIMEOUT,
        device: str | None = None,
        pump_thread: bool = False,
    ) -> None:
        super().__init__(
            name if name is not None else f"stack{next(_numbers)}",
            pump_thread=pump_thread,
        )
        self._kind_name = kind
        self._kind = load_kind(kind)
        if fqdn is not None:
            fqdn = wanted.check_fqdn(fqdn)
            mac = hash_mac(fqdn) if mac is None and vnls else mac
        self._settings = Settings.check(
            vnls, ip=ip, gw=gw, mtu=mtu, mac=mac, device=device
        )
        self._names = Resolver(hosts, dns, domain, open_socket=self.socket)
        self._wanted = wanted.at_open(
            [each.name for each in self._settings.interfaces],
            dhcp=dhcp,
            dhcp6=dhcp6,
            ra=ra,
        )
        self._fqdn = fqdn
        self._is_named = name is not None
        self._timeout = wanted.check_timeout(timeout)
        self._shared_at: str | None = None
        self._owners_name = False

    @classmethod
    def from_config(
        cls, text: str, /, *vnls: str | FrameTransport, **options: Any
    ) -> Self:
        """Return the stack that a configuration string describes, not open yet.

        ``Stack.from_config("vnl=vde:///tmp/sw,eth,ip=10.0.0.1/24")``. Opening it waits
        for what is to come from the network, up to ``timeout`` seconds.

        Args:
            text: See the reference, "The configuration string".
            *vnls: Networks, in place of ``vnl=`` in the text.
            **options: Further arguments of `Stack`: ``name="web"``.

        Raises:
            ConfigStringError: The text makes no sense; the message shows where.
            ConfigurationError: An argument cannot be right.
        """
        parsed = _configstring.parse(text)
        if parsed.vnl is not None:
            if vnls:
                msg = f"either vnl={parsed.vnl} in the text, or VNLs as arguments"
                raise ConfigurationError(msg)
            vnls = (parsed.vnl,)
        if parsed.stack is not None:
            options.setdefault("kind", parsed.stack)
        stack = cls(*vnls, **options)
        stack._wanted += (parsed.wanted,)
        return stack

    @classmethod
    def from_toml(cls, source: str | os.PathLike[str], /, **options: Any) -> Self:
        """Return the stack that a TOML text describes, not open yet.

        Args:
            source: The text; or a `pathlib.Path`, which is read. See the reference,
                "The configuration string".
            **options: Arguments of `Stack` that are not in it: ``hosts=table``.

        Raises:
            ConfigurationError: It is no TOML, or something in it cannot be right.
            OSError: The file cannot be read.
        """
        # Not at the top: few programs have any.
        from aioioth import _configtoml

        known = inspect.signature(cls).parameters.keys() - {"vnls"}
        described = _configtoml.parse(source, known)
        stack = cls(*described.vnls, **described.options, **options)
        stack._wanted += described.wanted
        return stack

    # What it is

    @property
    def kind(self) -> str:
        """How it is made: ``netns``, ``kernel``, or a plug-in's name."""
        return self._kind_name

    @property
    def interfaces(self) -> Mapping[str, Interface]:
        """Its interfaces by name, ``lo`` not counted.

        Raises:
            ClosedError: The stack is not open.
        """
        return dict(self._own_parts().interfaces)

    @property
    def netlink(self) -> Netlink:
        """pyroute2's `AsyncIPRoute`, bound to this stack.

        Raises:
            ClosedError: The stack is not open.
            ConfigurationError: The stack lives in a thread, where pyroute2 cannot be
                reached; the message says what to do.
        """
        parts = self._own_parts()
        if self._in_thread:
            msg = (
                f"{self} lives in the pump thread, and its netlink would too: use the "
                f"stack's own methods, or attach to it, 'async with "
                f"Stack.attach(stack.share()) as here', for here.netlink"
            )
            raise ConfigurationError(msg)
        return parts.netlink

    @property
    def namespace(self) -> int | None:
        """Descriptor of its network namespace, for setns(2) and ``nsenter``.

        It stays the stack's. None for the host's own stack.

        Raises:
            ClosedError: The stack is not open.
        """
        space = self._parts().space
        return space.fileno() if isinstance(space, Namespace) else None

    def stats(self) -> dict[str, InterfaceStats]:
        """Return what went through each interface so far.

        Raises:
            ClosedError: The stack is not open.
        """
        interfaces = self._own_parts().interfaces
        return {name: each.stats for name, each in interfaces.items()}

    def sockets(self) -> list[SocketInfo]:
        """Return the sockets of this process that are open in the stack.

        However they came to be: made, accepted, or opened by a library in C.

        Raises:
            ClosedError: The stack is not open.
        """
        parts = self._parts()
        own = parts.own_sockets
        found = (describe(fd) for fd in parts.space.sockets() if fd not in own)
        return [info for info in found if info is not None]

    @override
    def __str__(self) -> str:
        return f"stack {self._name!r}"

    @override
    def __repr__(self) -> str:
        running = self._running
        interfaces = (
            self._settings.interfaces
            if running is None
            else running.interfaces.values()
        )
        networks = ", ".join(each.vnl for each in interfaces)
        on = f"on {networks}" if networks else "without a network"
        if self._shared_at is not None:
            on = f"of {self._shared_at}"
        return f"<Stack {self._name!r} {on}, {self._state.name.lower()}>"

    # Opening and closing

    @override
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
        return await self._open()

    @override
    @carried
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
        await self._aclose(self._refuse_sockets if strict else None)

    @override
    def check_open(self) -> Self:
        """Return the stack itself if it is open.

        Raises:
            ClosedError: The stack is not open.
        """
        self._parts()
        return self

    @override
    async def _start(self, manager: Manager) -> Running:
        label = f"aioioth {self._name}"
        if self._shared_at is None:
            running = await Running.open(
                self._settings, self._kind, label, manager, self._notify
            )
            if self._wanted:
                await self._configure_new(running)
            return running
        with contextlib.closing(await _sharing.fetch(self._shared_at)) as shared:
            running = await Running.attach(shared, label, manager)
        told = shared.description
        if self._owners_name:
            self._name = told.name
        self._kind_name = told.kind
        self._names = Resolver(
            told.hosts, told.dns, told.domain, open_socket=self.socket
        )
        return running

    async def _configure_new(self, running: Running) -> None:
        try:
            sources = self._sources_of(running)
            await sources.configure_all(self._wanted, self._timeout)
        except BaseException as error:
            try:
                if isinstance(error, Exception):  # and not cancelled
                    await running.drain()  # who gave us a lease gets it back
            finally:
                running.close()
                self._names.learn((), ())
            raise

    @override
    def _notify(self, event: Event) -> None:
        super()._notify(event)
        sources = None if self._running is None else self._running.sources
        if isinstance(event, CarrierUp) and sources is not None:
            sources.refresh(event.interface)

    @override
    def _sources(self) -> Sources:
        return self._sources_of(self._own_parts())

    def _sources_of(self, parts: Running) -> Sources:
        if parts.sources is None:
            # Not at the top: most stacks are told what they are by their program.
            from aioioth._autoconf.sources import Sources

            parts.sources = Sources(
                str(self),
                space=parts.space,
                own=parts.interfaces,
                monitor=parts.monitor,
                resolver=self._names,
                notify=self._notify,
            )
            hostname = wanted.hostname(self._name) if self._is_named else None
            parts.sources.introduce(self._fqdn, hostname)
            for dev, items in wanted.given(self._settings):
                parts.sources.take_over(dev, items)
        return parts.sources

    def _refuse_sockets(self) -> None:
        if users := self.sockets():
            message = f"{self} has open sockets; close them, or aclose() without strict"
            raise BusyError(message, [str(user) for user in users])

    # Shared between processes

    @carried_call
    def share(self) -> str:
        """Let other processes of this user use the stack; see `attach`.

        They get the network namespace itself: what they open is in the same stack. The
        interfaces stay here, and have no network once this stack is closed.

        Returns:
            The address to give to `attach`, ``@aioioth/...``, printable and without
            spaces; the same one each time. Nobody else than this user, and root, is
            let in. It is good as long as the stack is open, and only for processes in
            the same network namespace of the host.

        Raises:
            ConfigurationError: The stack has no namespace of its own (``kernel``).
            ClosedError: The stack is not open.
            WrongLoopError: The stack belongs to another event loop.
        """
        self.check_usable()
        return self._parts().share(self._describe)

    @classmethod
    def attach(cls, address: str, name: str | None = None) -> Self:
        """Return the stack that another process shares, not open yet.

        ``async with aioioth.Stack.attach(sys.argv[1]) as stack:``. Everything works as
        in the process that made it, on sockets and settings of this process; `hosts`
        and the DNS servers are the owner's as they are at the time of opening. What
        went through its interfaces is told by the kernel. Closing it lets go, here.

        Both processes must be the same user's, and in the same network namespace of the
        host. A process that attaches has one keeper more for each user namespace that
        it is let into. Opening it raises, besides what `open` names:

        * `BrokenTransportError`, if the stack is not shared (any more), or not with us
        * `HandshakeTimeoutError`, if the owner does not answer within 10 s

        Args:
            address: What `share` returned.
            name: Shown in messages. None: the owner's name for it.

        Raises:
            ConfigurationError: ``address`` cannot be right.
        """
        address = _sharing.check_address(address)
        stack = cls(name=address if name is None else name)
        stack._shared_at = address
        stack._owners_name = name is None
        return stack

    def _describe(self) -> _sharing.Description:
        return _sharing.Description(
            name=self._name,
            kind=self._kind_name,
            interfaces=tuple(
                _sharing.SharedInterface(each.name, each.vnl, each.device)
                for each in self.interfaces.values()
            ),
            hosts=_sharing.plain_hosts(self.hosts),
            dns=tuple(map(str, self._names.servers)),
            domain=self._names.domains,
        )

    # Sockets

    @override
    def socket(
        self,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,
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
