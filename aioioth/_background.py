"""Where the stacks of trio programs live: a thread with an asyncio loop of its own.

Sockets are the same everywhere, but pumps and netlink need an asyncio loop. Under trio,
what is bound to a loop is therefore carried to a thread, which starts when it is needed
and ends when no stack is open there and nobody is inside.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import functools
import sys
import threading
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from aioioth import _manager
from aioioth._fork import forget_in_children

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from aioioth.stack import Stack

_P = ParamSpec("_P")
_T = TypeVar("_T")


def carried(
    method: Callable[_P, Coroutine[Any, Any, _T]],
) -> Callable[_P, Coroutine[Any, Any, _T]]:
    """Decorate a coroutine function: trio's tasks have it run in the thread."""

    @functools.wraps(method)
    async def wrapper(*args: _P.args, **kwds: _P.kwargs) -> _T:
        if not in_trio_task():
            return await method(*args, **kwds)
        # Not at the top: most programs have no trio.
        from aioioth import _trio

        thread = _office.enter()
        try:
            make = functools.partial(method, *args, **kwds)
            return await _trio.run_on(thread.loop, functools.partial(thread.run, make))
        finally:
            if _office.leave(thread):
                await _trio.wait_for(thread.ended)
                thread.join()

    return wrapper


def carried_call(method: Callable[_P, _T]) -> Callable[_P, _T]:
    """Decorate a function that never waits: outside of asyncio it runs in the thread.

    If there is the thread; otherwise nothing lives there.
    """

    @functools.wraps(method)
    def wrapper(*args: _P.args, **kwds: _P.kwargs) -> _T:
        if _office.is_empty or (running_loop() is not None and not in_trio_task()):
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
    if in_trio_task() and _office.is_empty:
        return ()
    # Not at the top: stacks are made of what is here.
    from aioioth.stack import Stack

    owned = carried_call(_manager.owned)()
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
