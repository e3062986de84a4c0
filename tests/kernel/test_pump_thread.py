"""Stacks and cables whose frames are moved by aioioth's thread."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import subprocess
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import trio
import uvloop

import aioioth
from aioioth import Cable, Stack, errors, events
from aioioth.testing import cancel_everywhere, no_leaks
from tests.kernel.children import forked

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name == "aioioth"]


def new_loop_like_this() -> Callable[[], asyncio.AbstractEventLoop]:
    is_uvloop = isinstance(asyncio.get_running_loop(), uvloop.Loop)
    return uvloop.new_event_loop if is_uvloop else asyncio.new_event_loop


async def in_another_loop(main: Coroutine[Any, Any, Any]) -> None:
    make = new_loop_like_this()

    def run() -> None:
        with asyncio.Runner(loop_factory=make) as runner:
            runner.run(main)

    await asyncio.to_thread(run)


# What works as ever


@pytest.mark.parametrize("both", [True, False], ids=["both", "one"])
async def test_echo(device: str, both: bool, echo: Any, ask: Any) -> None:
    async with (
        Stack("memory://lan", ip="10.0.0.1/24", device=device, pump_thread=True) as one,
        Stack("memory://lan", ip="10.0.0.2/24", device=device, pump_thread=both) as two,
    ):
        assert threads() == ["aioioth"]
        assert aioioth.stacks() == (one, two)
        async with (
            await one.start_server(echo, "10.0.0.1", 7),
            await two.start_server(echo, "10.0.0.2", 7),
        ):
            text = bytes(range(256)) * 4000
            assert await ask(one, "10.0.0.2", text) == text
            assert await ask(two, "10.0.0.1", text) == text
        assert one.stats()["vde0"].sent.frames > 0
        assert two.stats()["vde0"].sent.frames > 0
    assert threads() == []
    assert aioioth.stacks() == ()


async def test_methods_that_configure() -> None:
    async with Stack("null://", ip="10.0.0.1/24", pump_thread=True) as stack:
        await stack.add_address("10.1.0.1/24", dev="vde0")
        await stack.add_route("10.2.0.0/16", via="10.1.0.2")
        await stack.sysctl("net.ipv4.ip_forward", 1)
        with pytest.raises(errors.NetlinkError):
            await stack.add_address("10.1.0.1/24", dev="vde0")
        with pytest.raises(errors.ConfigurationError):
            await stack.sysctl("kernel.hostname", "x")
        await stack.del_route("10.2.0.0/16", via="10.1.0.2")
        await stack.del_address("10.1.0.1/24", dev="vde0")
        assert await stack.run("/bin/true; /bin/false") == 1
        with pytest.raises(errors.BusyError):
            await stack.open()
        with stack.socket() as sock:
            assert [each.fd for each in stack.sockets()] == [sock.fileno()]
            with pytest.raises(errors.BusyError):
                await stack.aclose(strict=True)
    with pytest.raises(errors.ClosedError):
        await stack.add_address("10.1.0.1/24", dev="vde0")
    await stack.aclose()
    stack.close()
    assert threads() == []


async def test_interfaces_and_events() -> None:
    async with Stack(pump_thread=True) as stack:
        happened, unread = (
            stack.events(events.StackEvent),
            stack.events(events.StackEvent),
        )
        added = await stack.add_interface("memory://lan", ip="10.0.0.1/24")
        assert await anext(happened) == events.InterfaceAdded("vde0", "memory://lan")
        await added.set_carrier(False)
        assert not stack.interfaces["vde0"].attached
        assert await anext(happened) == events.CarrierDown("vde0", "pulled out")
        await stack.interfaces["vde0"].set_carrier(True)
        assert await anext(happened) == events.CarrierUp("vde0", 1)
        waiting = asyncio.create_task(anext(happened))
        await asyncio.sleep(0)  # it waits
        await stack.remove_interface("vde0")
        assert await waiting == events.InterfaceRemoved("vde0")
        with pytest.raises(errors.ClosedError):
            await added.set_carrier(False)
        last = asyncio.create_task(anext(happened))
        await asyncio.sleep(0)
        happened.close()
        with pytest.raises(StopAsyncIteration):
            await last
    # What nobody has read can be read in the end, and there is an end.
    kinds = [type(event) async for event in unread]
    assert kinds == [
        events.InterfaceAdded,
        events.CarrierDown,
        events.CarrierUp,
        events.InterfaceRemoved,
    ]
    assert threads() == []


async def test_an_event_alone_wakes_the_loop() -> None:
    def elsewhere() -> None:
        asyncio.run(stack.add_interface("null://"))

    async with Stack(pump_thread=True) as stack:
        waiting = asyncio.create_task(anext(stack.events(events.StackEvent)))
        await asyncio.sleep(0)  # it waits
        other = threading.Thread(target=elsewhere)
        other.start()
        async with asyncio.timeout(20):
            assert await waiting == events.InterfaceAdded("vde0", "null://")
        other.join()


async def test_netlink_and_share() -> None:
    async with Stack("null://", name="mine", pump_thread=True) as stack:
        with pytest.raises(errors.ConfigurationError, match="attach to it"):
            _ = stack.netlink
        async with Stack.attach(stack.share()) as here:
            assert here.name == "mine"
            assert [
                link.get("ifname") async for link in await here.netlink.get_links()
            ] == ["lo", "vde0"]
        assert stack.share() == stack.share()
    with pytest.raises(errors.ClosedError):
        _ = stack.netlink


@pytest.mark.parametrize("vnl", ["bridge://", "bridge://pump-thread-test"])
async def test_bridges(vnl: str, echo: Any, ask: Any) -> None:
    """No frame comes here: the thread is of no use, and does no harm."""
    name = f"{vnl}-{os.getpid()}" if vnl != "bridge://" else vnl
    async with (
        Stack(name, ip="10.0.0.1/24", pump_thread=True) as one,
        Stack(name, ip="10.0.0.2/24") as two,
        Cable(name, "memory://lan", pump_thread=True),
        Stack("memory://lan", ip="10.0.0.3/24", pump_thread=True) as three,
        await one.start_server(echo, "10.0.0.1", 7),
    ):
        assert await ask(two, "10.0.0.1", b"kernel") == b"kernel"
        assert await ask(three, "10.0.0.1", b"cable") == b"cable"


async def test_a_cable(echo: Any, ask: Any) -> None:
    async with (
        Stack("memory://a", ip="10.0.0.1/24") as one,
        Stack("memory://b", ip="10.0.0.2/24") as two,
        Cable("memory://a", "memory://b", pump_thread=True) as cable,
        await one.start_server(echo, "10.0.0.1", 7),
    ):
        assert threads() == ["aioioth"]
        assert cable.attached
        assert await ask(two, "10.0.0.1", b"hello") == b"hello"
        assert cable.stats().b_to_a.frames > 0
        happened = cable.events()
        happened.close()
        with pytest.raises(StopAsyncIteration):
            await anext(happened)
    assert threads() == []


async def test_many_at_once() -> None:
    settings: dict[str, Any] = {"ip": "10.0.0.1/24", "pump_thread": True}
    async with aioioth.open_stacks(8, "memory://lan", **settings) as stacks:
        assert aioioth.stacks() == tuple(sorted(stacks, key=aioioth.stacks().index))
        assert threads() == ["aioioth"]
    assert threads() == []


async def test_what_cannot_be_opened() -> None:
    stack = Stack("vde:///nowhere", pump_thread=True)
    with pytest.raises(errors.BrokenTransportError):
        await stack.open()
    assert threads() == []
    stack.close()
    with pytest.raises(errors.ClosedError):
        await stack.open()
    assert threads() == []


# The purpose


async def ping_blocking_the_loop(stack: Stack, *args: str) -> str:
    """Return what a program says, without a turn of the loop until it has ended."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as pipe:
        try:
            process = await stack.create_subprocess_exec(
                "/bin/ping", *args, "10.0.0.2", stdout=writing
            )
        finally:
            os.close(writing)
        said = pipe.read()
    await process.wait()
    return said


