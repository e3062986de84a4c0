"""A thread with an asyncio loop of its own, where stacks live by choice or by need.

By choice with ``pump_thread=True``: frames are moved there, however busy the program's
own loop is. By need under trio: sockets are the same everywhere, but pumps and netlink
need an asyncio loop. What is bound to a loop is carried to the thread, and awaited
where it was called. The thread starts when it is needed, and ends when no stack is open
there and nobody is inside.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import functools
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar

from aioioth import _manager
from aioioth._fork import forget_in_children

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from typing import Any, Protocol

    from aioioth.stack import Stack

    class RunOn(Protocol):
        """Await ``make()`` on the loop of another thread."""

        def __call__(
            self,
            loop: asyncio.AbstractEventLoop,
            make: Callable[[], Coroutine[Any, Any, _T]],
        ) -> Awaitable[_T]: ...

    WaitFor = Callable[[concurrent.futures.Future[None]], Awaitable[None]]

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Resident:
    """What may live in the thread although asyncio's tasks use it."""

    __slots__ = ()

    @property
    def _in_thread(self) -> bool:
        return False


def carried(
    method: Callable[_P, Coroutine[Any, Any, _T]],
) -> Callable[_P, Coroutine[Any, Any, _T]]:
    """Decorate a coroutine function: it runs in the thread if it has to.

    It has to if trio's tasks call it, or if it is a method of what lives there.
    """

    @functools.wraps(method)
    async def wrapper(*args: _P.args, **kwds: _P.kwargs) -> _T:
        make = functools.partial(method, *args, **kwds)
        if in_trio_task():
            # Not at the top: most programs have no trio.
            from aioioth import _trio

            return await _carry(make, _trio.run_on, _trio.wait_for)
        if not _is_away(args):
            return await make()
        return await _carry(make, _run_on, _wait_for)

    return wrapper


def carried_call(method: Callable[_P, _T]) -> Callable[_P, _T]:
    """Decorate a function that never waits: it runs in the thread if it has to.

    If there is the thread; otherwise nothing lives there. Where no loop runs, nobody
    knows better than to have it run there.
    """

    @functools.wraps(method)
    def wrapper(*args: _P.args, **kwds: _P.kwargs) -> _T:
        on_asyncio = running_loop() is not None and not in_trio_task()
        if not _office.is_elsewhere or (on_asyncio and not _is_away(args)):
            return method(*args, **kwds)
        thread = _office.enter()
        try:
            return thread.call(functools.partial(method, *args, **kwds))
        finally:
            if _office.leave(thread):
                thread.join()

    return wrapper


def stacks() -> tuple[Stack, ...]:
    """Return the open stacks of the running event loop, oldest first.

    Under trio, those opened under trio.

    Raises:
        RuntimeError: No event loop is running.
    """
    under_trio = in_trio_task()
    if under_trio and _office.is_empty:
        return ()
    # Not at the top: stacks are made of what is here.
    from aioioth.stack import Stack

    owned = carried_call(_manager.owned)()
    if under_trio:
        owned = tuple(each for each in owned if each.owner is None)
    return tuple(each for each in owned if isinstance(each, Stack))


def in_trio_task() -> bool:
    """Whether the caller is a task of trio, also where trio is a guest of asyncio."""
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_task())


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the running asyncio loop; None where there is none."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def is_in_thread() -> bool:
    """Whether the caller is inside the thread, and so is what it makes."""
    return _office.is_here


def _is_away(args: tuple[object, ...]) -> bool:
    """Whether a method's object lives in the thread, and we are somewhere else."""
    if not args or not isinstance(args[0], Resident):
        return False
    return args[0]._in_thread and not _office.is_here  # noqa: SLF001  (it is ours)


# Carrying


