"""The leak guard: what leaves a stack is found, and where in the program it does."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import socket
import subprocess
import sys
import threading
import urllib.request
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohappyeyeballs
import aiohttp.connector
import anyio._backends._asyncio
import httpcore._backends.sync
import httpx
import pytest
import uvloop

import aioioth
from aioioth import _watch, errors
from aioioth._loops import make_aware

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

INIT = socket.socket.__init__
GETADDRINFO = socket._socket.getaddrinfo  # type: ignore[attr-defined]
LOOP_CALLS = dict(vars(asyncio.BaseEventLoop))
OF_UVLOOP = set(vars(uvloop.Loop))


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    yield
    assert socket.socket.__init__ is INIT
    assert not {"bind", "connect", "sendto", "sendmsg"} & set(vars(socket.socket))
    assert socket._socket.getaddrinfo is GETADDRINFO  # type: ignore[attr-defined]
    assert dict(vars(asyncio.BaseEventLoop)) == LOOP_CALLS
    assert set(vars(uvloop.Loop)) == OF_UVLOOP
    assert _watch._active == 0
    assert _watch._everywhere == []


@asynccontextmanager
async def lan() -> AsyncIterator[tuple[aioioth.Stack, aioioth.Stack]]:
    hosts = aioioth.Hosts({"server": "10.0.0.1"})
    async with (
        aioioth.Stack("memory://lan", name="one", ip="10.0.0.1/24", hosts=hosts) as one,
        aioioth.Stack("memory://lan", name="two", ip="10.0.0.2/24", hosts=hosts) as two,
    ):
        yield one, two


async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello")
    writer.close()
    await writer.wait_closed()


async def heard(connecting: Any) -> bytes:
    async with asyncio.timeout(20):
        reader, writer = await connecting
        data: bytes = await reader.read()
        writer.close()
        await writer.wait_closed()
    return data


@contextmanager
def leak(what: str | None = None, *, file: str = __file__) -> Iterator[None]:
    """Expect a leak in the line of this file that is inside the block."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    assert frame.f_back.f_back is not None
    here = frame.f_back.f_back.f_lineno
    with pytest.raises(errors.LeakError, match=what) as caught:
        yield
    assert not isinstance(caught.value, OSError)
    found, _, line = caught.value.place.rpartition(":")
    assert found == file
    if file == __file__:
        assert int(line) == here + 1, "not the line after the 'with'"
    assert caught.value.place in str(caught.value)
    assert caught.value.what in str(caught.value)


# Sockets


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (socket.AF_INET, socket.SOCK_DGRAM),
        (socket.AF_INET6, socket.SOCK_STREAM),
        (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    ],
    ids=str,
)
def test_opening_a_socket(arguments: Any) -> None:
    with aioioth.guard():
        with leak("opens an AF_INET6? socket outside of any stack"):
            socket.socket(*arguments)


def test_ready_made_clients_and_servers() -> None:
    with aioioth.guard():
        with leak("opens an AF_INET socket"):
            socket.create_connection(("127.0.0.1", 7007))
        with leak("opens an AF_INET socket"):
            socket.create_server(("127.0.0.1", 7007))


def test_an_outside_socket_made_before() -> None:
    with (
        socket.socket() as made,
        socket.socket(type=socket.SOCK_DGRAM) as datagrams,
        aioioth.guard(),
    ):
        with leak(r"uses a socket to reach or to bind \('127.0.0.1', 7007\)"):
            made.connect(("127.0.0.1", 7007))
        with leak("uses a socket to reach or to bind"):
            made.connect_ex(("127.0.0.1", 7007))
        with leak("uses a socket to reach or to bind"):
            made.bind(("127.0.0.1", 7007))
        with leak("uses a socket to reach or to bind"):
            datagrams.sendto(b"", ("127.0.0.1", 7007))
        with leak("uses a socket to reach or to bind"):
            datagrams.sendto(b"", 0, ("127.0.0.1", 7007))
        with leak("uses a socket to reach or to bind"):
            datagrams.sendmsg([b""], [], 0, ("127.0.0.1", 7007))