@pytest.mark.parametrize("cable", [False, True], ids=["stacks", "cable"])
async def test_frames_while_the_loop_is_blocked(cable: bool) -> None:
    """A program waits for answers; the loop does nothing until it has ended."""
    async with contextlib.AsyncExitStack() as undo:
        one = Stack("memory://a", ip="10.0.0.1/24", pump_thread=True)
        other = "memory://b" if cable else "memory://a"
        two = Stack(other, ip="10.0.0.2/24", pump_thread=True)
        for each in (one, two):
            await undo.enter_async_context(each)
        if cable:
            joint = Cable("memory://a", "memory://b", pump_thread=True)
            await undo.enter_async_context(joint)
        said = await ping_blocking_the_loop(one, "-c3", "-i0.01", "-W20")
        assert ", 3 received" in said


async def test_without_the_thread_they_wait() -> None:
    """The test above can fail."""
    async with (
        Stack("memory://lan", ip="10.0.0.1/24") as one,
        Stack("memory://lan", ip="10.0.0.2/24"),
    ):
        said = await ping_blocking_the_loop(one, "-c1", "-W1")
        assert ", 0 received" in said


# Cancellation


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("company", [True, False])
async def test_cancelled_anywhere(company: bool, times: int) -> None:
    async def whole_life() -> None:
        async with Stack("memory://lan", ip="10.0.0.1/24", pump_thread=True) as stack:
            await stack.add_address("10.1.0.1/24", dev="vde0")
            await stack.add_interface("null://")
            await stack.remove_interface("vde1")

    async with Stack(pump_thread=company):  # the manager is there to stay
        assert await cancel_everywhere(whole_life, times=times) >= 5
        assert len(aioioth.stacks()) == 1
        assert len(threads()) == company


