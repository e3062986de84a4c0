"""The keeper dies, is stopped, is shared between threads, is left by forks."""

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
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import aioioth
from aioioth import _manager
from aioioth.testing import no_leaks


def keeper_pid() -> int:
    pid = _manager._keeper.pid
    assert pid is not None
    return pid


async def gone(pid: int) -> None:
    """Wait until a process is neither running nor a zombie."""
    async with asyncio.timeout(10):
        while Path(f"/proc/{pid}").exists():
            await asyncio.sleep(0.005)


async def test_connections_go_on_without_the_keeper(
    device: str, echo: Any, ask: Any
) -> None:
    async with (
        aioioth.Stack("memory://lan", ip="10.0.0.1/24", device=device) as one,
        aioioth.Stack("memory://lan", ip="10.0.0.2/24", device=device) as two,
        await one.start_server(echo, "10.0.0.1", 7),
    ):
        reader, writer = await two.open_connection("10.0.0.1", 7)
        first, user_namespace = (
            keeper_pid(),
            os.readlink(f"/proc/{keeper_pid()}/ns/user"),
        )
        os.kill(first, signal.SIGKILL)
        await gone(first)  # no zombie, though nobody asked for anything

        writer.write(b"still there?")
        writer.write_eof()
        assert await reader.read() == b"still there?"
        writer.close()
        await writer.wait_closed()

        # A new socket, and a new stack, from a new keeper in the same user namespace.
        assert await ask(two, "10.0.0.1", b"new") == b"new"
        assert keeper_pid() != first
        assert os.readlink(f"/proc/{keeper_pid()}/ns/user") == user_namespace
        async with aioioth.Stack(
            "memory://lan", ip="10.0.0.3/24", device=device
        ) as three:
            assert await ask(three, "10.0.0.1", b"newer") == b"newer"


async def test_killed_while_it_makes_a_namespace() -> None:
    async with aioioth.Stack():
        first = keeper_pid()
        os.kill(first, signal.SIGSTOP)
        async with asyncio.timeout(10):
            while "State:\tT" not in Path(f"/proc/{first}/status").read_text():
                await asyncio.sleep(0.001)
        opening = asyncio.create_task(aioioth.Stack().open())
        done, _ = await asyncio.wait([opening], timeout=0.2)
        assert not done
        os.kill(first, signal.SIGKILL)
        async with asyncio.timeout(10):
            stack = await opening
        assert keeper_pid() != first
        await stack.aclose()


async def test_a_dead_keeper_that_nobody_has_missed() -> None:
    """Another loop comes to a keeper that died while its own loop was busy."""
    async with aioioth.Stack():
        first = keeper_pid()

        async def other() -> int:
            async with aioioth.Stack():
                return keeper_pid()

        def while_the_loop_stands_still() -> int:
            os.kill(first, signal.SIGKILL)
            os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
            return asyncio.run(other())

        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(while_the_loop_stands_still).result() != first
        async with aioioth.Stack():
            assert keeper_pid() != first


async def test_hundreds_of_stacks_at_once() -> None:
    """More requests than the keeper's socket can hold."""
    stacks = [aioioth.Stack() for _ in range(300)]
    try:
        await asyncio.gather(*(stack.open() for stack in stacks))
        assert len(aioioth.stacks()) == 300
    finally:
        for stack in stacks:
            await stack.aclose()


async def test_one_keeper_for_all_loops() -> None:
    async with aioioth.Stack():
        first = keeper_pid()

        async def other() -> int:
            async with aioioth.Stack():
                return keeper_pid()

        assert await asyncio.to_thread(asyncio.run, other()) == first
        assert keeper_pid() == first


async def test_sockets_from_many_threads() -> None:
    async with aioioth.Stack() as stack:

        def many(_: int) -> int:
            opened = 0
            for _ in range(100):
                with stack.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    opened += sock.type == socket.SOCK_DGRAM
            return opened

        with ThreadPoolExecutor(8) as pool:
            loop = asyncio.get_running_loop()
            work = [loop.run_in_executor(pool, many, n) for n in range(8)]
            for _ in range(5):
                async with aioioth.Stack():
                    pass
            assert sum(await asyncio.gather(*work)) == 800
        assert stack.sockets() == []


async def test_the_keeper_keeps_no_socket() -> None:
    """Not even for a moment: what the program closes is closed."""

    def held() -> int:
        folder = f"/proc/{keeper_pid()}/fd"
        sockets = 0
        for name in os.listdir(folder):
            # The namespace that a request came with is closed after the answer.
            with suppress(FileNotFoundError):
                sockets += os.readlink(f"{folder}/{name}").startswith("socket:")
        return sockets

    async with aioioth.Stack() as stack:
        stack.socket().close()
        before = held()
        for _ in range(100):
            with stack.socket():
                assert held() == before