def test_a_copy_of_an_outside_socket() -> None:
    with socket.socket() as made, aioioth.guard():
        with made.dup() as copy:
            with leak("uses a socket"):
                copy.connect(("127.0.0.1", 7007))
        with socket.fromfd(made.fileno(), socket.AF_INET, socket.SOCK_STREAM) as copy:
            with leak("uses a socket"):
                copy.connect(("127.0.0.1", 7007))


def test_a_closed_socket_is_the_error_it_was() -> None:
    made = socket.socket()
    made.close()
    with aioioth.guard(), pytest.raises(OSError, match="Bad file descriptor"):
        made.connect(("127.0.0.1", 7007))


async def test_another_stacks_socket() -> None:
    async with lan() as (one, two):
        with aioioth.guard(one):
            with two.socket() as theirs, one.socket() as ours:
                with leak("outside of 'one'"):
                    theirs.bind(("10.0.0.2", 0))
                ours.bind(("10.0.0.1", 0))
        with aioioth.guard(one, two):
            for stack in one, two:
                with stack.socket() as sock:
                    sock.bind(("0.0.0.0", 7))


# Names


def test_asking_the_hosts_resolver() -> None:
    with aioioth.guard():
        with leak("asks the host's resolver for 'example.com'"):
            socket.getaddrinfo("example.com", 80)
        with leak("asks the host's resolver for b'example.com'"):
            socket.getaddrinfo(b"example.com", 80)
        with leak("asks the host's resolver for 'example.com'"):
            socket.gethostbyname("example.com")
        with leak("asks the host's resolver for 'example.com'"):
            socket.gethostbyname_ex("example.com")
        with leak("asks the host's resolver for '10.9.9.9'"):
            socket.gethostbyaddr("10.9.9.9")
        with leak("asks the host's resolver for '10.9.9.9'"):
            socket.getnameinfo(("10.9.9.9", 80), 0)
        with leak("asks the host's resolver for 'example.com'"):
            socket.getfqdn("example.com")


def test_what_asks_nobody() -> None:
    with aioioth.guard():
        for host in "10.0.0.1", "::1", "fe80::1%lo", None, b"10.0.0.1":
            assert socket.getaddrinfo(host, 80)
        assert socket.gethostbyname("10.0.0.1") == "10.0.0.1"
        numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        assert socket.getnameinfo(("10.0.0.1", 80), numeric) == ("10.0.0.1", "80")
        with pytest.raises(socket.gaierror):
            socket.getaddrinfo("example.com", 80, flags=socket.AI_NUMERICHOST)


async def test_a_name_in_an_address() -> None:
    """The kernel knows no names; the socket module would ask the host."""
    async with lan() as (one, _):
        with aioioth.guard(one), one.socket() as sock:
            with leak("asks the host's resolver for 'localhost'"):
                sock.connect(("localhost", 7))


async def test_the_loops_look_ups() -> None:
    """They are done in threads that a guard of this context does not see."""
    loop = asyncio.get_running_loop()
    with aioioth.guard():
        with leak("asks the host's resolver for 'example.com'"):
            await loop.getaddrinfo("example.com", 80)
        with leak("asks the host's resolver for '10.9.9.9'"):
            await loop.getnameinfo(("10.9.9.9", 80))
        assert await loop.getaddrinfo("10.0.0.1", 80, type=socket.SOCK_STREAM)
        numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        found = await loop.getnameinfo(("10.0.0.1", 80), numeric)
        assert found == ("10.0.0.1", "80")


# The loop's calls, on loops that know nothing of stacks


async def test_the_loops_calls() -> None:
    loop = asyncio.get_running_loop()
    with aioioth.guard():
        with leak():
            await asyncio.open_connection("127.0.0.1", 7007)
        with leak():
            await asyncio.open_connection("example.com", 7007)
        with leak():
            await asyncio.start_server(hello, "127.0.0.1", 7007)
        with leak():
            await asyncio.start_server(hello, None, 7007)
        with leak():
            await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, ("127.0.0.1", 0)
            )
        with leak():
            await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, remote_addr=("127.0.0.1", 7)
            )


