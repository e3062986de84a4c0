"""A stack in forked children, in threads and on other event loops."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

import aioioth
from aioioth import _manager, errors
from aioioth.testing import no_leaks
from tests.kernel.children import forked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    Child = Callable[["Lan"], Coroutine[Any, Any, None]]

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class Lan:
    """Two stacks, a server in each, and a connection that is open all the time."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    shared_at: str

    def __init__(self, one: aioioth.Stack, two: aioioth.Stack, ask: Any) -> None:
        self.one, self.two, self.ask = one, two, ask

    async def check(self, address: str) -> None:
        """See that everything works that an owner can do."""
        self.writer.write(b"ping")
        assert await self.reader.readexactly(4) == b"ping"
        assert await self.ask(self.one, "10.0.0.2", b"there") == b"there"
        assert await self.ask(self.two, "10.0.0.1", b"back") == b"back"
        await self.one.add_address(address, dev="vde0")
        assert self.one.stats()["vde0"].sent.frames > 0
        assert await asyncio.to_thread(lambda: "a thread") == "a thread"


@asynccontextmanager
async def lan(echo: Any, ask: Any) -> AsyncIterator[Lan]:
    before = asyncio.all_tasks()
    async with (
        aioioth.Stack("memory://lan", ip="10.0.0.1/24", hosts={"b": "10.0.0.2"}) as one,
        aioioth.Stack("memory://lan", ip="10.0.0.2/24", name="two") as two,
        await one.start_server(echo, "10.0.0.1", 7),
        await two.start_server(echo, "10.0.0.2", 7),
    ):
        made = Lan(one, two, ask)
        made.reader, made.writer = await one.open_connection("10.0.0.2", 7)
        await made.check("10.0.1.1/24")
        yield made
        await made.check("10.0.1.2/24")
        made.writer.close()
        await made.writer.wait_closed()
        while asyncio.all_tasks() - before:  # the servers' callbacks
            await asyncio.sleep(0)


def keeper_pid() -> int | None:
    return _manager._keeper.pid


def run_new(main: Coroutine[Any, Any, None]) -> None:
    """As a child does: on a new loop of the kind that the parent's is."""
    with asyncio.Runner(loop_factory=NEW_LOOP[0]) as runner:
        runner.run(main)


NEW_LOOP: list[Callable[[], asyncio.AbstractEventLoop]] = []


@pytest.fixture(autouse=True)
async def _kind_of_loop() -> None:
    is_uvloop = isinstance(asyncio.get_running_loop(), uvloop.Loop)
    NEW_LOOP[:] = [LOOPS["uvloop" if is_uvloop else "asyncio"]]


# What children do


async def connect(lan: Lan) -> None:
    assert aioioth.stacks() == ()
    assert await lan.ask(lan.one, "b", b"from the child") == b"from the child"
    infos = await lan.one.getaddrinfo("b", 7, type=socket.SOCK_STREAM)
    assert infos[0][4] == ("10.0.0.2", 7)


async def serve(lan: Lan) -> None:
    async def answer(reader: Any, writer: Any) -> None:
        writer.write(await reader.read() + b"!")
        writer.close()

    async with await lan.one.start_server(answer, "127.0.0.1", 7):
        assert await lan.ask(lan.one, "127.0.0.1", b"hey") == b"hey!"
    transport, _ = await lan.two.create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("10.0.0.2", 53)
    )
    transport.close()


async def close(lan: Lan) -> None:
    lan.one.close()
    lan.two.close()
    lan.two.close()
    assert keeper_pid() is None
    with pytest.raises(errors.ClosedError, match="is closed"):
        lan.two.socket()


async def use_and_close(lan: Lan) -> None:
    lan.one.socket().close()
    assert keeper_pid() is not None
    await close(lan)


async def aclose(lan: Lan) -> None:
    await lan.one.aclose()
    with pytest.raises(errors.BusyError, match="open sockets"):
        await lan.two.aclose(strict=True)  # copies of the parent's
    await lan.two.aclose()


async def collect(lan: Lan) -> None:
    numbers = [lan.one.namespace, lan.two.namespace]
    lan.one.socket().close()
    kept = os.readlink(f"/proc/self/fd/{numbers[0]}")
    del lan.one, lan.two
    # Frames of the parent's coroutines, which the child has too, still refer to them.
    gc.collect()
    assert os.readlink(f"/proc/self/fd/{numbers[0]}") == kept


