"""What an open stack consists of, and how it comes to be."""

from __future__ import annotations

import asyncio
import logging
import weakref
from contextlib import ExitStack
from typing import TYPE_CHECKING

from aioioth import _iproute
from aioioth._attached import RemoteLink
from aioioth._device import PacketDevice, TapDevice
from aioioth._fork import forget_in_children
from aioioth._link import Link
from aioioth._namespace import Namespace
from aioioth._preflight import TUN
from aioioth._sharing import Sharing
from aioioth.errors import ConfigurationError, MissingPrivilegeError
from aioioth.interfaces import Interface

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioioth._device import Device
    from aioioth._manager import Manager
    from aioioth._settings import InterfaceSettings, Settings
    from aioioth._sharing import Description, Shared
    from aioioth.abc import Plug, Space, StackKind
    from aioioth.events import Event
    from aioioth.netlink import Netlink

_log = logging.getLogger("aioioth")

# A switch takes microseconds for what a send buffer holds.
_DRAIN_SECONDS = 0.2


class Running:
    """The parts of one open stack.

    Attributes:
        manager: Owner of the stack, one for each event loop.
        space: Where its sockets are made.
        netlink: Its netlink.
        interfaces: What users see, by name.
        inherited: Whether this is a forked child's copy: the parent owns everything but
            the space.
    """

    def __init__(self, manager: Manager, space: Space, netlink: Netlink) -> None:
        self.manager = manager
        self.space = space
        self.netlink = netlink
        self.interfaces: dict[str, Interface] = {}
        self.inherited = False
        self._links: list[Link] = []
        self._sharing: Sharing | None = None
        self._undo = ExitStack()
        forget_in_children(self)

    @classmethod
    async def open(
        cls,
        settings: Settings,
        kind: StackKind,
        label: str,
        manager: Manager,
        notify: Callable[[Event], None],
    ) -> Running:
        """Plug into the networks, make the stack, configure it; see `Stack.open`."""
        # Everything is undone by the ExitStack, synchronously and in reverse, so that
        # no cancellation can come in between.
        with ExitStack() as undo:
            plugs: list[Plug] = []
            # The networks first: what is wrong there is found before anything is made.
            for wanted in settings.interfaces:
                plug = await wanted.transport.open(label)
                undo.callback(plug.close)
                wanted.mtu_on(plug)
                plugs.append(plug)
            space = await kind(label)
            undo.callback(space.close)
            # Not at the top: pyroute2 takes longer to import than all the rest.
            from aioioth.netlink import Netlink

            netlink = Netlink(space)
            undo.callback(netlink.close)
            if settings.interfaces and not isinstance(space, Namespace):
                msg = f"{label}: its kind has interfaces of its own, leave out VNLs"
                raise ConfigurationError(msg)
            running = cls(manager, space, netlink)
            for wanted, plug in zip(settings.interfaces, plugs, strict=True):
                device = await running._make_device(wanted.name, settings.device)
                undo.callback(device.close)
                link = Link(
                    wanted.name,
                    label,
                    device,
                    wanted.transport,
                    plug,
                    manager.buffer,
                    notify,
                )
                undo.callback(link.close)
                running._links.append(link)
                running.interfaces[wanted.name] = Interface(
                    wanted.name, wanted.vnl, link, netlink
                )
                await running._set_up(wanted, plug)
            await running._address(settings)
            running._undo = undo.pop_all()
        return running

    @classmethod
    async def attach(cls, shared: Shared, label: str, manager: Manager) -> Running:
        """Use a stack of another process; see `Stack.attach`."""
        with ExitStack() as undo:
            space = await manager.attach(
                label, shared.namespace, shared.user_namespace, undo
            )
            from aioioth.netlink import Netlink

            netlink = Netlink(space)
            undo.callback(netlink.close)
            running = cls(manager, space, netlink)
            for each in shared.description.interfaces:
                running.interfaces[each.name] = Interface(
                    each.name, each.vnl, RemoteLink(each, space), netlink
                )
            running._undo = undo.pop_all()
        return running

    def share(self, describe: Callable[[], Description]) -> str:
        """Start giving the stack to other processes; see `Stack.share`."""
        if not isinstance(self.space, Namespace):
            msg = "this kind of stack has no namespace of its own that could be shared"
            raise ConfigurationError(msg)
        if self._sharing is None:
            self._sharing = Sharing(self.space, describe)
            self._undo.callback(self._sharing.close)
        return self._sharing.address

    async def drain(self) -> None:
        """Let the last frames go: what the interfaces have queued is sent and taken.

        A vde_switch that finds its client gone throws away what it has not read. One
        that does not read is not waited for long.
        """
        if self.inherited:
            return  # the frames are the parent's
        # Connections closed a moment ago say goodbye in the loop's next turn.
        await asyncio.sleep(0)
        for link in self._links:
            link.flush()
        deadline = self.manager.loop.time() + _DRAIN_SECONDS
        while any(link.unsent() for link in self._links):
            if self.manager.loop.time() > deadline:
                return
            await asyncio.sleep(0.001)

    def close(self) -> None:
        """Let everything go at once. Idempotent, never waits, never raises."""
        self._undo.close()

    def forget_in_child(self) -> None:
        """Keep the space alone after a fork: what opens sockets goes on working.

        It is closed with the stack, or when nobody uses that any more, or in the end;
        without a warning, since it is the parent that shall close the stack.
        """
        self.inherited = True
        self._undo.pop_all()
        self._undo.callback(self.space.close)
        weakref.finalize(self, self.space.close)

    async def _make_device(self, name: str, forced: str | None) -> Device:
        assert isinstance(self.space, Namespace)
        if forced != "packet":
            try:
                return await TapDevice.make(self.space, name)
            except MissingPrivilegeError as error:
                if forced == "tap" or error.action != TUN:
                    raise
                _log.info(
                    "%s: a packet socket serves instead of a TAP: %s", name, error
                )
        return await PacketDevice.make(self.space, name, self.netlink)

    async def _set_up(self, wanted: InterfaceSettings, plug: Plug) -> None:
        attributes: dict[str, object] = {"mtu": wanted.mtu_on(plug)}
        if wanted.mac is not None:
            attributes["address"] = wanted.mac
        await _iproute.set_link(self.netlink, wanted.name, **attributes, state="up")
        if wanted.ipv6:
            await _iproute.add_link_local(self.netlink, wanted.name)

    async def _address(self, settings: Settings) -> None:
        for name, address in settings.addresses:
            await _iproute.change_address(self.netlink, "add", address, name)
        for gateway in settings.gateways:
            everything = "0.0.0.0/0" if gateway.address.version == 4 else "::/0"
            await _iproute.change_route(
                self.netlink, "add", everything, str(gateway.address), gateway.interface
            )

    async def sysctl(self, name: str, value: str | int) -> None:
        """Write a sysctl; see `Stack.sysctl`."""
        if not isinstance(self.space, Namespace):
            msg = "this kind of stack has no sysctls of its own"
            raise ConfigurationError(msg)
        path = name if "/" in name else name.replace(".", "/")
        if not path.startswith("net/") or ".." in path or "\n" in f"{path}{value}":
            msg = f"{name!r} is no sysctl of a stack: they begin with 'net.'"
            raise ConfigurationError(msg)
        await self.space.sysctl(path, value)