@pytest.mark.parametrize("times", [1, 2])
async def test_other_calls_cancelled(times: int) -> None:
    async with Stack("memory://lan", pump_thread=True) as stack:
        vde0 = stack.interfaces["vde0"]

        async def switch() -> None:
            try:
                await vde0.set_carrier(False)
            finally:
                await vde0.set_carrier(True)

        assert await cancel_everywhere(switch, times=times) >= 2
        assert vde0.attached

        async def program() -> None:
            await stack.run("/bin/sleep 0.01")

        assert await cancel_everywhere(program, times=times) >= 1

        async def wait() -> None:
            with contextlib.closing(stack.events(events.StackEvent)) as happened:
                await stack.add_interface("null://", "extra")
                try:
                    await anext(happened)
                finally:
                    await stack.remove_interface("extra")

        assert await cancel_everywhere(wait, times=times) >= 3


async def test_cancelled_at_any_time() -> None:
    """Whatever the thread is doing then; what was opened is closed or known."""
    async with Stack("memory://lan", pump_thread=True):
        for turns in range(60):
            with no_leaks():
                stack = Stack("memory://lan", ip="10.0.0.1/24", pump_thread=True)
                opening = asyncio.create_task(stack.open())
                for _ in range(turns):
                    await asyncio.sleep(0.0002)
                opening.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await opening
                assert (stack in aioioth.stacks()) is not opening.cancelled()
                await stack.aclose()


async def late(cancel: Callable[[asyncio.Task[Any]], object], then: Any) -> list[str]:
    """Cancel a task when the thread has done its errand, and it does not know yet."""
    log: list[str] = []

    async def work(stack: Stack) -> None:
        await stack.sysctl("net.ipv4.ip_forward", 1)
        log.append("done")
        await then()
        log.append("went on")

    async with Stack(pump_thread=True) as stack:
        task = asyncio.create_task(work(stack))
        await asyncio.sleep(0)
        # Holds up the loop until the thread has said that it is over.
        while True:
            pending = stack._running.manager.loop  # type: ignore[union-attr]
            asked = asyncio.run_coroutine_threadsafe(_count_tasks(), pending)
            if asked.result() == 0:
                break
        asyncio.get_running_loop().call_soon(cancel, task)
        with contextlib.suppress(asyncio.CancelledError):
            await task
        log.append("cancelled" if task.cancelled() else "ended")
    return log


