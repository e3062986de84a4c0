"""What happens to a stack, as it happens: ``async for event in stack.events()``."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from typing_extensions import override

from aioioth._background import Resident, carried, carried_call

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "CarrierDown",
    "CarrierUp",
    "Event",
    "EventStream",
    "InterfaceAdded",
    "InterfaceRemoved",
]

# A reader that does not read loses the oldest events, not the memory.
_KEPT_EVENTS = 1024


@dataclass(frozen=True)
class Event:
    """Something happened to an interface, or to a cable's side.

    Attributes:
        interface: Name of the interface; of a cable, ``a`` or ``b``.
    """

    interface: str


@dataclass(frozen=True)
class CarrierDown(Event):
    """The interface lost its virtual network; it is trying to get it back.

    Unless it was ``pulled out`` by `aioioth.Interface.set_carrier`.

    Attributes:
        cause: Why, in words.
    """

    cause: str


@dataclass(frozen=True)
class CarrierUp(Event):
    """The interface has its virtual network again.

    Attributes:
        attempts: How many times it tried.
    """

    attempts: int


@dataclass(frozen=True)
class InterfaceAdded(Event):
    """The stack has a new interface, which is ready; see `Stack.add_interface`.

    Attributes:
        vnl: The virtual network it belongs to.
    """

    vnl: str


@dataclass(frozen=True)
class InterfaceRemoved(Event):
    """The stack has one interface less; see `Stack.remove_interface`."""


class EventStream(Resident):
    """Asynchronous iterator over events from the moment it was made.

    It ends when the stack or cable is closed. Only one task may wait on it at a time.

    Args:
        unsubscribe: Called when the stream is closed.
        in_thread: Whether the stack is in a thread of its own; see `aioioth.Stack`.
    """

    def __init__(
        self, unsubscribe: Callable[[EventStream], None], *, in_thread: bool = False
    ) -> None:
        self._lives_in_thread = in_thread
        self._unsubscribe = unsubscribe
        self._events: deque[Event] = deque(maxlen=_KEPT_EVENTS)
        self._ready = asyncio.Event()
        self._closed = False

    @property
    @override
    def _in_thread(self) -> bool:
        # Once closed, there is nothing to wait for any more.
        return self._lives_in_thread and not self._closed

    def push(self, event: Event) -> None:
        """Add an event; called by the stack."""
        self._events.append(event)
        self._ready.set()

    @carried_call
    def close(self) -> None:
        """End the stream; events that are waiting can still be read. Idempotent."""
        if not self._closed:
            self._closed = True
            self._ready.set()
            self._unsubscribe(self)

    def __aiter__(self) -> Self:
        return self

    @carried
    async def __anext__(self) -> Event:
        while not self._events:
            if self._closed:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        return self._events.popleft()
