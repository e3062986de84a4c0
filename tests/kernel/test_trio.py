"""Stacks in trio programs, and the default stack for code that only knows trio."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
import trio
import trio.testing

import aioioth
from aioioth.errors import ClosedError, ConfigurationError, NetlinkError, WrongLoopError
from aioioth.testing import no_leaks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name == "aioioth"]


def test_a_stack() -> None:
    async def main() -> None:
        assert threads() == []
        async with aioioth.Stack("null://", ip="10.0.0.1/24") as stack:
            assert threads() == ["aioioth"]
            assert stack.interfaces["vde0"].attached
            assert stack.interfaces["vde0"].mtu == 1500
            assert set(stack.stats()) == {"vde0"}
            await stack.add_address("10.1.0.1/24", dev="vde0")
            await stack.add_address("fd00::1/64", dev="vde0")
            await stack.add_route("10.2.0.0/16", via="10.1.0.2")
            await stack.sysctl("net.ipv4.ip_forward", 1)
            with stack.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                assert len(stack.sockets()) == 1
                sock.connect(("10.2.3.4", 9))
                assert sock.getsockname()[0] == "10.1.0.1"
            assert stack.sockets() == []
            await stack.del_route("10.2.0.0/16", via="10.1.0.2")
            await stack.del_address("10.1.0.1/24", dev="vde0")
            with pytest.raises(NetlinkError):
                await stack.del_address("10.1.0.1/24", dev="vde0")
            with pytest.raises(ConfigurationError):
                await stack.sysctl("kernel.hostname", "x")
            with pytest.raises(aioioth.errors.BusyError):
                await stack.open()
        assert threads() == []
        with pytest.raises(ClosedError):
            await stack.add_address("10.1.0.1/24", dev="vde0")
        await stack.aclose()
        assert threads() == []

    trio.run(main)


def test_the_thread_stays_while_it_is_needed() -> None:
    async def main() -> None:
        one = await aioioth.Stack("memory://lan").open()
        two = await aioioth.Stack("memory://lan").open()
        assert threads() == ["aioioth"]
        await one.aclose()
        assert threads() == ["aioioth"]
        two.close()
        assert threads() == []

    trio.run(main)


def test_a_stack_that_cannot_be_opened() -> None:
    async def main() -> None:
        with pytest.raises(aioioth.errors.BrokenTransportError):
            await aioioth.Stack("vde:///nowhere").open()
        assert threads() == []

    trio.run(main)


def test_many_at_once() -> None:
    async def one(number: int) -> None:
        async with aioioth.Stack("memory://lan", ip=f"10.0.0.{number}/24") as stack:
            await stack.add_address("10.1.0.1/24", dev="vde0")

    async def main() -> None:
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                for number in range(1, 6):
                    nursery.start_soon(one, number)
            assert threads() == []

    trio.run(main)


def test_closed_by_a_thread_and_after_the_run() -> None:
    async def main() -> aioioth.Stack:
        stack = await aioioth.Stack("memory://lan").open()
        await trio.to_thread.run_sync(stack.close)
        assert threads() == []
        return await aioioth.Stack("memory://lan").open()

    stack = trio.run(main)
    assert stack.interfaces["vde0"].attached
    trio.run(partial(stack.sysctl, "net.ipv4.ip_forward", 1))
    stack.close()
    assert threads() == []


def test_events() -> None:
    async def main() -> None:
        async with aioioth.Stack("null://") as stack:
            events, others = stack.events(), stack.events()
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(events.__anext__)
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
            assert scope.cancelled_caught
            others.close()
            with pytest.raises(StopAsyncIteration):
                await anext(others)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(exhaust, events)
                await trio.testing.wait_all_tasks_blocked()
                await stack.aclose()

    async def exhaust(events: aioioth.EventStream) -> None:
        assert [event async for event in events] == []

    trio.run(main)


def test_a_stack_of_another_loop() -> None:
    async def on_trio(stack: aioioth.Stack) -> None:
        with pytest.raises(WrongLoopError):
            await stack.add_address("10.0.0.1/24", dev="vde0")
        with pytest.raises(WrongLoopError):
            await stack.aclose()
        listener = await stack.create_tcp_listener(local_host="127.0.0.1", local_port=7)
        async with listener, await stack.connect_tcp("127.0.0.1", 7):
            assert len(stack.sockets()) == 2

    async def main() -> None:
        async with aioioth.Stack("null://") as stack:
            await asyncio.to_thread(trio.run, on_trio, stack)
            await stack.add_address("10.0.0.1/24", dev="vde0")

    asyncio.run(main())


def test_a_stack_of_trio_on_another_loop() -> None:
    async def on_asyncio(stack: aioioth.Stack) -> None:
        with pytest.raises(WrongLoopError):
            await stack.add_address("10.0.0.1/24", dev="vde0")
        server = await stack.start_server(lambda _, writer: writer.close(), None, 7)
        _, writer = await stack.open_connection("127.0.0.1", 7)
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    async def main() -> None:
        async with aioioth.Stack("null://") as stack:
            await trio.to_thread.run_sync(asyncio.run, on_asyncio(stack))
            await stack.add_address("10.0.0.1/24", dev="vde0")

    trio.run(main)


async def test_trio_as_a_guest_of_asyncio() -> None:
    async def guest() -> str:
        async with aioioth.Stack("null://", ip="10.0.0.1/24") as stack:
            assert threads() == ["aioioth"]
            await stack.add_address("10.1.0.1/24", dev="vde0")
        return "done"

    loop = asyncio.get_running_loop()
    over: asyncio.Future[Any] = loop.create_future()
    trio.lowlevel.start_guest_run(
        guest,
        run_sync_soon_threadsafe=loop.call_soon_threadsafe,
        done_callback=over.set_result,
        host_uses_signal_set_wakeup_fd=True,
    )
    async with aioioth.Stack("null://"):
        assert (await over).unwrap() == "done"
        assert len(aioioth.stacks()) == 1


class CancelAt(trio.abc.Instrument):
    """Cancels a scope when the tasks of a run have taken some steps."""

    def __init__(self, steps: int, scope: trio.CancelScope) -> None:
        self.steps = steps
        self._scope = scope

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps -= 1
        if self.steps == 0:
            self._scope.cancel()


async def cancelled_everywhere(work: Callable[[], Awaitable[Any]]) -> int:
    """Cancel ``work`` after its first step, its second, ..., until it is over."""
    for steps in range(1, 1000):
        with no_leaks(), trio.CancelScope() as scope:
            instrument = CancelAt(steps, scope)
            trio.lowlevel.add_instrument(instrument)
            try:
                await work()
            finally:
                trio.lowlevel.remove_instrument(instrument)
        if instrument.steps > 0:
            return steps
    raise AssertionError


@pytest.mark.parametrize("company", [True, False])
def test_cancelled_anywhere(company: bool) -> None:
    async def work() -> None:
        async with aioioth.Stack("memory://lan", ip="10.0.0.1/24") as stack:
            await stack.add_address("10.1.0.1/24", dev="vde0")

    async def main() -> None:
        if not company:
            # Each time the thread comes and goes.
            assert await cancelled_everywhere(work) > 3
            assert threads() == []
            return
        async with aioioth.Stack("memory://lan"):
            assert await cancelled_everywhere(work) > 3

    trio.run(main)


def test_cancelled_while_it_opens() -> None:
    """At times that have nothing to do with trio's steps."""

    async def main() -> None:
        async with aioioth.Stack("memory://lan"):
            for milliseconds in range(1, 30, 2):
                with no_leaks(), trio.move_on_after(milliseconds / 1000):
                    async with aioioth.Stack("memory://lan", ip="10.0.0.1/24"):
                        await trio.sleep_forever()

    trio.run(main)