async def _count_tasks() -> int:
    """Return how many tasks of others there are, the thread's main one not counted."""
    return len(asyncio.all_tasks()) - 2


async def test_cancelled_too_late() -> None:
    """The result is not lost, and neither is the cancellation."""
    never: Any = asyncio.Event().wait
    assert await late(asyncio.Task.cancel, never) == ["done", "cancelled"]


async def test_a_timeout_that_is_too_late() -> None:
    """It was for a block that is over, so what follows is not cancelled."""

    def expire(task: asyncio.Task[Any]) -> None:
        task.cancel()
        asyncio.get_running_loop().call_soon(task.uncancel)

    async def turns() -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    assert await late(expire, turns) == ["done", "went on", "ended"]


async def test_a_timeout_while_it_waits() -> None:
    async with Stack(pump_thread=True) as stack:
        happened = stack.events(events.StackEvent)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(happened)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


# The end


async def test_closed_by_whom() -> None:
    one = await Stack("memory://lan", pump_thread=True).open()
    two = await Stack("memory://lan", pump_thread=True).open()
    await asyncio.to_thread(one.close)
    assert aioioth.stacks() == (two,)
    assert threads() == ["aioioth"]
    two.close()
    assert threads() == []
    assert aioioth.stacks() == ()


async def test_closed_while_it_opens() -> None:
    async with Stack("memory://lan", pump_thread=True):
        with no_leaks():
            stack = Stack("memory://lan", pump_thread=True)
            opening = asyncio.create_task(stack.open())
            await asyncio.sleep(0)
            stack.close()
            with pytest.raises(errors.ClosedError):
                await opening


async def test_forgotten_by_its_loop() -> None:
    async def forget() -> None:
        await Stack("memory://lan", name="mine", pump_thread=True).open()
        await Cable("memory://lan", "null://", name="mine", pump_thread=True).open()

    kinds = errors.UnclosedStackWarning, errors.UnclosedCableWarning
    async with Stack(pump_thread=True) as other:
        with no_leaks(), pytest.warns(kinds) as warned:
            await in_another_loop(forget())
        told = sorted(str(each.message).split(" was ")[0] for each in warned)
        assert told == ["cable 'mine'", "stack 'mine'"]
        assert {each.filename for each in warned} == {__file__}
        assert aioioth.stacks() == (other,)
    assert threads() == []