async def test_the_loops_calls_with_a_socket() -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as made:
        made.setblocking(False)
        with aioioth.guard():
            with leak("uses a socket"):
                await loop.sock_connect(made, ("127.0.0.1", 7007))
            with leak("asks the host's resolver for 'example.com'"):
                await loop.sock_connect(made, ("example.com", 7007))
    with socket.create_server(("127.0.0.1", 7007)) as made, aioioth.guard():
        made.setblocking(False)
        with leak("gives the loop's create_server.. a socket"):
            await asyncio.start_server(hello, sock=made)
        with leak("gives the loop's create_connection.. a socket"):
            await asyncio.open_connection(sock=made)
    with socket.socket(type=socket.SOCK_DGRAM) as made, aioioth.guard():
        made.setblocking(False)
        with leak("gives the loop's create_datagram_endpoint.. a socket"):
            await loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=made)


async def test_happy_eyeballs_are_found_in_the_callers_line() -> None:
    with aioioth.guard():
        with leak():
            await asyncio.open_connection("127.0.0.1", 7, happy_eyeballs_delay=0.1)


async def test_a_loop_that_knows_stacks() -> None:
    make_aware(asyncio.get_running_loop())
    async with lan() as (one, two):
        with aioioth.guard(one):
            with leak("outside of 'one'"):
                await asyncio.open_connection("127.0.0.1", 7007)
            with two.activate():
                with leak("outside of 'one'"):
                    await asyncio.open_connection("10.0.0.1", 7)


# What is allowed


async def test_everything_in_the_stack(tmp_path: Path) -> None:
    make_aware(asyncio.get_running_loop())
    loop = asyncio.get_running_loop()
    async with lan() as (one, two):
        with aioioth.guard(one, two):
            with one.activate():
                server = await asyncio.start_server(hello, None, 7)
            async with server:
                with two.activate():
                    asking = asyncio.open_connection("server", 7)
                    assert await heard(asking) == b"hello"
                    assert await heard(two.open_connection("server", 7)) == b"hello"
                    udp, _ = await loop.create_datagram_endpoint(
                        asyncio.DatagramProtocol, remote_addr=("server", 9)
                    )
                    udp.sendto(b"x")
                    udp.close()
                    assert await loop.getaddrinfo("server", 80)
                    assert await loop.getnameinfo(("10.0.0.1", 80), 0)
            with one.socket() as listening, two.socket() as connecting:
                listening.bind(("10.0.0.1", 8))
                listening.listen()
                await loop.sock_connect(connecting, ("10.0.0.1", 8))
                accepted, _ = await loop.sock_accept(listening)
                with accepted:
                    await loop.sock_sendall(accepted, b"hello")
                    assert await loop.sock_recv(connecting, 9) == b"hello"


async def test_stacks_of_names_that_do_not_exist() -> None:
    """The stack's resolver has glibc look at names, and that is no question."""
    async with lan() as (one, _):
        with one.activate(patch=True, guard=True):
            for lookup in one.getaddrinfo, asyncio.get_running_loop().getaddrinfo:
                with pytest.raises(socket.gaierror):
                    await lookup("no.such.name", 80)
            with pytest.raises(socket.gaierror):
                socket.getaddrinfo("no.such.name", 80)


async def test_dns_from_the_stack() -> None:
    """Nobody is there to answer; what matters is that asking is no leak."""
    async with aioioth.Stack("memory://lan", ip="10.0.0.1/24", dns="10.0.0.1") as one:
        with one.activate(patch=True, guard=True):
            with pytest.raises(socket.gaierror):
                await one.getaddrinfo("example.com", 80)
            with pytest.raises(socket.gaierror):
                await asyncio.to_thread(socket.getaddrinfo, "example.com", 80)


