"""What an open stack consists of, and how it comes to be."""

from __future__ import annotations

import weakref
from contextlib import ExitStack
from typing import TYPE_CHECKING

from aioioth import _iproute
from aioioth._attached import RemoteLink
from aioioth._drain import drain
from aioioth._fork import forget_in_children
from aioioth._namespace import Namespace
from aioioth._sharing import Sharing
from aioioth._wiring import Wiring
from aioioth.errors import ConfigurationError
from aioioth.interfaces import Interface

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aioioth._manager import Manager
    from aioioth._settings import Settings
    from aioioth._sharing import Description, Shared
    from aioioth.abc import Plug, Space, StackKind
    from aioioth.events import Event
    from aioioth.netlink import Netlink


class Running:
    """The parts of one open stack.

    Attributes:
        manager: Owner of the stack, one for each event loop.
        space: Where its sockets are made.
        netlink: Its netlink.
        wiring: Its interfaces; None if they are not ours to make.
        inherited: Whether this is a forked child's copy: the parent owns everything but
            the space.
    """

    def __init__(self, manager: Manager, space: Space, netlink: Netlink) -> None:
        self.manager = manager
        self.space = space
        self.netlink = netlink
        self.wiring: Wiring | None = None
        self.inherited = False
        self._remote: dict[str, Interface] = {}
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
            if isinstance(space, Namespace):
                running.wiring = wiring = Wiring(
                    label, space, netlink, manager.buffer, settings.device, notify
                )
                undo.callback(wiring.close)
                for wanted, plug in zip(settings.interfaces, plugs, strict=True):
                    await wiring.add(wanted, plug)
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
                running._remote[each.name] = Interface(
                    each.name, each.vnl, RemoteLink(each, space), netlink
                )
            running._undo = undo.pop_all()
        return running

    @property
    def interfaces(self) -> Mapping[str, Interface]:
        """What users see, by name."""
        return self._remote if self.wiring is None else self.wiring.interfaces

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
        """Let the last frames go; in a forked child they are the parent's."""
        if not self.inherited:
            await drain(() if self.wiring is None else self.wiring.links)

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