@pytest.mark.parametrize("ending", ["asyncio.run(main())", "loop.close()", "sys.exit"])
def test_forgotten_by_the_program(tmp_path: Path, ending: str) -> None:
    program = tmp_path / "forgetful.py"
    program.write_text(
        "import aioioth, asyncio, sys\n"
        "async def main():\n"
        "    await aioioth.Stack(\n"
        "        'memory://lan', name='mine', pump_thread=True).open()\n"
        "loop = asyncio.new_event_loop()\n"
        + {
            "asyncio.run(main())": "asyncio.run(main())\nloop.close()\n",
            "loop.close()": "loop.run_until_complete(main())\nloop.close()\n",
            "sys.exit": "loop.run_until_complete(main())\nsys.exit(0)\n",
        }[ending]
    )
    with no_leaks():
        done = subprocess.run(
            [sys.executable, "-W", "ignore::ResourceWarning:asyncio", program],
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("UnclosedStackWarning: stack 'mine'") == 1, done.stderr
    assert f"{program}:3: UnclosedStackWarning" in done.stderr
    assert "Traceback" not in done.stderr


async def test_nobody_keeps_it() -> None:
    stack = Stack("memory://lan", pump_thread=True)
    async with stack:
        happened = stack.events()
        happened.close()
    ref = weakref.ref(stack)
    del stack
    gc.collect()
    assert ref() is None


# Fork


async def test_fork(echo: Any, ask: Any) -> None:
    make = new_loop_like_this()

    def child() -> None:
        with asyncio.Runner(loop_factory=make) as runner:
            runner.run(in_child())

    async def in_child() -> None:
        assert threads() == []
        assert aioioth.stacks() == ()
        assert await ask(one, "10.0.0.2", b"from the child") == b"from the child"
        with pytest.raises(errors.WrongLoopError, match="in the parent"):
            await one.add_address("10.0.0.9/24", dev="vde0")
        with pytest.raises(errors.WrongLoopError, match="in the parent"):
            one.events()
        async with (
            Stack("memory://lan", ip="10.0.0.1/24", pump_thread=True) as own,
            Stack("memory://lan", ip="10.0.0.2/24", pump_thread=True) as server,
            await server.start_server(echo, "10.0.0.2", 7),
        ):
            assert threads() == ["aioioth"]
            assert await ask(own, "10.0.0.2", b"own") == b"own"
            await one.aclose()
        two.close()
        assert threads() == []

    async with (
        Stack("memory://lan", ip="10.0.0.1/24", pump_thread=True) as one,
        Stack("memory://lan", ip="10.0.0.2/24", pump_thread=True) as two,
        await two.start_server(echo, "10.0.0.2", 7),
    ):
        await forked(child)
        assert await ask(one, "10.0.0.2", b"still there") == b"still there"
        await one.add_address("10.0.0.9/24", dev="vde0")


# Several loops


async def test_two_loops(echo: Any, ask: Any) -> None:
    async def other() -> None:
        assert aioioth.stacks() == ()
        await one.add_address("10.1.0.1/24", dev="vde0")
        async with Stack("memory://lan", ip="10.0.0.2/24", pump_thread=True) as two:
            assert aioioth.stacks() == (two,)
            assert threads() == ["aioioth"]
            assert await ask(two, "10.0.0.1", b"hello") == b"hello"
        happened = one.events(events.StackEvent)
        await one.interfaces["vde0"].set_carrier(False)
        await one.interfaces["vde0"].set_carrier(True)
        assert type(await anext(happened)) is events.CarrierDown
        happened.close()

    async def close() -> None:
        await one.aclose()
        await one.aclose()

    async with (
        Stack("memory://lan", ip="10.0.0.1/24", pump_thread=True) as one,
        Stack() as ordinary,
    ):
        async with await one.start_server(echo, "10.0.0.1", 7):
            # The server needs this loop meanwhile.
            await in_another_loop(other())
        with pytest.raises(errors.WrongLoopError):
            await in_another_loop(ordinary.sysctl("net.ipv4.ip_forward", 1))
        assert aioioth.stacks() == (one, ordinary)
        await in_another_loop(close())
        assert aioioth.stacks() == (ordinary,)
        assert threads() == []


async def test_together_with_trio() -> None:
    async def on_trio(asyncios: Stack) -> None:
        assert aioioth.stacks() == ()
        await asyncios.add_address("10.1.0.1/24", dev="vde0")
        await asyncios.interfaces["vde0"].set_carrier(False)
        await asyncios.interfaces["vde0"].set_carrier(True)
        async with Stack("memory://lan", ip="10.0.0.2/24", pump_thread=True) as trios:
            assert aioioth.stacks() == (trios,)
            assert threads() == ["aioioth"]
            assert await trios.run("/bin/ping -q -c 1 -W 20 10.0.0.1") == 0
        with pytest.raises(errors.WrongLoopError):
            await ordinary.sysctl("net.ipv4.ip_forward", 1)

    async with (
        Stack("memory://lan", ip="10.0.0.1/24", pump_thread=True) as stack,
        Stack() as ordinary,
    ):
        await asyncio.to_thread(trio.run, on_trio, stack)
        assert threads() == ["aioioth"]
        assert aioioth.stacks() == (stack, ordinary)
    assert threads() == []


async def test_closed_under_trio() -> None:
    async def on_trio(stack: Stack) -> None:
        await stack.aclose()

    stack = await Stack("memory://lan", pump_thread=True).open()
    await asyncio.to_thread(trio.run, on_trio, stack)
    assert aioioth.stacks() == ()
    assert threads() == []