def test_closed_in_a_cancelled_scope() -> None:
    async def main() -> None:
        with trio.CancelScope() as scope:
            async with aioioth.Stack("memory://lan") as stack:
                scope.cancel()
        with pytest.raises(ClosedError):
            stack.interfaces  # noqa: B018
        assert threads() == []

    trio.run(main)


def test_ctrl_c() -> None:
    async def main() -> None:
        async with aioioth.Stack("memory://lan") as stack:
            signal.raise_signal(signal.SIGINT)
            await stack.add_address("10.0.0.1/24", dev="vde0")

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert threads() == []


def test_a_forgotten_stack(tmp_path: Path) -> None:
    program = tmp_path / "forgetful.py"
    program.write_text(
        "import aioioth, trio\n"
        "async def main():\n"
        "    await aioioth.Stack('memory://lan', name='mine').open()\n"
        "trio.run(main)\n"
        "print('over')\n"
    )
    with no_leaks():
        done = subprocess.run(
            [sys.executable, program], capture_output=True, text=True, timeout=30
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "over\n"
    assert f"{program}:3: UnclosedStackWarning: stack 'mine'" in done.stderr
    assert "Traceback" not in done.stderr


# The default stack


async def say(text: bytes, stream: trio.SocketStream) -> None:
    async with stream:
        await stream.send_all(text)


async def heard(stream: Any) -> bytes:
    async with stream:
        return b"".join([bytes(each) async for each in stream])


def test_trio_on_the_default_stack() -> None:
    async def main() -> None:
        async with (
            aioioth.Stack("memory://lan", ip="10.0.0.1/24") as one,
            aioioth.Stack(
                "memory://lan", ip="10.0.0.2/24", hosts={"one": "10.0.0.1"}
            ) as two,
        ):
            async with trio.open_nursery() as nursery:
                with one.activate():
                    await nursery.start(trio.serve_tcp, partial(say, b"from one"), 7777)
                # The host's own, on the same port.
                await nursery.start(
                    trio.serve_tcp, partial(say, b"from the host"), 7777
                )
                with two.activate():
                    assert await heard(await trio.open_tcp_stream("one", 7777)) == (
                        b"from one"
                    )
                    stream = await trio.open_tcp_stream("10.0.0.1", 7777)
                    assert stream.socket.getsockname()[0] == "10.0.0.2"
                    assert await heard(stream) == b"from one"
                    assert (
                        await heard(await anyio.connect_tcp("one", 7777)) == b"from one"
                    )
                    with pytest.raises(OSError, match="all attempts to connect"):
                        await trio.open_tcp_stream("10.0.0.1", 9)
                    with pytest.raises(socket.gaierror):
                        await trio.open_tcp_stream("nowhere.invalid", 9)
                    assert await trio.socket.getaddrinfo(
                        "one", "http", type=socket.SOCK_STREAM
                    ) == await two.getaddrinfo("one", 80, type=socket.SOCK_STREAM)
                    with one.activate():
                        stream = await trio.open_tcp_stream("127.0.0.1", 7777)
                        assert await heard(stream) == b"from one"
                    with pytest.raises(OSError, match="all attempts to connect"):
                        await trio.open_tcp_stream("127.0.0.1", 7777)
                    udp = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                    with udp:
                        await udp.connect(("one", 9))
                        assert udp.getsockname()[0] == "10.0.0.2"
                        host, port = await trio.socket.getnameinfo(
                            ("10.0.0.1", 9), socket.NI_NUMERICSERV
                        )
                        assert (host, port) == ("one", "9")
                stream = await trio.open_tcp_stream("127.0.0.1", 7777)
                assert await heard(stream) == b"from the host"
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_each_task_has_its_own() -> None:
    async def where(
        stack: aioioth.Stack | None, begun: trio.Event, go: trio.Event, into: list[Any]
    ) -> None:
        async def look() -> None:
            await go.wait()
            with trio.socket.socket() as sock:
                into.append((stack, sock.fileno() in inside(stack)))

        if stack is None:
            begun.set()
            await look()
            return
        with stack.activate():
            begun.set()
            await look()

    def inside(stack: aioioth.Stack | None) -> set[int]:
        if stack is None:
            return set(range(100000)).difference(*map(inside, stacks))
        return {each.fd for each in stack.sockets()}

    stacks: list[aioioth.Stack] = []

    async def main() -> None:
        async with aioioth.Stack() as one, aioioth.Stack() as two:
            stacks.extend([one, two])
            found: list[Any] = []
            go = trio.Event()
            async with trio.open_nursery() as nursery:
                for stack in (one, None, two):
                    begun = trio.Event()
                    nursery.start_soon(where, stack, begun, go, found)
                    await begun.wait()
                go.set()
            assert len(found) == 3
            assert all(right for _, right in found)

    trio.run(main)


class Before(trio.abc.SocketFactory, trio.abc.HostnameResolver):
    """What a program may have set for itself."""

    def socket(self, *args: Any) -> Any:
        return trio.socket.from_stdlib_socket(socket.socket(socket.AF_UNIX))

    async def getaddrinfo(self, *args: Any) -> Any:
        return [args]

    async def getnameinfo(self, *args: Any) -> Any:
        return args


def installed() -> tuple[Any, Any]:
    factory = trio.socket.set_custom_socket_factory(None)
    resolver = trio.socket.set_custom_hostname_resolver(None)
    trio.socket.set_custom_socket_factory(factory)
    trio.socket.set_custom_hostname_resolver(resolver)
    return factory, resolver


@pytest.mark.parametrize("before", [None, Before()], ids=["nothing", "something"])
def test_what_was_there_before(before: Before | None) -> None:
    async def aside(stack: aioioth.Stack, task_status: Any) -> None:
        with stack.activate():
            task_status.started()
            await trio.sleep_forever()

    async def main() -> None:
        trio.socket.set_custom_socket_factory(before)
        trio.socket.set_custom_hostname_resolver(before)
        async with aioioth.Stack() as stack, trio.open_nursery() as nursery:
            await nursery.start(aside, stack)
            assert installed() != (before, before)
            # Not in the context of that task: the stack is not asked.
            with trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
                expected = socket.AF_UNIX if before else socket.AF_INET
                assert sock.family is expected
                assert stack.sockets() == []
            if before:
                found: Any = await trio.socket.getaddrinfo("any", 7)
                assert found == [(b"any", 7, 0, 0, 0, 0)]
                sockaddr = ("127.0.0.1", 7)
                found = await trio.socket.getnameinfo(sockaddr, 0)
                assert found == (sockaddr, 0)
            else:
                with pytest.raises(socket.gaierror):
                    await trio.socket.getaddrinfo("nowhere.invalid", 7)
                assert await trio.socket.getnameinfo(
                    ("127.0.0.1", 7), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
                ) == ("127.0.0.1", "7")
            with stack.activate(), stack.activate():
                with trio.socket.socket() as sock:
                    assert [each.fd for each in stack.sockets()] == [sock.fileno()]
            nursery.cancel_scope.cancel()
        assert installed() == (before, before)

    trio.run(main)


def test_local_sockets_are_the_hosts(tmp_path: Path) -> None:
    async def main() -> None:
        async with aioioth.Stack() as stack:
            with stack.activate():
                with trio.socket.socket(socket.AF_UNIX) as listening:
                    await listening.bind(str(tmp_path / "sock"))
                    listening.listen()
                    stream = await trio.open_unix_socket(str(tmp_path / "sock"))
                    await stream.aclose()
                    assert stack.sockets() == []

    trio.run(main)


def test_whoever_came_later_stays() -> None:
    async def main() -> None:
        later = Before()
        async with aioioth.Stack() as stack:
            with stack.activate():
                trio.socket.set_custom_socket_factory(later)
            assert installed() == (later, None)

    trio.run(main)


def test_httpx() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"
                b"Connection: close\r\n\r\nhello"
            )

    async def main() -> None:
        async with aioioth.Stack(hosts={"service": "127.0.0.1"}) as stack:
            with stack.activate():
                async with trio.open_nursery() as nursery:
                    await nursery.start(partial(trio.serve_tcp, serve, 80))
                    async with httpx.AsyncClient(trust_env=False) as client:
                        answer = await client.get("http://service/")
                        assert answer.text == "hello"
                    nursery.cancel_scope.cancel()

    trio.run(main)


@pytest.mark.parametrize("patch", [False, True])
def test_with_patch_and_guard(patch: bool) -> None:
    async def main() -> None:
        async with aioioth.Stack(hosts={"service": "127.0.0.1"}) as stack:
            with stack.activate(patch=patch, guard=True):
                async with trio.open_nursery() as nursery:
                    handler = partial(say, b"hello")
                    await nursery.start(partial(trio.serve_tcp, handler, 7))
                    stream = await trio.open_tcp_stream("service", 7)
                    assert await heard(stream) == b"hello"
                    nursery.cancel_scope.cancel()

    trio.run(main)