class Errand(Generic[_T]):
    """A task in the thread that somebody elsewhere waits for.

    Args:
        loop: The thread's.
        make: Returns the coroutine.
        tell: Called in the thread when it is over.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        make: Callable[[], Coroutine[Any, Any, _T]],
        tell: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._make = make
        self._tell = tell
        self._task: asyncio.Task[_T] | None = None

    def start(self) -> None:
        """Have it begin; in the context of the caller."""
        self._loop.call_soon_threadsafe(self._begin)

    def cancel(self) -> None:
        """Cancel it where it waits; `tell` is called all the same."""
        # In the turn after the next: a task that is cancelled before its first step
        # never begins, and aclose() has to close.
        self._loop.call_soon_threadsafe(self._loop.call_soon, self._cancel)

    @property
    def was_cancelled(self) -> bool:
        """Whether it ended by being cancelled."""
        return self._task is not None and self._task.cancelled()

    def result(self) -> _T:
        """Return or raise what came of it."""
        assert self._task is not None
        return self._task.result()

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._make())
        self._task.add_done_callback(lambda _: self._tell())

    def _cancel(self) -> None:
        assert self._task is not None
        self._task.cancel()


async def _carry(
    make: Callable[[], Coroutine[Any, Any, _T]], run_on: RunOn, wait_for: WaitFor
) -> _T:
    """Await ``make()`` in the thread, which ends if nobody needs it then."""
    thread = _office.enter()
    try:
        return await run_on(thread.loop, functools.partial(thread.run, make))
    finally:
        if _office.leave(thread):
            await wait_for(thread.ended)
            thread.join()


async def _run_on(
    loop: asyncio.AbstractEventLoop, make: Callable[[], Coroutine[Any, Any, _T]]
) -> _T:
    """Await ``make()`` on a loop of another thread, from a task of asyncio.

    Cancellation:
        The coroutine is cancelled where it waits, and waited for. If it returns or
        raises all the same, so does this.
    """
    over = _Signal()
    errand = Errand(loop, make, over.set)
    errand.start()
    if await over.wait(errand.cancel) and not errand.was_cancelled:
        _cancel_later()
    return errand.result()


async def _wait_for(future: concurrent.futures.Future[None]) -> None:
    """Wait until a future is done, from a task of asyncio.

    Cancellation:
        Waits on: it is for what takes milliseconds and must be over.
    """
    over = _Signal()
    future.add_done_callback(lambda _: over.set())
    if await over.wait(lambda: None):
        _cancel_later()


class _Signal:
    """Wakes a task of asyncio, from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future = self._loop.create_future()

    def set(self) -> None:
        """Wake it; nobody is there if its loop was closed meanwhile."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._future.set_result, None)

    async def wait(self, on_cancel: Callable[[], None]) -> bool:
        """Wait until `set`, whatever comes.

        Args:
            on_cancel: Called whenever the task is cancelled.

        Returns:
            Whether it was.
        """
        cancelled = False
        while not self._future.done():
            try:
                await asyncio.wait([self._future])
            except asyncio.CancelledError:
                cancelled = True
                on_cancel()
        return cancelled


def _cancel_later() -> None:
    """Cancel the running task again: it was, too late for what it was waiting for.

    Its result must not be lost, nor must the cancellation be. So that comes one turn
    later, unless it was for a block that the task has left by then (`asyncio.timeout`).
    """
    task = asyncio.current_task()
    assert task is not None
    count = task.cancelling()

    def again() -> None:
        if not task.done() and task.cancelling() >= count:
            task.uncancel()
            task.cancel()

    asyncio.get_running_loop().call_soon(again)


# The thread


class _LoopThread:
    """A thread that runs an asyncio loop until `stop`.

    Attributes:
        loop: The loop.
        ended: Done when the loop is closed.
        guests: How many calls are inside; the office's.
        occupied: Whether stacks or cables were open when the last call ended.
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self.guests = 0
        self.occupied = False
        self._stop = asyncio.Event()
        # A daemon: a program that forgets its stacks ends all the same.
        self._thread = threading.Thread(target=self._main, name="aioioth", daemon=True)
        self._thread.start()

    async def run(self, make: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Await ``make()``; only inside the thread."""
        try:
            return await make()
        finally:
            self.occupied = bool(_manager.owned())

    def call(self, function: Callable[[], _T]) -> _T:
        """Call ``function`` inside the thread and wait for what it returns."""

        async def called() -> _T:
            return function()

        make = functools.partial(self.run, called)
        return asyncio.run_coroutine_threadsafe(make(), self.loop).result()

    def stop(self) -> None:
        """Have the loop closed, soon."""
        self.loop.call_soon_threadsafe(self._stop.set)

    def join(self) -> None:
        """Wait until the thread is gone."""
        self._thread.join()

    def _main(self) -> None:
        try:
            # It closes asynchronous generators, and so the loop's manager.
            with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
                runner.run(self._until_stopped())
        finally:
            self.ended.set_result(None)

    async def _until_stopped(self) -> None:
        await self._stop.wait()


class _Office:
    """Starts the thread for the first who enters, ends it after the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: _LoopThread | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is no thread now."""
        return self._thread is None

    @property
    def is_here(self) -> bool:
        """Whether the caller is inside the thread."""
        thread = self._thread
        return thread is not None and running_loop() is thread.loop

    @property
    def is_elsewhere(self) -> bool:
        """Whether there is a thread, and the caller is not inside."""
        return not self.is_empty and not self.is_here

    def enter(self) -> _LoopThread:
        """Return the thread, which stays until `leave`."""
        with self._lock:
            if self._thread is None:
                self._thread = _LoopThread()
            self._thread.guests += 1
            return self._thread

    def leave(self, thread: _LoopThread) -> bool:
        """Let go of the thread.

        Returns:
            Whether nobody needs it any more, so that it is ending.
        """
        with self._lock:
            thread.guests -= 1
            if thread.guests or thread.occupied:
                return False
            self._thread = None
        thread.stop()
        return True

    def close(self) -> None:
        """End the thread whatever is open there: the program is over."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop()
            thread.join()

    def forget_in_child(self) -> None:
        """Forget the thread after a fork: children do not have it."""
        self.__init__()  # type: ignore[misc]


_office = _Office()
forget_in_children(_office)
atexit.register(_office.close)