async def test_other_families_and_programs(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with aioioth.guard():
        async with await asyncio.start_unix_server(hello, path):
            assert await heard(asyncio.open_unix_connection(path)) == b"hello"
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(path))
        left, right = socket.socketpair()
        with left, right:
            reader, writer = await asyncio.open_connection(sock=left)
            right.sendall(b"x")
            assert await reader.read(1) == b"x"
            writer.close()
            await writer.wait_closed()
        if hasattr(socket, "AF_NETLINK"):
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close()
        process = await asyncio.create_subprocess_exec("true")
        assert await process.wait() == 0
        assert subprocess.run(["true"], check=True).returncode == 0


async def test_stacks_come_and_go_under_a_guard() -> None:
    with aioioth.guard(everywhere=True):
        async with lan() as (one, two):
            assert one.interfaces["vde0"].index == two.interfaces["vde0"].index


# Where it holds


def outcome(function: Callable[[], Any]) -> type[BaseException] | None:
    try:
        function()
    except errors.LeakError as error:
        return type(error)
    return None


def open_one() -> None:
    socket.socket().close()


async def test_only_this_context() -> None:
    loop = asyncio.get_running_loop()
    guarded, done = asyncio.Event(), asyncio.Event()

    async def other() -> type[BaseException] | None:
        await guarded.wait()
        found = outcome(open_one)
        done.set()
        return found

    async def child() -> type[BaseException] | None:
        return outcome(open_one)

    elsewhere = asyncio.create_task(other())
    with aioioth.guard():
        guarded.set()
        await done.wait()
        assert await elsewhere is None
        assert await asyncio.create_task(child()) is errors.LeakError
        assert await asyncio.to_thread(outcome, open_one) is errors.LeakError
        assert await loop.run_in_executor(None, outcome, open_one) is None
        assert contextvars.Context().run(outcome, open_one) is None
    assert await asyncio.create_task(child()) is None


async def test_everywhere() -> None:
    loop = asyncio.get_running_loop()
    guarded = asyncio.Event()

    async def other() -> type[BaseException] | None:
        await guarded.wait()
        return outcome(open_one)

    elsewhere = asyncio.create_task(other())
    found: list[Any] = []
    with aioioth.guard(everywhere=True):
        guarded.set()
        assert await elsewhere is errors.LeakError
        assert await loop.run_in_executor(None, outcome, open_one) is errors.LeakError
        thread = threading.Thread(target=lambda: found.append(outcome(open_one)))
        thread.start()
        thread.join()
    assert found == [errors.LeakError]
    assert await loop.run_in_executor(None, outcome, open_one) is None


async def test_of_nested_guards_the_innermost_decides() -> None:
    async with lan() as (one, two):

        def bind(stack: aioioth.Stack) -> None:
            with stack.socket() as sock:
                sock.bind(("0.0.0.0", 0))

        def allowed() -> list[bool]:
            return [outcome(partial(bind, stack)) is None for stack in (one, two)]

        with aioioth.guard(one, two):
            assert allowed() == [True, True]
            with aioioth.guard(one):
                assert allowed() == [True, False]
                with aioioth.guard(two):
                    assert allowed() == [False, True]
                    with aioioth.guard():
                        assert allowed() == [False, False]
                assert allowed() == [True, False]
                with aioioth.guard(everywhere=True):
                    assert allowed() == [True, False]
            assert allowed() == [True, True]
        with aioioth.guard(two, everywhere=True):
            assert allowed() == [False, True]
            with aioioth.guard(one, everywhere=True):
                assert allowed() == [True, False]
            with two.activate(guard=True), one.activate(guard=True):
                assert allowed() == [True, False]
            assert allowed() == [False, True]
        assert allowed() == [True, True]


async def test_guards_left_in_another_order() -> None:
    entered = [asyncio.Event(), asyncio.Event()]
    leave = [asyncio.Event(), asyncio.Event()]

    async def guarded(number: int) -> type[BaseException] | None:
        with aioioth.guard(everywhere=bool(number)):
            entered[number].set()
            await leave[number].wait()
            return outcome(open_one)

    first, second = (asyncio.create_task(guarded(number)) for number in range(2))
    await entered[0].wait()
    await entered[1].wait()
    assert outcome(open_one) is errors.LeakError
    leave[1].set()
    assert await second is errors.LeakError
    assert outcome(open_one) is None
    leave[0].set()
    assert await first is errors.LeakError


