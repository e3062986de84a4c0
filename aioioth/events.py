"""What happens to a stack, as it happens: ``async for event in stack.events()``.

Events about what aioioth does itself::

    CarrierDown, CarrierUp            an interface lost its virtual network, has it back
    InterfaceAdded, InterfaceRemoved  by Stack.add_interface, Stack.remove_interface
    Configured, Unconfigured          addresses came from somewhere, and were lost again
    EventsLost                        the reader was too slow; comes unasked

and those that the kernel announces, whoever has made the change::

    LinkAdded, LinkChanged, LinkRemoved
    AddressAdded, AddressUsable, AddressDuplicated, AddressRemoved
    RouteAdded, RouteRemoved
    NeighbourChanged, NeighbourRemoved

``stack.events(LinkChanged, AddressUsable)`` has only these. Their base classes stand
for all of a kind: `StackEvent` for the first ones, `KernelEvent` for the second,
`LinkEvent`, `AddressEvent`, `RouteEvent` and `NeighbourEvent` for those of one line.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

from typing_extensions import override

from aioioth._background import Resident, carried, carried_call

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioioth.iproute import Address, Link, Neighbour, Route

__all__ = [
    "AddressAdded",
    "AddressDuplicated",
    "AddressEvent",
    "AddressRemoved",
    "AddressUsable",
    "CarrierDown",
    "CarrierUp",
    "Configured",
    "Event",
    "EventStream",
    "EventsLost",
    "InterfaceAdded",
    "InterfaceRemoved",
    "KernelEvent",
    "LinkAdded",
    "LinkChanged",
    "LinkEvent",
    "LinkRemoved",
    "NeighbourChanged",
    "NeighbourEvent",
    "NeighbourRemoved",
    "RouteAdded",
    "RouteEvent",
    "RouteRemoved",
    "StackEvent",
    "Unconfigured",
]

# A reader that does not read loses the oldest events, not the memory, and is told.
_KEPT_EVENTS = 1024


@dataclass(frozen=True)
class Event:
    """Something happened to an interface, or to a cable's side.

    Attributes:
        interface: Name of the interface; of a cable, ``a`` or ``b``.
    """

    interface: str


@dataclass(frozen=True)
class StackEvent(Event):
    """Something that aioioth did, or that happened to its way to a network."""


@dataclass(frozen=True)
class CarrierDown(StackEvent):
    """The interface lost its virtual network; it is trying to get it back.

    Unless it was ``pulled out`` by `aioioth.Interface.set_carrier`.

    Attributes:
        cause: Why, in words.
    """

    cause: str


@dataclass(frozen=True)
class CarrierUp(StackEvent):
    """The interface has its virtual network again.

    Attributes:
        attempts: How many times it tried.
    """

    attempts: int


@dataclass(frozen=True)
class InterfaceAdded(StackEvent):
    """The stack has a new interface, which is ready; see `Stack.add_interface`.

    Attributes:
        vnl: The virtual network it belongs to.
    """

    vnl: str


@dataclass(frozen=True)
class InterfaceRemoved(StackEvent):
    """The stack has one interface less; see `Stack.remove_interface`."""


@dataclass(frozen=True)
class Configured(StackEvent):
    """An interface has what a source of addresses had for it; also when that changed.

    Attributes:
        source: ``dhcp``, ``dhcp6``, ``ra``, ``static`` or ``eth``.
    """

    source: str


@dataclass(frozen=True)
class Unconfigured(StackEvent):
    """An interface lost what a source of addresses had given it.

    Attributes:
        source: As in `Configured`.
        cause: Why, in words.
    """

    source: str
    cause: str


@dataclass(frozen=True)
class EventsLost(StackEvent):
    """Events are missing here: so many came before these were read.

    It comes in their place, whichever kinds are wanted; `interface` is empty. How
    things are, `aioioth.Stack.links` and the like say.

    Attributes:
        count: How many.
    """

    count: int


@dataclass(frozen=True)
class KernelEvent(Event):
    """Something is different in the kernel, whoever has made it so.

    Where the kernel had to leave announcements out, since too many came at once, it is
    asked how things are now: what came and went in between is not told, but whatever is
    different in the end is.
    """


@dataclass(frozen=True)
class LinkEvent(KernelEvent):
    """A link is there, gone, or not as it was; ``lo``, bridges and so on included.

    Attributes:
        link: As it is now, or was last.
    """

    link: Link


@dataclass(frozen=True)
class LinkAdded(LinkEvent):
    """There is a new link."""


@dataclass(frozen=True)
class LinkRemoved(LinkEvent):
    """A link is gone."""


@dataclass(frozen=True)
class LinkChanged(LinkEvent):
    """A link is up or down, has its carrier or not, another MTU, name or MAC, ...

    Attributes:
        before: As it was.
    """

    before: Link

    @property
    def changed(self) -> frozenset[str]:
        """Which attributes of the link: ``up``, ``carrier``, ``mtu``, ``name``, ..."""
        names = (field.name for field in fields(self.link))
        return frozenset(
            name
            for name in names
            if getattr(self.link, name) != getattr(self.before, name)
        )


@dataclass(frozen=True)
class AddressEvent(KernelEvent):
    """An address is there, usable, another's, or gone.

    Attributes:
        address: As it is now, or was last.
    """

    address: Address


@dataclass(frozen=True)
class AddressAdded(AddressEvent):
    """An interface has a new address, which may be ``tentative`` yet."""


@dataclass(frozen=True)
class AddressUsable(AddressEvent):
    """Sockets can be bound to the address now. Comes once, or again after a pause."""


@dataclass(frozen=True)
class AddressDuplicated(AddressEvent):
    """Somebody else on the network has the address, so it cannot be used.

    If it has a lifetime, the kernel takes it away at once.
    """


@dataclass(frozen=True)
class AddressRemoved(AddressEvent):
    """An interface has an address no longer."""


@dataclass(frozen=True)
class RouteEvent(KernelEvent):
    """A route is there or gone; those in the table ``local`` are not told of.

    ``interface`` is empty for a route that leads through none, or through several.

    Attributes:
        route: The route.
    """

    route: Route


@dataclass(frozen=True)
class RouteAdded(RouteEvent):
    """There is a new route."""


@dataclass(frozen=True)
class RouteRemoved(RouteEvent):
    """A route is gone."""


@dataclass(frozen=True)
class NeighbourEvent(KernelEvent):
    """Something is known of a neighbour, or no longer.

    Attributes:
        neighbour: As it is now, or was last.
    """

    neighbour: Neighbour


@dataclass(frozen=True)
class NeighbourChanged(NeighbourEvent):
    """A neighbour is new, has another MAC address, or another state."""


@dataclass(frozen=True)
class NeighbourRemoved(NeighbourEvent):
    """A neighbour is forgotten."""


class EventStream(Resident):
    """Asynchronous iterator over events from the moment it was made.

    It ends when the stack or cable is closed. Only one task may wait on it at a time.

    Args:
        unsubscribe: Called when the stream is closed.
        *kinds: Classes of the events that are wanted; none for all.
        in_thread: Whether the stack is in a thread of its own; see `aioioth.Stack`.

    Attributes:
        kinds: As given, or all.
    """

    def __init__(
        self,
        unsubscribe: Callable[[EventStream], None],
        *kinds: type[Event],
        in_thread: bool = False,
    ) -> None:
        self.kinds: tuple[type[Event], ...] = kinds or (Event,)
        self._lives_in_thread = in_thread
        self._unsubscribe: Callable[[EventStream], None] | None = unsubscribe
        self._events: deque[Event] = deque()
        self._lost = 0
        self._ready = asyncio.Event()
        self._closed = False

    @property
    @override
    def _in_thread(self) -> bool:
        # Once closed, there is nothing to wait for any more.
        return self._lives_in_thread and not self._closed

    @property
    def wants_kernel_events(self) -> bool:
        """Whether any that the kernel announces are wanted."""
        return any(
            issubclass(kind, KernelEvent) or issubclass(KernelEvent, kind)
            for kind in self.kinds
        )

    def push(self, event: Event) -> None:
        """Add an event, if it is wanted; called by the stack."""
        if not isinstance(event, self.kinds):
            return
        if len(self._events) == _KEPT_EVENTS:
            self._events.popleft()
            self._lost += 1
        self._events.append(event)
        self._ready.set()

    @carried_call
    def close(self) -> None:
        """End the stream; events that are waiting can still be read. Idempotent."""
        unsubscribe, self._unsubscribe = self._unsubscribe, None
        if unsubscribe is not None:
            self._closed = True
            self._ready.set()
            unsubscribe(self)

    def __aiter__(self) -> Self:
        return self

    @carried
    async def __anext__(self) -> Event:
        while not self._events:
            if self._closed:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        lost, self._lost = self._lost, 0
        return EventsLost("", lost) if lost else self._events.popleft()