async def open_others(lan: Lan) -> None:
    async with (
        aioioth.Stack("memory://lan", ip="10.0.0.3/24") as three,
        aioioth.Stack("memory://lan", ip="10.0.0.4/24") as four,
    ):
        assert aioioth.stacks() == (three, four)

        async def answer(reader: Any, writer: Any) -> None:
            writer.write(await reader.read() + b"!")
            writer.close()

        async with await three.start_server(answer, None, 7):
            assert await lan.ask(four, "10.0.0.3", b"hey") == b"hey!"
        await three.add_address("10.0.0.5/24", dev="vde0")
    assert aioioth.stacks() == ()
    await connect(lan)


async def configure(lan: Lan) -> None:
    stack = lan.two
    for use in (
        lambda: stack.add_address("10.0.0.9/24", dev="vde0"),
        lambda: stack.del_route("10.1.0.0/16"),
        lambda: stack.sysctl("net.ipv4.ip_forward", 1),
    ):
        with pytest.raises(errors.WrongLoopError, match="in the parent process: it is"):
            await use()
    for ask in (
        lambda: stack.interfaces,
        lambda: stack.netlink,
        stack.stats,
        stack.events,
        stack.share,
    ):
        with pytest.raises(
            errors.WrongLoopError, match="stack 'two' was opened in the"
        ):
            ask()
    assert len(stack.sockets()) > 0


async def attach(lan: Lan) -> None:
    """Over its own stack's descriptors, to configure it all the same."""
    async with aioioth.Stack.attach(lan.shared_at) as stack:
        await stack.add_address("10.0.0.77/24", dev="vde0")
        assert stack.name == "two"
    await connect(lan)


@pytest.mark.parametrize(
    "child",
    [
        connect,
        serve,
        close,
        use_and_close,
        aclose,
        collect,
        open_others,
        configure,
        attach,
    ],
    ids=lambda child: child.__name__,
)
async def test_a_forked_child(child: Child, echo: Any, ask: Any) -> None:
    async with lan(echo, ask) as both:
        both.shared_at = both.two.share()
        keeper = keeper_pid()
        await forked(lambda: run_new(child(both)))
        assert keeper_pid() == keeper


async def test_what_a_child_holds(device: str) -> None:
    async with aioioth.Stack("memory://lan", ip="10.0.0.1/24", device=device) as stack:
        assert stack.netlink.fileno() != -1
        before = set(os.listdir("/proc/self/fd"))
        stack.share()
        async with aioioth.Stack.attach(stack.share()):
            await asyncio.sleep(0)

        def child() -> None:
            held = {
                name: os.readlink(f"/proc/self/fd/{name}")
                for name in os.listdir("/proc/self/fd")
                if Path(f"/proc/self/fd/{name}").exists()
            }
            assert "/dev/net/tun" not in held.values()
            assert str(stack._running.netlink.fileno()) == "-1"  # type: ignore[union-attr]
            assert stack.sockets() == []
            lost = before - set(held)
            assert len(lost) >= 4  # keeper, channel, netlink, device, port

        await forked(child)


async def test_grandchildren(echo: Any, ask: Any) -> None:
    async with lan(echo, ask) as both:

        async def third() -> None:
            await connect(both)
            both.one.close()

        async def second() -> None:
            await connect(both)
            keeper = keeper_pid()
            await forked(lambda: run_new(third()))
            assert keeper_pid() == keeper
            async with aioioth.Stack("null://"):
                await forked(lambda: run_new(connect(both)))
            await connect(both)
            await aclose(both)

        await forked(lambda: run_new(second()))


async def test_a_child_leaves_nothing(echo: Any, ask: Any) -> None:
    """What a child holds for inherited stacks goes with them."""
    async with lan(echo, ask) as both:

        async def use() -> None:
            both.one.socket().close()
            async with aioioth.Stack("null://"):
                pass
            await both.one.aclose()
            await both.two.aclose()

        def child() -> None:
            run_new(connect(both))
            assert keeper_pid() is not None
            run_new(use())
            assert keeper_pid() is None
            assert _manager._keeper.user_namespace is None
            with no_leaks():
                run_new(open_in_child())

        async def open_in_child() -> None:
            async with aioioth.Stack("memory://new", ip="10.0.0.1/24"):
                pass

        await forked(child)


