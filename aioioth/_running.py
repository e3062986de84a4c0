"""What an open stack consists of, and how it comes to be."""

from __future__ import annotations

import asyncio
import weakref
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

from aioioth import _iproute
from aioioth._attached import RemoteLink
from aioioth._drain import drain
from aioioth._fork import forget_in_children
from aioioth._kinds import open_netns
from aioioth._namespace import Namespace
from aioioth._netstate import Monitor
from aioioth._preflight import descriptors_explained
from aioioth._sharing import Sharing
from aioioth._wiring import Wiring, home_of, is_at, reach
from aioioth.errors import ConfigurationError
from aioioth.interfaces import Interface
from aioioth.iproute import Neighbour

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aioioth._autoconf.sources import Sources
    from aioioth._iproute import Thing
    from aioioth._manager import Manager
    from aioioth._namespace import Home
    from aioioth._settings import Settings
    from aioioth._sharing import Description, Shared
    from aioioth.abc import Junction, Plug, Space, StackKind
    from aioioth.events import Event
    from aioioth.netlink import Netlink


class Belonging(Protocol):
    """Something that runs on a stack, as a server."""

    def close(self) -> None:
        """Let everything go at once. Idempotent, never waits, never raises."""
        ...


class Running:
    """The parts of one open stack.

    Attributes:
        manager: Owner of the stack, one for each event loop.
        space: Where its sockets are made.
        wiring: Its interfaces; None if they are not ours to make.
        inherited: Whether this is a forked child's copy: the parent owns everything but
            the space.
        belongings: What runs on the stack, and ends with it.
        monitor: Follows what the kernel has in it, while somebody wants to know.
        sources: Where its configuration comes from; None until somebody asks.
    """

    def __init__(self, manager: Manager, space: Space) -> None:
        self.manager = manager
        self.space = space
        self._netlink: Netlink | None = None
        self.wiring: Wiring | None = None
        self.inherited = False
        self._remote: dict[str, Interface] = {}
        self._sharing: Sharing | None = None
        self._guest: ExitStack | None = None  # what an attached stack needs besides
        self.belongings: list[Belonging] = []
        self.monitor = Monitor(space)
        self.sources: Sources | None = None
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
        with descriptors_explained(), ExitStack() as undo:
            ways: list[Plug | Junction] = []
            # The networks first: what is wrong there is found before anything is made.
            for wanted in settings.interfaces:
                way = await reach(wanted.transport, label)
                undo.callback(way.close)
                wanted.mtu_on(way)
                ways.append(way)
            home = next((each for way in ways if (each := home_of(way))), None)
            for number, way in enumerate(ways):
                if home is not None and not is_at(way, home):
                    # A private bridge and one of other programs; see `Wiring._reach`.
                    way.close()
                    frames = await settings.interfaces[number].transport.open(label)
                    undo.callback(frames.close)
                    ways[number] = frames
            space = await _make_space(kind, label, home)
            undo.callback(space.close)
            if ways and not isinstance(space, Namespace):
                msg = f"{label}: its kind has interfaces of its own, leave out VNLs"
                raise ConfigurationError(msg)
            running = cls(manager, space)
            if isinstance(space, Namespace):
                running.wiring = wiring = Wiring(
                    label,
                    space,
                    manager.buffer,
                    settings.device,
                    monitor=running.monitor,
                    notify=notify,
                )
                undo.callback(wiring.close)
                for wanted, way in zip(settings.interfaces, ways, strict=True):
                    await wiring.add(wanted, way)
                requests = wiring.addresses(settings.addresses)
                requests += wiring.default_routes(settings.gateways)
                await _iproute.carry_out(space, requests)
            undo.pop_all()
        return running

    @classmethod
    async def attach(cls, shared: Shared, label: str, manager: Manager) -> Running:
        """Use a stack of another process; see `Stack.attach`."""
        with ExitStack() as undo:
            space = await manager.attach(
                label, shared.namespace, shared.user_namespace, undo
            )
            running = cls(manager, space)
            for each in shared.description.interfaces:
                running._remote[each.name] = Interface(
                    each.name,
                    each.vnl,
                    RemoteLink(each, space),
                    space,
                    running.monitor,
                )
            running._guest = undo.pop_all()
        return running

    @property
    def netlink(self) -> Netlink:
        """The stack's netlink, opened on first use.

        Raises:
            ClosedError: The stack is closed.
        """
        if self._netlink is None:
            # Not at the top: pyroute2 takes longer to import than all the rest.
            from aioioth.netlink import Netlink

            self._netlink = Netlink(self.space)
        return self._netlink

    @property
    def own_sockets(self) -> tuple[int, ...]:
        """Descriptors of sockets in the stack that are ours and not the user's."""
        netlink = () if self._netlink is None else (self._netlink.fileno(),)
        sources = () if self.sources is None else self.sources.filenos
        return netlink + self.monitor.filenos() + sources

    @property
    def interfaces(self) -> Mapping[str, Interface]:
        """What users see, by name."""
        return self._remote if self.wiring is None else self.wiring.interfaces

    def check_renaming(self, old: str, new: str) -> None:
        """Refuse another name for an interface that cannot have one.

        Raises:
            ConfigurationError: It is another process's, or configures itself; or the
                name is taken.
        """
        if old not in self.interfaces:
            return
        if self.wiring is None:
            msg = f"{old} can only be renamed by the process that made the stack"
            raise ConfigurationError(msg)
        if self.sources is not None:
            self.sources.check_renaming(old)
        if new != old and self.wiring.is_taken(new):
            msg = f"{old} cannot be called {new}: there is one already"
            raise ConfigurationError(msg)

    def renamed(self, old: str, new: str) -> None:
        """Know an interface by its new name."""
        if self.wiring is not None and old in self.wiring.interfaces:
            self.wiring.rename(old, new)
            if self.sources is not None:
                self.sources.rename(old, new)

    def listen(self, tell: Callable[[Event], None]) -> None:
        """Have ``tell`` called with what the kernel announces; see `Stack.events`."""
        self.monitor.listen(tell)

    def unlisten(self, tell: Callable[[Event], None]) -> None:
        """End what `listen` began. Idempotent."""
        self.monitor.unlisten(tell)

    def share(self, describe: Callable[[], Description]) -> str:
        """Start giving the stack to other processes; see `Stack.share`."""
        if not isinstance(self.space, Namespace):
            msg = "this kind of stack has no namespace of its own that could be shared"
            raise ConfigurationError(msg)
        if self._sharing is None:
            self._sharing = Sharing(self.space, describe)
        return self._sharing.address

    async def drain(self) -> None:
        """Let the last frames go, and leave; in a forked child that is the parent's."""
        if self.inherited:
            return
        for belonging in list(self.belongings):
            belonging.close()  # which may have to say goodbye
        if self.sources is not None:
            await self.sources.drain()
        links = () if self.wiring is None else self.wiring.links
        await drain(links)
        for link in links:
            link.leave()
            # In the next turn, so that closing does not hold the loop for 0.3 ms.
            await asyncio.sleep(0)

    def close(self) -> None:
        """Let everything go at once. Idempotent, never waits, never raises."""
        if not self.inherited:
            for belonging in list(self.belongings):
                belonging.close()
            for part in (
                self.sources,
                self._sharing,
                self._netlink,
                self.monitor,
                self.wiring,
            ):
                if part is not None:
                    part.close()
            if self._guest is not None:
                self._guest.close()
        self.space.close()

    def forget_in_child(self) -> None:
        """Keep the space alone after a fork: what opens sockets goes on working.

        It is closed with the stack, or when nobody uses that any more, or in the end;
        without a warning, since it is the parent that shall close the stack.
        """
        self.inherited = True
        self.monitor.forget_in_child()
        if self._guest is not None:
            self._guest.pop_all()
        weakref.finalize(self, self.space.close)

    async def change(self, command: str, *things: Thing) -> None:
        """Do ``ip address COMMAND ...`` and the like; see `Stack.add`."""
        await _iproute.change_in(self.space, command, *things, own=self.interfaces)
        self.changed(*things)

    def changed(self, *things: Thing) -> None:
        """Look at what the kernel does not announce."""
        if any(isinstance(thing, Neighbour) and thing.proxy for thing in things):
            self.monitor.refresh()


async def _make_space(kind: StackKind, label: str, home: Home | None) -> Space:
    """Make the space of a stack, where the bridges are that it is to reach."""
    if home is None:
        return await kind(label)
    if kind is not open_netns:
        msg = f"{label}: only stacks of the kind 'netns' can be on a bridge"
        raise ConfigurationError(msg)
    return await open_netns(label, home)
