"""Every public coroutine cancelled at each of its awaits, once and twice."""

from __future__ import annotations

import asyncio
import itertools
import types
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

import aioioth
from aioioth.testing import _leaks, no_leaks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator


class NotReachedError(Exception):
    """The coroutine was over before the await at which it should be cancelled."""

    def __init__(self, result: Any) -> None:
        super().__init__(result)
        self.result = result


@types.coroutine
def interrupted(
    coroutine: Coroutine[Any, Any, Any], at: int, times: int
) -> Generator[Any, Any, Any]:
    """Run ``coroutine``, cancelling its task when it waits for the ``at``-th time.

    And, for ``times`` 2, once more if it waits again after that.
    """
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
                raise NotReachedError(done.value) from None
            return done.value
        if at <= wait < at + times:
            loop.call_soon(task.cancel)
        try:
            value = yield waited_for
            step = coroutine.send
        except BaseException as error:  # noqa: BLE001  (thrown on)
            value, step = error, coroutine.throw
    raise AssertionError


@asynccontextmanager
async def nothing_stays() -> AsyncIterator[None]:
    """As `no_leaks`, but lets the loop do first what transports have scheduled."""
    before = _leaks._look()
    with no_leaks():
        yield
        for _ in range(1000):
            if not _leaks._look().more_than(before):
                break
            await asyncio.sleep(0.002)


async def cancel_everywhere(
    make: Callable[[], Coroutine[Any, Any, Any]],
    times: int,
    undo: Callable[[Any], Awaitable[None]],
) -> None:
    """Cancel ``make()`` at each await; ``undo`` what it returned in spite of that."""
    for at in itertools.count(1):
        async with nothing_stays():
            task = asyncio.create_task(interrupted(make(), at, times))
            try:
                await undo(await task)
            except asyncio.CancelledError:
                pass
            except NotReachedError as over:
                await undo(over.result)
                return


async def outcome(coroutine: Coroutine[Any, Any, Any], at: int, times: int) -> Any:
    """Return the error that ``coroutine`` ended with when it was cancelled."""
    task = asyncio.create_task(interrupted(coroutine, at, times))
    results = await asyncio.gather(task, return_exceptions=True)
    return results[0]


async def nothing(_: Any) -> None:
    """There is nothing to undo."""


@asynccontextmanager
async def pair(device: str | None = None) -> AsyncIterator[tuple[Any, Any]]:
    async with (
        aioioth.Stack("memory://lan", ip=["10.0.0.1/24"], device=device) as one,
        aioioth.Stack("memory://lan", ip=["10.0.0.2/24"], device=device) as two,
    ):
        yield one, two


def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


pytestmark = pytest.mark.parametrize("times", [1, 2])


async def test_open_and_close(device: str, times: int) -> None:
    async with aioioth.Stack():  # the keeper and the manager are there to stay

        async def whole_life() -> None:
            async with aioioth.Stack(
                "memory://lan",
                "eth1:null://",
                ip=["10.0.0.1/24", "fd00::1/64"],
                gw="10.0.0.254",
                device=device,
            ):
                await asyncio.sleep(0)

        await cancel_everywhere(whole_life, times, nothing)
        assert len(aioioth.stacks()) == 1


async def test_the_very_first_stack(times: int) -> None:
    """While the keeper starts. What stays is the loop's, and goes with the loop."""
    for at in itertools.count(1):

        async def first(at: int = at) -> Any:
            return await outcome(aioioth.Stack("null://").open(), at, times)

        with no_leaks():
            result = await asyncio.to_thread(asyncio.run, first())
        if isinstance(result, NotReachedError):
            assert at > 1
            return
        assert isinstance(result, asyncio.CancelledError)


async def test_aclose(times: int) -> None:
    async with aioioth.Stack():

        async def close_it() -> None:
            stack = await aioioth.Stack("memory://lan").open()
            try:
                await stack.aclose()
            finally:
                assert stack not in aioioth.stacks()

        await cancel_everywhere(close_it, times, nothing)


async def test_open_connection(device: str, times: int) -> None:
    async with pair(device) as (one, two), await one.start_server(serve, None, 7):

        async def undo(streams: Any) -> None:
            streams[1].close()
            await streams[1].wait_closed()

        for options in (
            {},
            {"local_addr": ("10.0.0.2", 0)},
            {"happy_eyeballs_delay": 0.1},
        ):
            await cancel_everywhere(
                lambda options=options: two.open_connection("10.0.0.1", 7, **options),  # type: ignore[misc]
                times,
                undo,
            )


async def test_happy_eyeballs(times: int) -> None:
    async with aioioth.Stack() as stack:

        async def undo(streams: Any) -> None:
            streams[1].close()
            await streams[1].wait_closed()

        async with await stack.start_server(serve, "127.0.0.1", 7):
            # ::1 is refused, 127.0.0.1 accepts.
            await cancel_everywhere(
                lambda: stack.open_connection(
                    "localhost", 7, happy_eyeballs_delay=0.01
                ),
                times,
                undo,
            )


@pytest.mark.parametrize("hosts", ["127.0.0.1", ["127.0.0.1", "::1"]])
async def test_start_server(times: int, hosts: Any) -> None:
    async with aioioth.Stack() as stack:

        async def undo(server: Any) -> None:
            server.close()
            await server.wait_closed()

        # libuv opens /dev/null with a loop's first server, and keeps it.
        await undo(await stack.start_server(serve, hosts, 7))
        await cancel_everywhere(
            lambda: stack.start_server(serve, hosts, 7), times, undo
        )


async def test_serve_forever(times: int) -> None:
    async with aioioth.Stack() as stack:

        async def serve_forever() -> None:
            server = await stack.start_server(serve, ["127.0.0.1", "::1"], 7)
            async with server:
                await server.serve_forever()

        server = await stack.start_server(serve, None, 7)  # see test_start_server
        server.close()
        for at in (1, 2, 3):
            async with nothing_stays():
                task = asyncio.create_task(interrupted(serve_forever(), at, times))
                # The loops wait a different number of times before it is for ever.
                done, _ = await asyncio.wait([task], timeout=0.2)
                if not done:
                    task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task


async def test_addresses_and_routes(times: int) -> None:
    async with aioioth.Stack("null://") as stack:

        async def configure() -> None:
            await stack.add_address("10.0.0.1/24", dev="vde0")
            await stack.add_address("fd00::1/64", dev="vde0")
            await stack.add_route("10.1.0.0/16", via="10.0.0.2")
            await stack.del_route("10.1.0.0/16", via="10.0.0.2")
            await stack.del_address("fd00::1/64", dev="vde0")
            await stack.del_address("10.0.0.1/24", dev="vde0")

        for at in itertools.count(1):
            with no_leaks():
                result = await outcome(configure(), at, times)
                if isinstance(result, NotReachedError):
                    assert at > 5
                    break
                assert isinstance(result, asyncio.CancelledError)
                # A cancelled request may have taken effect; start from nothing again.
                await stack.netlink.flush_addr(label="vde0")
                await stack.netlink.flush_addr(index=stack.interfaces["vde0"].index)
        # No late answer has confused a later request, and none is kept.
        assert list(stack.netlink.msg_queue.queues) == [0]
        await configure()


async def test_events(times: int) -> None:
    async with aioioth.Stack("null://") as stack:
        events = stack.events()

        async def wait() -> None:
            await anext(events)

        with no_leaks():
            task = asyncio.create_task(interrupted(wait(), 1, times))
            with pytest.raises(asyncio.CancelledError):
                await task
        events.close()
        with pytest.raises(StopAsyncIteration):
            await anext(events)
