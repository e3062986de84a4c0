"""A stack used by two processes: handed over, refused, killed, cancelled."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import textwrap
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import aioioth
from aioioth import _manager, _sharing, errors
from aioioth._linux.sockets import identity
from aioioth.testing import cancel_everywhere

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

COMMON = """
    import asyncio, os, socket, sys, aioioth
    from aioioth import _manager
    from aioioth.testing import no_leaks

    async def echo(reader, writer):
        writer.write(await reader.read())
        writer.close()

    async def ask(stack, host, text):
        reader, writer = await stack.open_connection(host, 7)
        writer.write(text)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    async def until_told():
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
"""

OWNER = """
    async def main():
        async with (
            aioioth.Stack(
                "memory://lan", ip="10.0.0.1/24", name="theirs",
                hosts={"other": "10.0.0.2"}, domain="test",
            ) as stack,
            aioioth.Stack("memory://lan", ip="10.0.0.2/24") as other,
            await other.start_server(echo, "10.0.0.2", 7),
        ):
            print(stack.share(), _manager._keeper.pid)
            await until_told()

    asyncio.run(main())
"""


class Program:
    """Another process, talked to by lines."""

    def __init__(self, source: str, *arguments: str) -> None:
        text = textwrap.dedent(COMMON) + textwrap.dedent(source)
        self.popen = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", text, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    async def line(self) -> str:
        assert self.popen.stdout is not None
        line = await asyncio.to_thread(self.popen.stdout.readline)
        if not line:
            raise AssertionError(await asyncio.to_thread(self.popen.communicate))
        return line.rstrip()

    async def end(self) -> list[str]:
        """Tell it to go on, and return what else it prints."""
        out, err = await asyncio.to_thread(self.popen.communicate, "\n")
        assert (err, self.popen.returncode) == ("", 0)
        return out.splitlines()


@contextmanager
def program(source: str, *arguments: str) -> Iterator[Program]:
    running = Program(source, *arguments)
    try:
        yield running
    finally:
        running.popen.kill()
        running.popen.communicate()


@asynccontextmanager
async def owner() -> AsyncIterator[tuple[Program, str, int]]:
    """A program that shares a stack; its address and its keeper."""
    with program(OWNER) as running:
        address, keeper = (await running.line()).split()
        assert await running.line() == "ready"
        yield running, address, int(keeper)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def namespaces_of_processes() -> set[str]:
    found = set()
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            for kind in "user", "net":
                try:
                    found.add(os.readlink(process / "ns" / kind))
                except OSError:
                    continue  # ended meanwhile, or somebody else's
    return found


async def test_another_process_uses_it(
    device: str, echo: Any, ask: Callable[..., Awaitable[bytes]]
) -> None:
    async with (
        aioioth.Stack(
            "memory://lan",
            ip="10.0.0.1/24",
            name="mine",
            hosts={"two": "10.0.0.2"},
            device=device,
        ) as one,
        aioioth.Stack("memory://lan", ip="10.0.0.2/24", device=device) as two,
        await two.start_server(echo, "10.0.0.2", 7),
    ):
        attacher = """
            async def main():
                stack = aioioth.Stack.attach(sys.argv[1])
                async with stack:
                    vde0 = stack.interfaces["vde0"]
                    print(stack.name, stack.kind, vde0.vnl, vde0.device, vde0.attached)
                    print(await ask(stack, "two", b"out"))
                    stats = stack.stats()["vde0"]
                    print(stats.sent.frames > 0, stats.received.bytes > 0)
                    await stack.add_address("10.0.0.11/24", dev="vde0")
                    await stack.sysctl("net.ipv4.ip_forward", 1)
                    names = [link.get("ifname") async for link
                             in await stack.netlink.get_links()]
                    print(names, aioioth.stacks() == (stack,))
                    async with await stack.start_server(echo, "10.0.0.11", 7):
                        print(len(stack.sockets()))
                        await until_told()
                    print(await ask(stack, "10.0.0.2", b"still"))
                print(stack)

            with no_leaks():
                asyncio.run(main())
        """
        address = one.share()
        assert one.share() == address
        with program(attacher, address) as running:
            assert await running.line() == f"mine netns memory://lan {device} True"
            assert await running.line() == "b'out'"
            assert await running.line() == "True True"
            assert await running.line() == "['lo', 'vde0'] True"
            assert await running.line() == "1"
            assert await running.line() == "ready"
            # To him, who answers in this very stack, from here and from next door.
            for stack in one, two:
                assert await ask(stack, "10.0.0.11", b"in") == b"in"
            assert one.sockets() == []  # his are his
            assert await running.end() == ["b'still'", "stack 'mine'"]
        assert await ask(one, "10.0.0.2", b"unharmed") == b"unharmed"


async def test_attached_to_another_process(echo: Any, ask: Any) -> None:
    async with owner() as (running, address, keeper):
        async with aioioth.Stack.attach(address, "borrowed") as stack:
            assert repr(stack) == f"<Stack 'borrowed' of {address}, open>"
            assert dict(stack.hosts) != {}
            assert await ask(stack, "other", b"hello") == b"hello"
            space = stack._parts().space
            assert space.home.keeper.pid not in {keeper, None}  # type: ignore[attr-defined]
            theirs = os.readlink(f"/proc/{keeper}/ns/user")
            ours = os.readlink(f"/proc/{space.home.keeper.pid}/ns/user")  # type: ignore[attr-defined]
            assert ours == theirs
            # The keeper is replaced like any other.
            os.kill(space.home.keeper.pid, signal.SIGKILL)  # type: ignore[attr-defined]
            assert await ask(stack, "other", b"again") == b"again"
        assert await running.end() == []


async def test_many_at_once_have_one_keeper() -> None:
    async with owner() as (running, address, _):
        stacks = [aioioth.Stack.attach(address) for _ in range(30)]
        await asyncio.gather(*(stack.open() for stack in stacks))
        assert {stack.name for stack in stacks} == {"theirs"}
        assert len(_manager._foreign) == 1
        for stack in stacks:
            stack.socket().close()
            await stack.aclose()
        assert await running.end() == []


async def test_shared_on() -> None:
    """What is attached can be shared again, also with the first."""
    again = """
        async def main():
            async with aioioth.Stack.attach(sys.argv[1]) as stack:
                print(stack.share())
                await until_told()

        asyncio.run(main())
    """
    async with aioioth.Stack("null://", name="first") as stack:
        with program(again, stack.share()) as running:
            address = await running.line()
            assert await running.line() == "ready"
            assert address != stack.share()
            async with aioioth.Stack.attach(address) as third:
                assert third.name == "first"
                assert list(third.interfaces) == ["vde0"]
                assert third.namespace is not None
                assert stack.namespace is not None
                assert identity(third.namespace) == identity(stack.namespace)
                # In our own user namespace we have a keeper already.
                assert len(_manager._foreign) == 0
            assert await running.end() == []


async def test_the_owner_is_killed(echo: Any, ask: Any) -> None:
    async with owner() as (running, address, keeper):
        theirs = {os.readlink(f"/proc/{keeper}/ns/{kind}") for kind in ("user", "net")}
        async with (
            aioioth.Stack.attach(address) as stack,
            await stack.start_server(echo, "127.0.0.1", 7),
        ):
            assert await ask(stack, "other", b"before") == b"before"
            running.popen.kill()
            await until(lambda: not Path(f"/proc/{keeper}").exists())
            # Without the network (a packet device's interface is gone altogether), but
            # with everything of its own.
            assert await ask(stack, "127.0.0.1", b"after") == b"after"
            async with await stack.start_server(echo, "::1", 7):
                assert await ask(stack, "::1", b"new") == b"new"
            with pytest.raises(errors.BrokenTransportError, match="nobody shares"):
                await aioioth.Stack.attach(address).open()
        await until(lambda: not theirs & namespaces_of_processes())


async def test_the_attacher_is_killed(echo: Any, ask: Any) -> None:
    attacher = """
        async def main():
            async with aioioth.Stack.attach(sys.argv[1]) as stack:
                print(stack._running.space.home.keeper.pid)
                server = await stack.start_server(echo, "10.0.0.1", 7)
                await until_told()

        asyncio.run(main())
    """
    async with (
        aioioth.Stack("memory://lan", ip="10.0.0.1/24") as one,
        aioioth.Stack("memory://lan", ip="10.0.0.2/24") as two,
    ):
        with program(attacher, one.share()) as running:
            keeper = await running.line()
            assert await running.line() == "ready"
            assert await ask(two, "10.0.0.1", b"his") == b"his"
            running.popen.kill()
            await until(lambda: not Path(f"/proc/{keeper}").exists())
        async with await one.start_server(echo, "10.0.0.1", 7):
            assert await ask(two, "10.0.0.1", b"ours") == b"ours"


async def test_the_owner_closes() -> None:
    async with aioioth.Stack(name="shut") as stack:
        address = stack.share()
        attached = await aioioth.Stack.attach(address).open()
    with pytest.raises(errors.BrokenTransportError, match=address) as caught:
        await aioioth.Stack.attach(address).open()
    assert caught.value.errno == errno.ECONNREFUSED
    attached.socket().close()
    await attached.aclose()
    with pytest.raises(errors.ClosedError, match="stack 'shut' is closed"):
        stack.share()
    with pytest.raises(errors.ClosedError, match="stack 'shut' is closed"):
        attached.socket()


async def test_hosts_are_those_of_the_moment() -> None:
    async with aioioth.Stack(hosts={"a": "10.0.0.1"}) as stack:
        address = stack.share()
        stack.hosts["b"] = ["10.0.0.2", "fd00::2"]
        async with aioioth.Stack.attach(address) as attached:
            assert list(attached.hosts) == ["a", "b"]


@pytest.mark.parametrize(
    "address", ["", "aioioth/" + 32 * "0", "@aioioth/", "@x\n", "/tmp/x", None, 7]
)
async def test_no_address(address: Any) -> None:
    with pytest.raises(errors.ConfigurationError, match="no address of a shared stack"):
        aioioth.Stack.attach(address)


async def test_what_cannot_be_shared() -> None:
    with pytest.raises(errors.ClosedError, match="not open"):
        aioioth.Stack().share()
    async with aioioth.Stack(kind="kernel") as host:
        with pytest.raises(errors.ConfigurationError, match="no namespace of its own"):
            host.share()
    async with aioioth.Stack() as stack:

        async def elsewhere() -> None:
            stack.share()

        with pytest.raises(errors.WrongLoopError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, elsewhere())


def in_child(function: Callable[[], object], *, user: int) -> tuple[int, str]:
    """Run a function in a forked child as another user; return its pid and a pipe."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            os.write(writing, str(function()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        return pid, pipe.read()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