async def test_fork_while_threads_hold_locks(echo: Any, ask: Any) -> None:
    """A lock that another thread holds at that moment stays locked in the child."""
    async with lan(echo, ask) as both:
        stop = threading.Event()

        def busy() -> None:
            while not stop.is_set():
                both.one.socket().close()

        with ThreadPoolExecutor(3) as pool:
            work = [pool.submit(busy) for _ in range(3)]
            try:
                for _ in range(10):
                    await forked(lambda: both.two.socket().close())
            finally:
                stop.set()
            for each in work:
                each.result()


PROGRAM = """
    import asyncio, atexit, os, sys, multiprocessing, uvloop, aioioth

    def new_loop():
        made = uvloop if "UVLOOP" == "yes" else asyncio
        return made.new_event_loop()

    async def echo(reader, writer):
        writer.write(await reader.read())
        writer.close()

    async def ask(stack):
        reader, writer = await stack.open_connection("10.0.0.2", 7)
        writer.write(b"hello")
        writer.write_eof()
        assert await reader.read() == b"hello"
        writer.close()
        await writer.wait_closed()

    async def check(one, two):
        for number in range(3):
            await ask(one)
            await one.add_address(f"10.0.{number + 1}.1/24", dev="vde0")

    async def ended(pid):
        while (status := os.waitpid(pid, os.WNOHANG)) == (0, 0):
            await asyncio.sleep(0.01)
        assert status[1] == 0

    def pair():
        return (
            aioioth.Stack("memory://lan", ip="10.0.0.1/24"),
            aioioth.Stack("memory://lan", ip="10.0.0.2/24"),
        )
"""

INSIDE = """
    async def main():
        try:
            one, two = pair()
            async with one, two:
                server = await two.start_server(echo, "10.0.0.2", 7)
                await ask(one)
                pid = os.fork()
                if pid == 0:
                    LEAVE
                await ended(pid)
                await check(one, two)
                server.close()
                await server.wait_closed()
        except ZeroDivisionError:
            os._exit(0 if str(one) and repr(two).endswith("closed>") else 1)
        print("over")

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
"""


def run(source: str, loop: str, leave: str = "") -> subprocess.CompletedProcess[str]:
    text = textwrap.dedent(PROGRAM) + textwrap.dedent(source).replace("LEAVE", leave)
    text = text.replace("UVLOOP", "yes" if loop == "uvloop" else "no")
    return subprocess.run(
        [sys.executable, "-X", "dev", "-c", text],
        capture_output=True,
        text=True,
        timeout=50,
    )


def complaints(done: subprocess.CompletedProcess[str]) -> list[str]:
    lines = done.stderr.splitlines()
    # In debug mode asyncio reports what takes long: starting a keeper, importing.
    return [line for line in lines if not line.startswith("Executing <")]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("leave", ["os._exit(0)", "1 / 0"])
def test_a_child_leaves_its_parents_blocks(loop: str, leave: str) -> None:
    """It may unwind the frames that it has inherited, though not run their loop on."""
    done = run(INSIDE, loop, leave)
    assert (done.stdout, done.returncode, complaints(done)) == ("over\n", 0, [])


@pytest.mark.parametrize("loop", LOOPS)
def test_a_child_that_ends_as_programs_end(loop: str) -> None:
    done = run(
        """
        loop = new_loop()
        asyncio.set_event_loop(loop)
        one, two = pair()
        loop.run_until_complete(one.open())
        loop.run_until_complete(two.open())
        server = loop.run_until_complete(two.start_server(echo, "10.0.0.2", 7))
        for use in (lambda: None, lambda: one.socket().close()):
            pid = os.fork()
            if pid == 0:
                use()
                atexit.register(lambda: one.socket().close())
                sys.exit(0)
            loop.run_until_complete(ended(pid))
        loop.run_until_complete(check(one, two))
        server.close()
        loop.run_until_complete(server.wait_closed())
        loop.run_until_complete(one.aclose())
        loop.run_until_complete(two.aclose())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        print("over")
        """,
        loop,
    )
    assert (done.stdout, done.returncode) == ("over\n", 0), done.stderr
    # An event loop that was not closed: the child's copy of its parent's.
    assert [line for line in complaints(done) if "loop" not in line] == []