async def test_a_burst_of_sockets() -> None:
    """The keeper then makes some more at once; nobody sees them."""
    async with aioioth.Stack() as stack:
        with no_leaks():
            made = [stack.socket() for _ in range(20)]
            assert [info.fd for info in stack.sockets()] == sorted(
                sock.fileno() for sock in made
            )
            for sock in made:
                assert sock.getsockname() == ("0.0.0.0", 0)
                assert not sock.getblocking()
                sock.close()
            assert stack.sockets() == []
        await stack.aclose(strict=True)


async def test_a_burst_heeds_new_settings() -> None:
    async with aioioth.Stack() as stack:

        def v6only() -> set[int]:
            found = set()
            for _ in range(10):
                with stack.socket(socket.AF_INET6) as sock:
                    option = socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
                    found.add(sock.getsockopt(*option))
            return found

        assert v6only() == {0}
        await stack.sysctl("net.ipv6.bindv6only", 1)
        assert v6only() == {1}


async def test_a_burst_at_the_limit_of_descriptors() -> None:
    async with aioioth.Stack() as stack:
        made = []
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (len(_descriptors()) + 20, before[1])
        )
        try:
            with pytest.raises(OSError, match="Too many open files") as caught:
                while True:
                    made.append(stack.socket())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
            for sock in made:
                sock.close()
        assert caught.value.errno == errno.EMFILE
        stack.socket().close()


async def test_a_forked_child_uses_the_stack(echo: Any) -> None:
    async with (
        aioioth.Stack("memory://lan", ip="10.0.0.1/24") as stack,
        await stack.start_server(echo, "127.0.0.1", 7),
    ):
        parents_keeper = keeper_pid()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with stack.socket() as sock:
                    sock.settimeout(10)
                    sock.connect(("127.0.0.1", 7))
                    sock.sendall(b"from the child")
                    if sock.recv(100) == b"from the child":
                        code = 0 if keeper_pid() != parents_keeper else 2
                held = [os.readlink(f"/proc/self/fd/{fd}") for fd in _descriptors()]
                if "/dev/net/tun" in held:
                    code = 3
            finally:
                os._exit(code)
        watch = os.pidfd_open(child)
        async with asyncio.timeout(10):
            while not select.select([watch], [], [], 0)[0]:
                await asyncio.sleep(0.01)
        os.close(watch)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        # And the parent's keeper never noticed.
        assert keeper_pid() == parents_keeper
        stack.socket().close()


def _descriptors() -> list[int]:
    return [
        int(n)
        for n in os.listdir("/proc/self/fd")
        if Path(f"/proc/self/fd/{n}").exists()
    ]


PROGRAM = """
    import asyncio, os, aioioth
    from aioioth import _manager

    async def main():
        async with aioioth.Stack("memory://lan", ip="10.0.0.1/24") as one:
            server = await one.start_server(print, "10.0.0.1", 7)
            print(_manager._keeper.pid, flush=True)
            await asyncio.Event().wait()

    asyncio.run(main())
"""


async def test_nothing_is_left_of_a_killed_program() -> None:
    """SIGKILL: the keeper reads end of file, and the kernel frees the rest."""
    program = await asyncio.to_thread(
        subprocess.Popen,
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        stdout=subprocess.PIPE,
    )
    assert program.stdout is not None
    keeper = int(await asyncio.to_thread(program.stdout.readline))
    namespaces = {os.readlink(f"/proc/{keeper}/ns/{kind}") for kind in ("user", "net")}
    # Who starts later may be in a namespace that has got a number of these.
    alive = set(os.listdir("/proc"))
    program.kill()
    program.wait()
    program.stdout.close()
    await gone(keeper)
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and process.name in alive:
            for kind in "user", "net":
                try:
                    assert os.readlink(process / "ns" / kind) not in namespaces
                except OSError:
                    continue  # ended meanwhile, or somebody else's


async def test_a_keeper_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(aioioth.errors.KeeperError, match="'/nonexistent/python'"):
        await aioioth.Stack().open()


async def test_a_keeper_that_dies_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(aioioth.errors.KeeperError, match="dies whenever it is asked"):
        await aioioth.Stack().open()


async def test_an_upgraded_package_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from aioioth._keeper import messages

    async with aioioth.Stack() as stack:
        monkeypatch.setattr(messages, "VERSION", 99)
        with pytest.raises(aioioth.errors.KeeperError, match="Restart the program"):
            stack.socket()
        monkeypatch.undo()
        stack.socket().close()


async def test_a_full_table_of_descriptors() -> None:
    """EMFILE, as socket() raises it, and the stack goes on afterwards."""
    import resource

    async with aioioth.Stack() as stack:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = os.dup(0)
        os.close(used)
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                stack.socket()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        stack.socket().close()