async def test_another_user_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async with aioioth.Stack() as stack:
        address = stack.share()

        async def attach() -> str:
            try:
                await aioioth.Stack.attach(address).open()
            except errors.BrokenTransportError as error:
                return f"{error.errno} {error}"
            return "attached"

        def child() -> tuple[int, str]:
            return in_child(lambda: asyncio.run(attach()), user=65534)

        pid, answer = await asyncio.to_thread(child)
        os.waitpid(pid, 0)
        assert answer.startswith(f"{errno.EACCES} ")
        assert answer.endswith(f"{address}: is shared by user id 0 with nobody else")
        assert "refused to user id 65534" in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
async def test_an_owner_who_is_another_user() -> None:
    address = f"@aioioth/{32 * '0'}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:

        def listen() -> None:
            listening.bind(b"\0" + address[1:].encode())
            listening.listen()

        pid, _ = in_child(listen, user=65534)
        os.waitpid(pid, 0)
        with pytest.raises(
            errors.BrokenTransportError, match="user id 65534"
        ) as caught:
            await aioioth.Stack.attach(address).open()
        assert caught.value.errno == errno.EACCES


def client(address: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.setblocking(False)
    try:
        sock.connect(b"\0" + address[1:].encode())
    except BaseException:
        sock.close()
        raise
    return sock


async def test_many_who_send_nonsense_or_nothing() -> None:
    async with aioioth.Stack() as stack:
        address = stack.share()
        with ExitStack() as undo:
            for number in range(300):
                try:
                    sock = undo.enter_context(client(address))
                except BlockingIOError:
                    await asyncio.sleep(0)
                    continue
                if number % 3 == 0:
                    sock.send(number.to_bytes(2, "big") * 500)
                if number % 3 == 1:
                    sock.close()
            async with aioioth.Stack.attach(address) as attached:
                attached.socket().close()


async def test_an_owner_without_descriptors(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_sharing, "_PAUSE_SECONDS", 0.01)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    loop = asyncio.get_running_loop()

    async def refuse_one(address: str) -> socket.socket:
        caplog.clear()
        sock = client(address)
        used = os.dup(0)
        os.close(used)
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
        try:
            await until(lambda: "cannot answer now" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return sock

    async with aioioth.Stack() as stack, asyncio.timeout(20):
        with await refuse_one(stack.share()) as sock:
            assert (await loop.sock_recv(sock, 100)).startswith(b"aioioth\0")
        # Closed while it waits for better times.
        monkeypatch.setattr(_sharing, "_PAUSE_SECONDS", 3600)
        with await refuse_one(stack.share()) as sock:
            stack.close()
            with pytest.raises(ConnectionResetError):
                await loop.sock_recv(sock, 100)


@contextmanager
def pretender() -> Iterator[tuple[str, socket.socket]]:
    address = f"@aioioth/{32 * 'a'}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(b"\0" + address[1:].encode())
        listening.listen(1)
        yield address, listening


async def test_an_owner_who_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sharing, "_PATIENCE_SECONDS", 0.1)
    with pretender() as (address, _listening), ExitStack() as undo:
        stack = aioioth.Stack.attach(address)
        with pytest.raises(errors.HandshakeTimeoutError, match=r"within 0\.1 s"):
            await stack.open()
        with pytest.raises(BlockingIOError):
            while True:
                undo.enter_context(client(address))
        with pytest.raises(errors.HandshakeTimeoutError, match=r"within 0\.1 s"):
            await stack.open()


async def test_an_owner_who_dies_before_he_accepts() -> None:
    with pretender() as (address, listening):
        opening = asyncio.create_task(aioioth.Stack.attach(address).open())
        listening.setblocking(False)
        while not select.select([listening], [], [], 0)[0]:
            await asyncio.sleep(0)
        await asyncio.sleep(0)  # it waits
        listening.close()
        with pytest.raises(errors.BrokenTransportError, match="hung up"):
            await opening


@pytest.mark.parametrize(
    ("packet", "descriptors", "message"),
    [
        (b"", 0, "hung up"),
        (b"hello", 0, "another version"),
        (b"aioioth\0\x02", 2, "another version"),
        (b"aioioth\0\x01", 0, "Too many open files"),
        (b"aioioth\0\x01", 3, "makes no sense"),
    ],
)
async def test_an_owner_who_says_nonsense(
    packet: bytes, descriptors: int, message: str
) -> None:
    with pretender() as (address, listening):
        opening = asyncio.create_task(aioioth.Stack.attach(address).open())
        listening.setblocking(False)
        peer, _ = await asyncio.get_running_loop().sock_accept(listening)
        with peer, Path("/dev/null").open() as null:
            if packet:
                socket.send_fds(peer, [packet], [null.fileno()] * descriptors)
        with pytest.raises(OSError, match=message):
            await opening


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b'{"name": "x"}',
        b'{"name": "x", "kind": "y", "interfaces": [{}], "hosts": {}}',
        b'{"name": "x", "kind": "y", "interfaces": [], "hosts": []}',
    ],
)
def test_descriptions_that_make_no_sense(text: bytes) -> None:
    with pytest.raises(ValueError):
        _sharing.Description.unpack(text)


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled(times: int) -> None:
    async with owner() as (running, address, _):
        async with aioioth.Stack():  # the keeper and the manager are there to stay

            async def whole_life() -> None:
                async with aioioth.Stack.attach(address) as stack:
                    stack.share()
                    await asyncio.sleep(0)

            assert await cancel_everywhere(whole_life, times=times) > 3
            assert len(aioioth.stacks()) == 1
        assert await running.end() == []
