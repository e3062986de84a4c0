"""Cancel a coroutine at each of its awaits, and see that nothing is left behind."""

from __future__ import annotations

import asyncio
import itertools
import types
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aioioth.testing._leaks import look, no_leaks

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Generator


class _NotReached(Exception):  # noqa: N818  (no error: the end of the series)
    """The coroutine was over before the await at which it should be cancelled."""

    def __init__(self, result: Any) -> None:  # noqa: ANN401
        super().__init__(result)
        self.result = result


async def cancel_everywhere(
    make: Callable[[], Coroutine[Any, Any, Any]],
    *,
    undo: Callable[[Any], Coroutine[Any, Any, None]] | None = None,
    times: int = 1,
) -> int:
    """Run ``make()`` again and again, cancelled at its first await, its second, ...

    Each run must leave nothing behind, as `no_leaks` sees it. It ends with the run
    that was over before it could be cancelled. Make sure that what stays on purpose,
    such as a loop's first stack, is there before.

    Args:
        make: Returns the coroutine.
        undo: Called with what a run returned in spite of being cancelled, or because
            it was over; closes it.
        times: 2 to cancel it once more if it goes on waiting after the first time.

    Returns:
        How many awaits it was cancelled at.

    Raises:
        AssertionError: Something was left behind; the message lists it.
    """
    for at in itertools.count(1):
        async with _nothing_stays():
            over = False
            try:
                result = await asyncio.create_task(_interrupted(make(), at, times))
            except asyncio.CancelledError:
                continue
            except _NotReached as end:
                result, over = end.result, True
            if undo is not None:
                await undo(result)
        if over:
            return at - 1
    raise AssertionError


async def _interrupted(coroutine: Coroutine[Any, Any, Any], at: int, times: int) -> Any:  # noqa: ANN401
    return await _step_through(coroutine, at, times)


@types.coroutine
def _step_through(
    coroutine: Coroutine[Any, Any, Any], at: int, times: int
) -> Generator[Any, Any, Any]:
    """Run ``coroutine``, cancelling its task when it waits for the ``at``-th time."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    step: Callable[[Any], Any] = coroutine.send
    value: Any = None
    for wait in itertools.count(1):
        try:
            waited_for = step(value)
        except StopIteration as done:
            if wait <= at:
                raise _NotReached(done.value) from None
            return done.value
        if at <= wait < at + times:
            loop.call_soon(task.cancel)
        try:
            value = yield waited_for
            step = coroutine.send
        except BaseException as error:  # noqa: BLE001  (thrown on, into the coroutine)
            value, step = error, coroutine.throw
    raise AssertionError


@asynccontextmanager
async def _nothing_stays() -> AsyncGenerator[None]:
    """As `no_leaks`, but lets the loop do first what transports have scheduled."""
    before = look()
    with no_leaks():
        yield
        for _ in range(1000):
            if not look().more_than(before):
                break
            await asyncio.sleep(0.002)
