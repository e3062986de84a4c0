"""`asyncio.run` and `asyncio.Runner`, with loops that know the default stack."""

from __future__ import annotations

import asyncio
from inspect import CORO_CREATED, getcoroutinestate
from typing import TYPE_CHECKING, Any, Self, TypeVar

from aioioth._background import running_loop
from aioioth._loops import make_aware, new_event_loop
from aioioth.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextvars import Context
    from types import TracebackType

    from aioioth.stack import Stack

    LoopFactory = Callable[[], asyncio.AbstractEventLoop]

__all__ = ["Runner", "new_event_loop", "run"]

_T = TypeVar("_T")


def run(
    main: Coroutine[Any, Any, _T],
    *,
    stack: Stack | None = None,
    loop_factory: LoopFactory | None = None,
    debug: bool | None = None,
) -> _T:
    """Run ``main`` as `asyncio.run` does, on a loop that uses the default stack.

    Args:
        main: What to run.
        stack: Opened before, the default stack of ``main``, and closed afterwards.
        loop_factory: `uvloop.new_event_loop`, say; None for asyncio's own loop.
        debug: As for `asyncio.run`.

    Returns:
        What ``main`` returns.

    Raises:
        ValueError: ``main`` is no coroutine.
        RuntimeError: A loop runs in this thread already.
        ConfigurationError: The factory's loop cannot be made to use stacks.
    """
    if running_loop() is not None:
        # Now, since the runner of a loop inside of another one cannot even be closed.
        msg = "aioioth.run() cannot be called from a running event loop"
        raise RuntimeError(msg)
    with Runner(debug=debug, loop_factory=loop_factory) as runner:
        if stack is None or not asyncio.iscoroutine(main):
            return runner.run(main)
        try:
            return runner.run(_in_stack(stack, main))
        finally:
            if getcoroutinestate(main) == CORO_CREATED:
                main.close()  # the stack could not be opened


async def _in_stack(stack: Stack, main: Coroutine[Any, Any, _T]) -> _T:
    async with stack:
        with stack.activate():
            return await main


class Runner:
    """`asyncio.Runner` whose loop uses the default stack of the context.

    Args:
        debug: As for `asyncio.Runner`.
        loop_factory: `uvloop.new_event_loop`, say; None for asyncio's own loop.
    """

    def __init__(
        self, *, debug: bool | None = None, loop_factory: LoopFactory | None = None
    ) -> None:
        make = asyncio.new_event_loop if loop_factory is None else loop_factory

        def aware_loop() -> asyncio.AbstractEventLoop:
            loop = make()
            try:
                return make_aware(loop)
            except ConfigurationError:
                loop.close()
                raise

        self._runner = asyncio.Runner(debug=debug, loop_factory=aware_loop)

    def __enter__(self) -> Self:
        self._runner.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._runner.close()

    def run(
        self, coro: Coroutine[Any, Any, _T], *, context: Context | None = None
    ) -> _T:
        """Run a coroutine; see `asyncio.Runner.run`."""
        return self._runner.run(coro, context=context)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop; see `asyncio.Runner.get_loop`."""
        return self._runner.get_loop()

    def close(self) -> None:
        """Close the loop; see `asyncio.Runner.close`."""
        self._runner.close()