async def test_an_option_of_activate() -> None:
    make_aware(asyncio.get_running_loop())
    async with lan() as (one, two), await one.start_server(hello, None, 7):
        with two.activate(guard=True):
            assert await heard(asyncio.open_connection("server", 7)) == b"hello"
            with leak("opens an AF_INET socket outside of 'two'"):
                socket.socket()
        with two.activate(guard=True, patch=True), socket.socket() as sock:
            sock.bind(("10.0.0.2", 0))
        open_one()


async def test_afterwards_all_is_as_before() -> None:
    loop = asyncio.get_running_loop()
    with aioioth.guard():
        with leak():
            socket.socket()
    async with await asyncio.start_server(hello, "127.0.0.1", 7007):
        assert await heard(asyncio.open_connection("127.0.0.1", 7007)) == b"hello"
        with socket.create_connection(("127.0.0.1", 7007)) as sock:
            assert sock.getpeername() == ("127.0.0.1", 7007)
    assert await loop.getaddrinfo("127.0.0.1", 80)


async def test_stacks_that_cannot_be_guarded() -> None:
    stack = aioioth.Stack()
    with pytest.raises(errors.ClosedError), aioioth.guard(stack):
        pytest.fail("not reached")
    async with aioioth.Stack(kind="kernel") as host:
        with pytest.raises(errors.ConfigurationError, match="the host's own"):
            with aioioth.guard(host):
                pytest.fail("not reached")
        with pytest.raises(errors.ConfigurationError, match="the host's own"):
            with host.activate(guard=True, patch=True):
                pytest.fail("not reached")
    assert aioioth.current_stack() is None


# Whose fault it is


def culprit(error: BaseException) -> Path:
    """Return the file that a leak names; anyio puts it into a group."""
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    assert isinstance(error, errors.LeakError)
    return Path(error.place.rpartition(":")[0])


async def test_a_helper_is_named_if_nobody_else_can_be() -> None:
    """In a task of its own, where who asked for it is not seen."""
    infos = socket.getaddrinfo("127.0.0.1", 7, type=socket.SOCK_STREAM)
    infos += socket.getaddrinfo("::1", 7, type=socket.SOCK_STREAM)
    # It puts what went wrong with each address into one message.
    both = (
        r"aiohappyeyeballs/impl.py:\d+ opens an AF_INET .*impl.py:\d+ opens an AF_INET6"
    )
    with aioioth.guard(), pytest.raises(RuntimeError, match=both):
        await aiohappyeyeballs.start_connection(infos, happy_eyeballs_delay=0.1)


async def test_a_library_is_named() -> None:
    """Not the standard library's or our lines below it, and not the test's above."""
    url = "http://127.0.0.1:7007/"
    with aioioth.guard():
        async with aiohttp.ClientSession() as session:
            with pytest.raises(errors.LeakError) as leaked:
                await session.get(url)
        assert culprit(leaked.value) == Path(aiohttp.connector.__file__)
        async with httpx.AsyncClient(trust_env=False) as client:
            with pytest.raises(ExceptionGroup) as group:
                await client.get(url)
        assert culprit(group.value) == Path(anyio._backends._asyncio.__file__)
        with pytest.raises(errors.LeakError) as leaked:
            httpx.get(url, trust_env=False)
        assert culprit(leaked.value) == Path(httpcore._backends.sync.__file__)


def test_the_standard_library_is_not_named() -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with aioioth.guard():
        with leak("opens an AF_INET socket"):
            opener.open("http://127.0.0.1:7007/")


def test_we_are_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not either where we are installed among the libraries."""
    root = str(Path(aioioth.__file__).parents[1])
    monkeypatch.setattr(_watch, "_LIBRARIES", (root,))
    with aioioth.guard():
        with leak():
            socket.socket()


def test_a_program_without_a_line_of_its_own() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import socket, aioioth\nwith aioioth.guard():\n  socket.socket()",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "LeakError: <string>:3 opens an AF_INET socket" in done.stderr
