"""The loop's calls on the default stack, cancelled at each of their awaits."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

import aioioth
from aioioth._loops import make_aware
from aioioth.testing import cancel_everywhere, no_leaks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.parametrize("times", [1, 2])


@pytest.fixture
async def stack() -> AsyncIterator[aioioth.Stack]:
    make_aware(asyncio.get_running_loop())
    async with aioioth.Stack("memory://lan", ip="10.0.0.1/24") as one:
        yield one


@pytest.fixture(params=[False, True], ids=["activate", "patch"])
def options(request: pytest.FixtureRequest) -> dict[str, bool]:
    return {"patch": request.param, "guard": request.param}


def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def close_writer(streams: Any) -> None:
    if streams is not None:
        streams[1].close()
        await streams[1].wait_closed()


async def close_server(server: Any) -> None:
    server.close()
    await server.wait_closed()


async def test_connections(
    stack: aioioth.Stack, options: dict[str, bool], times: int
) -> None:
    with stack.activate(**options):
        async with await asyncio.start_server(hang_up, "10.0.0.1", 7):
            connect = partial(asyncio.open_connection, "10.0.0.1", 7)
            assert await cancel_everywhere(connect, undo=close_writer, times=times) > 0


async def test_servers(
    stack: aioioth.Stack, options: dict[str, bool], times: int
) -> None:
    with stack.activate(**options):
        start = partial(asyncio.start_server, hang_up, None, 7)
        await close_server(await start())
        await cancel_everywhere(start, undo=close_server, times=times)


def test_run_with_a_stack(times: int) -> None:
    """Cancelled while the stack opens, while `main` runs, or while it closes."""

    def cancelling(turn: int) -> asyncio.AbstractEventLoop:
        """Return a loop that cancels all tasks in a turn of its own."""
        loop = asyncio.new_event_loop()

        def count(left: int) -> None:
            if left:
                loop.call_soon(count, left - 1)
                return
            for task in asyncio.all_tasks(loop):
                for _ in range(times):
                    task.cancel()

        loop.call_soon(count, turn)
        return loop

    for turn in range(20):
        main = asyncio.sleep(3600)  # until it is cancelled
        stack = aioioth.Stack("memory://lan", ip="10.0.0.1/24")
        with no_leaks():
            with pytest.raises(asyncio.CancelledError):
                aioioth.run(main, stack=stack, loop_factory=partial(cancelling, turn))
        with pytest.raises(aioioth.errors.ClosedError):
            stack.check_open()
