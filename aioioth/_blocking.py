"""Coroutines of asyncio where no asyncio runs: in plain threads, and under trio."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_T = TypeVar("_T")


def running_library() -> str | None:
    """Return whose event loop runs in this thread: ``asyncio``, ``trio``, or None."""
    with suppress(RuntimeError):
        asyncio.get_running_loop()
        return "asyncio"
    trio: Any = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        return "trio"
    return None


def run(make: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run a coroutine to its end, on a loop that is there for this alone.

    Plain asyncio's, whatever the program uses: the caller may be uvloop's own thread.
    """
    return _Private(make).run()


async def run_in_thread(make: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Do the same in a thread, while the loop that runs here goes on.

    Cancellation:
        The thread is told, and not waited for.
    """
    import anyio

    private = _Private(make)
    try:
        return await anyio.to_thread.run_sync(private.run, abandon_on_cancel=True)
    except anyio.get_cancelled_exc_class():
        private.cancel()
        raise


class _Private(Generic[_T]):
    """One coroutine on a loop of its own, to be cancelled from another thread."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, _T]]) -> None:
        self._make = make
        self._cancel: Callable[[], object] | None = None
        self._cancelled = False

    def run(self) -> _T:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            return runner.run(self._main())

    async def _main(self) -> _T:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        if self._cancelled:
            task.cancel()
        return await self._make()

    def cancel(self) -> None:
        """Cancel it, begun or not. May be called from any thread."""
        self._cancelled = True
        if self._cancel is not None:
            with suppress(RuntimeError):  # it has ended already
                self._cancel()
