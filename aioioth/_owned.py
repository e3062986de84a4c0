"""What lives on an event loop, from `open` to `aclose`: stacks and cables."""

from __future__ import annotations

from abc import abstractmethod
from enum import Enum
from typing import (
    TYPE_CHECKING,
    ClassVar,
    Generic,
    Protocol,
    Self,
    TypeVar,
    runtime_checkable,
)

from typing_extensions import override

from aioioth._background import (
    Resident,
    carried,
    carried_call,
    in_trio_task,
    is_in_thread,
    running_loop,
)
from aioioth._manager import calling_place, running_manager
from aioioth._opening import Opening
from aioioth.errors import BusyError, ClosedError, WrongLoopError
from aioioth.events import EventStream

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from aioioth._manager import Manager, Place
    from aioioth.events import Event


class State(Enum):
    """Where something is in its life; the value says why it cannot be used."""

    NEW = "not open: use 'async with', or open() it"
    OPENING = "not open yet"
    OPEN = "open"
    CLOSED = "closed: make a new one"


class Parts(Protocol):
    """What there is only while it is open.

    Attributes:
        manager: The owner.
        inherited: Whether this is a forked child's copy.
    """

    manager: Manager
    inherited: bool

    async def drain(self) -> None:
        """Let the last frames go; may be cancelled."""
        ...

    def close(self) -> None:
        """Let everything go at once. Idempotent, never waits, never raises."""
        ...


@runtime_checkable
class Announces(Protocol):
    """What parts have besides, if the kernel announces something about them."""

    def listen(self, tell: Callable[[Event], None], /) -> None:
        """Have ``tell`` called with it, from now on.

        Raises:
            OSError: There are no descriptors left.
        """
        ...

    def unlisten(self, tell: Callable[[Event], None], /) -> None:
        """End what `listen` began. Idempotent."""
        ...


_PartsT = TypeVar("_PartsT", bound=Parts)


class Owned(Resident, Opening, Generic[_PartsT]):
    """The life of a stack or a cable, and its events.

    Args:
        name: Shown in messages.
        pump_thread: Whether it lives in aioioth's thread; see `aioioth.Stack`.

    Attributes:
        owner: Of the event loop that it was opened on, and that closes it in the end if
            nobody has. None if that was trio's.
    """

    _unclosed: ClassVar[type[Warning]]

    def __init__(self, name: str, *, pump_thread: bool = False) -> None:
        self.owner: Manager | None = None
        self._name = name
        self._pump_thread = pump_thread
        self._place: Place = calling_place()
        self._state = State.NEW
        self._running: _PartsT | None = None
        self._event_streams: list[EventStream] = []

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self._name

    @property
    def place(self) -> Place:
        """The line of the program that made it."""
        return self._place

    @carried_call
    def events(self, *kinds: type[Event]) -> EventStream:
        """Return what happens from now on, as an asynchronous iterator.

        Args:
            *kinds: Classes of the events that are wanted, from `aioioth.events`; none
                for all. Those that are subclasses of `KernelEvent` cost two sockets and
                a look at what there is, before this returns: 0.5 ms, or 2 ms and then
                0.5 ms more for each thousand of routes.

        Raises:
            ClosedError: It is not open.
            WrongLoopError: It belongs to another event loop.
            OSError: There are no descriptors left.
        """
        self.check_usable()
        stream = EventStream(self._unlisten, *kinds, in_thread=self._pump_thread)
        announcing = self._announcing()
        if stream.wants_kernel_events and announcing is not None:
            announcing.listen(stream.push)
        self._event_streams.append(stream)
        return stream

    def _unlisten(self, stream: EventStream) -> None:
        self._event_streams.remove(stream)
        announcing = self._announcing()
        if announcing is not None:
            announcing.unlisten(stream.push)

    def _announcing(self) -> Announces | None:
        parts: object = self._running
        return parts if isinstance(parts, Announces) else None

    @carried_call
    def close(self) -> None:
        """Let everything go at once. Idempotent, never waits, never raises.

        `aclose` is better: it lets the last frames go first.
        """
        running, self._running = self._running, None
        self._state = State.CLOSED
        if running is not None:
            running.manager.discard(self)
            if self.owner is not None:
                self.owner.discard(self)
            running.close()
        for stream in list(self._event_streams):
            stream.close()

    def check_usable(self) -> asyncio.AbstractEventLoop:
        """Return the loop that it belongs to, which must be the running one.

        With ``pump_thread`` that is the thread's.

        Raises:
            ClosedError: It is not open.
            WrongLoopError: It belongs to another event loop.
        """
        loop = self._own_parts().manager.loop
        if running_loop() is not loop:
            raise self._wrong_loop()
        return loop

    @property
    @override
    def _in_thread(self) -> bool:
        if not self._pump_thread or self._state is State.CLOSED:
            return False
        return self._running is None or not self._running.inherited

    async def _open(self) -> Self:
        # In the thread already, that is for trio: `open_stacks` there.
        elsewhere = in_trio_task() or is_in_thread()
        owner = None if elsewhere else await running_manager()
        return await self._open_there(owner)

    @carried
    async def _open_there(self, owner: Manager | None) -> Self:
        if self._state is State.CLOSED:
            raise ClosedError(str(self))
        if self._state is not State.NEW:
            msg = f"{self} is open already"
            raise BusyError(msg)
        self._state = State.OPENING
        try:
            manager = await running_manager()
            running = await self._start(manager)
        except BaseException:
            if self._state is State.OPENING:
                self._state = State.NEW
            raise
        if self._state is not State.OPENING:  # closed by another task, meanwhile
            running.close()
            raise ClosedError(str(self))
        self._state = State.OPEN
        self._running = running
        self.owner = owner
        manager.add(self, self._unclosed)
        if owner is not None:
            owner.add(self, self._unclosed)
        return self

    @abstractmethod
    async def _start(self, manager: Manager) -> _PartsT:
        """Make the parts."""

    async def _aclose(self, check: Callable[[], None] | None = None) -> None:
        if self._running is None:
            self.close()
            return
        if not self._running.inherited:  # a forked child only lets go of its copies
            self.check_usable()
        if check is not None:
            check()
        try:
            await self._running.drain()
        finally:
            self.close()

    def _parts(self) -> _PartsT:
        if self._running is None:
            raise ClosedError(str(self), hint=self._state.value)
        return self._running

    def _own_parts(self) -> _PartsT:
        """Return the parts of what is this process's: not a parent's."""
        parts = self._parts()
        if parts.inherited:
            raise self._wrong_loop(forked=True)
        return parts

    def _wrong_loop(self, *, forked: bool = False) -> WrongLoopError:
        return WrongLoopError(str(self), forked=forked)

    def _notify(self, event: Event) -> None:
        for stream in self._event_streams:
            stream.push(event)