@pytest.mark.parametrize("loop", LOOPS)
def test_multiprocessing(loop: str) -> None:
    done = run(
        """
        def work(stack, answers):
            with asyncio.Runner(loop_factory=new_loop) as runner:
                runner.run(ask(stack))
            answers.put(os.getpid())

        async def main():
            one, two = pair()
            async with one, two, await two.start_server(echo, "10.0.0.2", 7):
                fork = multiprocessing.get_context("fork")
                answers = fork.SimpleQueue()
                workers = [fork.Process(target=work, args=[one, answers])
                           for _ in range(3)]
                for worker in workers:
                    worker.start()
                for worker in workers:
                    await ended_as(worker)
                assert {answers.get() for _ in workers} == {w.pid for w in workers}
                await check(one, two)
            print("over")

        async def ended_as(worker):
            while worker.is_alive():
                await asyncio.sleep(0.01)
            assert worker.exitcode == 0

        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main())
        """,
        loop,
    )
    assert (done.stdout, done.returncode, complaints(done)) == ("over\n", 0, [])


# Threads and loops


@pytest.mark.parametrize("other", LOOPS)
async def test_other_loops(other: str, echo: Any, ask: Any) -> None:
    """Each loop connects and serves on stacks that were opened on another one."""
    async with lan(echo, ask) as both:

        async def elsewhere(number: int) -> None:
            address = f"127.0.0.{number + 2}"
            async with await both.one.start_server(echo, address, 7):
                for _ in range(10):
                    assert await ask(both.one, "b", b"remote") == b"remote"
                    assert await ask(both.one, address, b"local") == b"local"

        def thread(number: int) -> None:
            with asyncio.Runner(loop_factory=LOOPS[other]) as runner:
                runner.run(elsewhere(number))

        with no_leaks():
            async with asyncio.timeout(40):
                await asyncio.gather(*(asyncio.to_thread(thread, n) for n in range(4)))


async def test_closed_while_threads_use_it() -> None:
    """They get ClosedError, and never a socket of another namespace."""
    for _ in range(5):
        stack = await aioioth.Stack("null://").open()
        namespace = os.fstat(stack.namespace or -1).st_ino
        started = threading.Barrier(5)

        def use(
            stack: aioioth.Stack = stack,
            namespace: int = namespace,
            started: threading.Barrier = started,
        ) -> int:
            made = 0
            started.wait()
            while True:
                try:
                    with stack.socket() as sock:
                        theirs = fcntl_namespace(sock)
                        assert theirs == namespace
                except errors.ClosedError:
                    return made
                made += 1

        with ThreadPoolExecutor(4) as pool:
            work = [pool.submit(use) for _ in range(4)]
            await asyncio.to_thread(started.wait)
            for _ in range(20):  # numbers of descriptors come and go
                async with aioioth.Stack():
                    pass
            await stack.aclose()
            async with aioioth.Stack(), aioioth.Stack():
                for each in work:
                    assert await asyncio.wrap_future(each) > 0


def fcntl_namespace(sock: socket.socket) -> int:
    from aioioth._linux.sockets import namespace_of

    found = namespace_of(sock.fileno())
    assert found is not None
    return found[1]


@pytest.mark.parametrize("other", LOOPS)
async def test_closed_while_another_loop_uses_it(other: str, echo: Any) -> None:
    stack = await aioioth.Stack("memory://lan", ip="10.0.0.1/24").open()
    connected = threading.Event()

    async def elsewhere() -> str:
        async with await stack.start_server(echo, "127.0.0.1", 7):
            while True:
                try:
                    _, writer = await stack.open_connection("127.0.0.1", 7)
                except errors.ClosedError as error:
                    return str(error)
                writer.close()
                await writer.wait_closed()
                connected.set()

    def thread() -> str:
        with asyncio.Runner(loop_factory=LOOPS[other]) as runner:
            return runner.run(elsewhere())

    with ThreadPoolExecutor(2) as pool:
        result = pool.submit(thread)
        assert await asyncio.wrap_future(pool.submit(connected.wait, 30))
        await stack.aclose()
        assert "is closed: make a new one" in await asyncio.wrap_future(result)
