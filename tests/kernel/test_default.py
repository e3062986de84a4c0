"""The default stack, for code that knows of none: by the loop's calls, and patched."""

from __future__ import annotations

import asyncio
import contextvars
import http.client
import signal
import socket
import ssl
import threading
import urllib.request
import warnings
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import uvloop

import aioioth
from aioioth import errors
from aioioth._linux.sockets import identity, namespace_of
from aioioth._loops import StackLoop, make_aware

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

FACTORIES = pytest.mark.parametrize(
    "factory", [None, uvloop.new_event_loop], ids=["asyncio's", "uvloop's"]
)
ORIGINALS = {
    name: getattr(socket.socket, name)
    for name in ("__init__", "bind", "connect", "connect_ex", "sendto", "sendmsg")
}
LOOKUPS = (
    "gethostbyname",
    "gethostbyname_ex",
    "gethostbyaddr",
    "getnameinfo",
    "getaddrinfo",
)
MODULE = {name: getattr(socket, name) for name in LOOKUPS}
LOOP_CALLS = {
    name: getattr(asyncio.BaseEventLoop, name)
    for name in ("getaddrinfo", "getnameinfo")
}


UVLOOPS_OWN = set(vars(uvloop.Loop))


def assert_nothing_patched() -> None:
    assert {name: getattr(socket.socket, name) for name in ORIGINALS} == ORIGINALS
    assert not {"bind", "connect", "connect_ex", "sendto"} & set(vars(socket.socket))
    assert {name: getattr(socket, name) for name in LOOKUPS} == MODULE
    assert socket._socket.getaddrinfo.__module__ == "_socket"  # type: ignore[attr-defined]
    calls = {name: getattr(asyncio.BaseEventLoop, name) for name in LOOP_CALLS}
    assert calls == LOOP_CALLS
    assert set(vars(uvloop.Loop)) == UVLOOPS_OWN


@pytest.fixture(autouse=True)
async def _aware_loop() -> AsyncIterator[None]:
    """The test's loop is one of aioioth, and nothing stays patched."""
    make_aware(asyncio.get_running_loop())
    yield
    assert aioioth.current_stack() is None
    assert_nothing_patched()


@asynccontextmanager
async def lan() -> AsyncIterator[tuple[aioioth.Stack, aioioth.Stack]]:
    """Two stacks; the first is ``server``, and so it is called."""
    hosts = aioioth.Hosts({"server": "10.0.0.1", "client": "10.0.0.2"})
    async with (
        aioioth.Stack("memory://lan", ip="10.0.0.1/24", hosts=hosts) as server,
        aioioth.Stack("memory://lan", ip="10.0.0.2/24", hosts=hosts) as client,
    ):
        yield server, client


async def whoami(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Tell the client its address."""
    writer.write(writer.get_extra_info("peername")[0].encode())
    writer.close()
    await writer.wait_closed()


class Visits:
    """`whoami`, and a way to wait until the connections are closed on its side, too.

    With TLS that takes a while after the client has gone.
    """

    def __init__(self) -> None:
        self._over: asyncio.Queue[None] = asyncio.Queue()

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            await whoami(reader, writer)
        finally:
            self._over.put_nowait(None)

    async def over(self, number: int) -> None:
        async with asyncio.timeout(20):
            for _ in range(number):
                await self._over.get()


async def told(connecting: Coroutine[Any, Any, Any]) -> str:
    async with asyncio.timeout(20):
        reader, writer = await connecting
        answer: bytes = await reader.read()
        writer.close()
        await writer.wait_closed()
    return answer.decode()


def is_in(stack: aioioth.Stack, sock: socket.socket) -> bool:
    assert stack.namespace is not None
    return namespace_of(sock.fileno()) == identity(stack.namespace)


# Whose default it is


async def test_no_default() -> None:
    assert aioioth.current_stack() is None
    async with await asyncio.start_server(whoami, "127.0.0.1", 7007):
        assert await told(asyncio.open_connection("127.0.0.1", 7007)) == "127.0.0.1"
        assert await told(aioioth.open_connection("127.0.0.1", 7007)) == "127.0.0.1"


async def test_the_block_has_it() -> None:
    async with lan() as (server, client):
        with server.activate() as active:
            assert active is server
            assert aioioth.current_stack() is server
            listening = await asyncio.start_server(whoami, None, 7)
        async with listening:
            with client.activate():
                assert await told(asyncio.open_connection("server", 7)) == "10.0.0.2"
                assert await told(aioioth.open_connection("server", 7)) == "10.0.0.2"
            assert aioioth.current_stack() is None


async def test_nested() -> None:
    async with lan() as (server, client):
        with server.activate():
            with client.activate():
                assert aioioth.current_stack() is client
                with client.activate():
                    assert aioioth.current_stack() is client
                assert aioioth.current_stack() is client
            assert aioioth.current_stack() is server


async def test_one_block_at_a_time() -> None:
    async with lan() as (_, client):
        activation = client.activate(patch=True)
        for _ in range(2):
            with activation:
                with pytest.raises(RuntimeError, match=r"call activate\(\) again"):
                    activation.__enter__()
                assert aioioth.current_stack() is client
            assert aioioth.current_stack() is None
            assert_nothing_patched()


async def test_each_task_has_its_own() -> None:
    both = asyncio.Barrier(2)

    async def ask(stack: aioioth.Stack) -> str:
        with stack.activate():
            await both.wait()  # both are active now
            answer = await told(asyncio.open_connection("server", 7))
            await both.wait()
            return answer

    async with lan() as (server, client), await server.start_server(whoami, None, 7):
        answers = await asyncio.gather(ask(server), ask(client))
    assert [*answers] == ["10.0.0.1", "10.0.0.2"]


async def test_tasks_started_in_the_block_inherit_it() -> None:
    left = asyncio.Event()

    async def child() -> str:
        await left.wait()  # the parent's block is over by then
        return await told(asyncio.open_connection("server", 7))

    async with lan() as (server, client), await server.start_server(whoami, None, 7):
        async with asyncio.TaskGroup() as group:
            with client.activate():
                task = group.create_task(child())
            left.set()
        assert task.result() == "10.0.0.2"


async def test_threads_inherit_it() -> None:
    async with lan() as (_, client):
        with client.activate():
            assert await asyncio.to_thread(aioioth.current_stack) is client
            # Other threads have a context of their own, unless they are given one.
            loop = asyncio.get_running_loop()
            assert await loop.run_in_executor(None, aioioth.current_stack) is None
            run_here = contextvars.copy_context().run
            inside = loop.run_in_executor(None, run_here, aioioth.current_stack)
            assert await inside is client


@pytest.mark.parametrize("patch", [False, True])
@pytest.mark.parametrize("guard", [False, True])
async def test_an_exception_ends_it(patch: bool, guard: bool) -> None:
    async with lan() as (_, client):
        with pytest.raises(ZeroDivisionError):
            with client.activate(patch=patch, guard=guard):
                _ = 1 / 0
        assert aioioth.current_stack() is None
        assert_nothing_patched()


async def test_cancellation_ends_it() -> None:
    async with lan() as (_, client):
        inside = asyncio.Event()
        after: list[aioioth.Stack | None] = []

        async def task() -> None:
            try:
                with client.activate(patch=True, guard=True):
                    inside.set()
                    await asyncio.Event().wait()
            finally:
                after.append(aioioth.current_stack())

        running = asyncio.create_task(task())
        await inside.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert after == [None]
        assert_nothing_patched()


async def test_a_stack_that_is_not_open() -> None:
    stack = aioioth.Stack()
    with pytest.raises(errors.ClosedError, match="not open"):
        stack.activate()
    async with stack:
        pass
    with pytest.raises(errors.ClosedError, match="make a new one"):
        stack.activate(patch=True, guard=True)
    assert aioioth.current_stack() is None


def bound_to_nothing() -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    return sock


async def test_a_stack_that_is_closed_meanwhile_is_not_replaced_by_the_host() -> None:
    loop = asyncio.get_running_loop()
    # It would be reached if anything went there.
    async with await asyncio.start_server(whoami, "127.0.0.1", 7007):
        stack = await aioioth.Stack().open()
        with stack.activate():
            await stack.aclose()
            with bound_to_nothing() as sock:
                for call in (
                    lambda: asyncio.open_connection("127.0.0.1", 7007),
                    lambda: aioioth.open_connection("127.0.0.1", 7007),
                    lambda: asyncio.start_server(whoami, "127.0.0.1", 7008),
                    lambda: aioioth.start_server(whoami, "127.0.0.1", 7008),
                    lambda: loop.create_datagram_endpoint(
                        asyncio.DatagramProtocol, ("127.0.0.1", 0)
                    ),
                    lambda: loop.sock_connect(sock, ("127.0.0.1", 7007)),
                    lambda: loop.getaddrinfo("127.0.0.1", 7007),
                    lambda: loop.getnameinfo(("127.0.0.1", 7007)),
                ):
                    with pytest.raises(errors.ClosedError):
                        await call()


async def test_a_closed_stack_is_not_replaced_by_the_host_if_patched() -> None:
    stack = await aioioth.Stack().open()
    with stack.activate(patch=True):
        await stack.aclose()
        for call in (
            socket.socket,
            lambda: socket.create_connection(("127.0.0.1", 7007)),
            lambda: socket.create_server(("127.0.0.1", 7007)),
            lambda: socket.getaddrinfo("127.0.0.1", 7007),
            lambda: socket.gethostbyname("127.0.0.1"),
            lambda: socket.gethostbyname_ex("127.0.0.1"),
            lambda: socket.gethostbyaddr("127.0.0.1"),
            lambda: socket.getnameinfo(("127.0.0.1", 7007), 0),
        ):
            with pytest.raises(errors.ClosedError):
                call()
        left, right = socket.socketpair()
        left.close()
        right.close()


@pytest.mark.parametrize("patch", [False, True])
async def test_the_way_out(patch: bool) -> None:
    async with await asyncio.start_server(whoami, "127.0.0.1", 7007):
        async with lan() as (_, client), aioioth.Stack(kind="kernel") as host:
            with client.activate(patch=patch):
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection("127.0.0.1", 7007)
                with host.activate(patch=patch):
                    asking = asyncio.open_connection("127.0.0.1", 7007)
                    assert await told(asking) == "127.0.0.1"
                    with socket.create_connection(("127.0.0.1", 7007)) as sock:
                        received = await asyncio.to_thread(sock.recv, 100)
                        assert received == b"127.0.0.1"
                        assert not is_in(client, sock)


# The loop's calls


async def test_datagrams() -> None:
    loop = asyncio.get_running_loop()
    received: asyncio.Future[Any] = loop.create_future()

    class Note(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            received.set_result((data, addr[0]))

    async with lan() as (server, client):
        with server.activate():
            listening, _ = await loop.create_datagram_endpoint(Note, ("server", 7))
        with client.activate():
            sending, _ = await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, remote_addr=("server", 7)
            )
        sending.sendto(b"hello")
        async with asyncio.timeout(20):
            assert await received == (b"hello", "10.0.0.2")
        sending.close()
        listening.close()
        await asyncio.sleep(0)


async def test_lookups() -> None:
    loop = asyncio.get_running_loop()
    async with lan() as (_, client):
        with client.activate():
            infos = await loop.getaddrinfo("server", 80, type=socket.SOCK_STREAM)
            assert [info[4] for info in infos] == [("10.0.0.1", 80)]
            assert await loop.getnameinfo(("10.0.0.1", 80)) == ("server", "http")
            with pytest.raises(socket.gaierror):
                await loop.getaddrinfo("no.such.name", 80)
            with pytest.raises(socket.gaierror):
                await asyncio.open_connection("no.such.name", 80)


async def test_sock_connect() -> None:
    loop = asyncio.get_running_loop()
    async with lan() as (server, client), await server.start_server(whoami, None, 7):
        with client.activate(), client.socket() as sock:
            await loop.sock_connect(sock, ("server", 7))
            assert await loop.sock_recv(sock, 100) == b"10.0.0.2"


async def test_happy_eyeballs() -> None:
    async with lan() as (server, client), await server.start_server(whoami, None, 7):
        client.hosts["both"] = ["fd00::99", "10.0.0.1"]  # there is no way to the first
        with client.activate():
            asking = asyncio.open_connection("both", 7, happy_eyeballs_delay=0.05)
            assert await told(asking) == "10.0.0.2"


async def test_tls() -> None:
    authority = trustme.CA()
    for_server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("server").configure_cert(for_server)
    for_client = ssl.create_default_context()
    authority.configure_trust(for_client)
    visits = Visits()
    async with lan() as (server, client):
        with server.activate():
            tls: Any = {"ssl": for_server}
            listening = await asyncio.start_server(visits.serve, None, 443, **tls)
        async with listening:
            with client.activate():
                asking = asyncio.open_connection("server", 443, ssl=for_client)
                assert await told(asking) == "10.0.0.2"
            await visits.over(1)


async def test_sendfile(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"abcdefgh" * 10_000)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        with file.open("rb") as source:
            await loop.sendfile(writer.transport, source)
        writer.close()

    async with lan() as (server, client):
        with server.activate():
            listening = await asyncio.start_server(serve, None, 7)
        async with listening:
            with client.activate():
                got = await told(asyncio.open_connection("server", 7))
                assert got.encode() == file.read_bytes()


async def test_sockets_of_the_caller_stay_where_they_are() -> None:
    """A socket that is given decides by itself; the default stack has no say."""
    async with await asyncio.start_server(whoami, "127.0.0.1", 7007):
        with socket.create_connection(("127.0.0.1", 7007)) as outside:
            async with lan() as (server, client):
                with server.socket() as inside:
                    inside.bind(("10.0.0.1", 7))
                    inside.listen()
                    with client.activate():
                        listening = await asyncio.start_server(whoami, sock=inside)
                        async with listening:
                            asking = asyncio.open_connection("10.0.0.1", 7)
                            assert await told(asking) == "10.0.0.2"
                        outside.setblocking(False)
                        asking = asyncio.open_connection(sock=outside)
                        assert await told(asking) == "127.0.0.1"


@pytest.mark.parametrize("patch", [False, True])
async def test_unix_sockets_are_the_hosts(patch: bool, tmp_path: Path) -> None:
    path = tmp_path / "socket"

    async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    async with lan() as (_, client):
        with client.activate(patch=patch, guard=True):
            async with await asyncio.start_unix_server(hello, path):
                assert await told(asyncio.open_unix_connection(path)) == "hello"
                with socket.socket(socket.AF_UNIX) as sock:
                    assert not is_in(client, sock)
            left, right = socket.socketpair()
            with left, right:
                assert left.family == socket.AF_UNIX
                assert not is_in(client, left)


async def test_unix_datagrams_are_asyncios(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    unix: Any = {"local_addr": str(tmp_path / "socket"), "family": socket.AF_UNIX}
    if isinstance(loop, uvloop.Loop):
        expected: Any = pytest.raises(TypeError, match="must be a tuple")  # its own
    else:
        expected = ExitStack()
    async with lan() as (_, client):
        with client.activate(), expected:
            transport, _ = await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, **unix
            )
            transport.close()
            await asyncio.sleep(0)


# The loops


@FACTORIES
def test_run(factory: Any) -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, StackLoop)
        assert isinstance(loop, uvloop.Loop) == (factory is not None)
        async with lan() as (server, client), await server.start_server(whoami, "", 7):
            with client.activate():
                return await told(asyncio.open_connection("server", 7))

    assert aioioth.run(main(), loop_factory=factory) == "10.0.0.2"
    assert aioioth.run(main(), loop_factory=factory, debug=True) == "10.0.0.2"


@FACTORIES
def test_run_with_a_stack(factory: Any) -> None:
    stack = aioioth.Stack("memory://lan", ip="10.0.0.1/24")

    async def main() -> str:
        assert aioioth.current_stack() is stack
        async with await asyncio.start_server(whoami, None, 7):
            return await told(asyncio.open_connection("10.0.0.1", 7))

    assert aioioth.run(main(), stack=stack, loop_factory=factory) == "10.0.0.1"
    with pytest.raises(errors.ClosedError):
        stack.check_open()
    assert aioioth.current_stack() is None


@FACTORIES
def test_run_passes_errors_on(factory: Any) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    for stack in None, aioioth.Stack("memory://lan"):
        with pytest.raises(ZeroDivisionError):
            aioioth.run(fail(), stack=stack, loop_factory=factory)


async def nothing() -> None:
    pass


@FACTORIES
def test_a_stack_that_cannot_be_opened(factory: Any) -> None:
    with pytest.raises(errors.BrokenTransportError):
        aioioth.run(nothing(), stack=aioioth.Stack("vde:///no"), loop_factory=factory)
    # A coroutine that was not awaited would be a warning, and so an error.


@pytest.mark.parametrize("given", [None, aioioth.Stack()])
def test_run_refuses_what_asyncio_refuses(given: aioioth.Stack | None) -> None:
    for what in 7, nothing:
        with pytest.raises(ValueError, match="a coroutine was expected") as theirs:
            asyncio.Runner().run(what)  # type: ignore[arg-type]
        with pytest.raises(ValueError) as ours:
            aioioth.run(what, stack=given)  # type: ignore[arg-type]
        assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("given", [None, aioioth.Stack()])
async def test_run_in_a_running_loop(given: aioioth.Stack | None) -> None:
    main = nothing()
    with pytest.raises(
        RuntimeError, match="cannot be called from a running event loop"
    ):
        aioioth.run(main, stack=given)
    main.close()  # nobody's but ours, as with asyncio.run


@FACTORIES
def test_a_runner_runs_several(factory: Any) -> None:
    seen: contextvars.ContextVar[int] = contextvars.ContextVar("seen")

    async def main(number: int) -> int:
        async with aioioth.Stack() as stack:
            with stack.activate():
                async with await asyncio.start_server(whoami, "127.0.0.1", 7):
                    await told(asyncio.open_connection("127.0.0.1", 7))
        seen.set(number)
        return number

    with aioioth.Runner(loop_factory=factory, debug=True) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, StackLoop)
        assert loop.get_debug()
        assert [runner.run(main(number)) for number in range(3)] == [0, 1, 2]
        context = contextvars.copy_context()
        runner.run(main(7), context=context)
        assert context[seen] == 7
        assert runner.get_loop() is loop
    assert loop.is_closed()
    runner.close()
    main_again = main(0)
    with pytest.raises(RuntimeError, match="Runner is closed"):
        runner.run(main_again)
    main_again.close()


@FACTORIES
def test_ctrl_c_cancels_main(factory: Any) -> None:
    cancelled = []

    async def main() -> None:
        async with lan() as (server, _):
            with server.activate():
                async with await asyncio.start_server(whoami, None, 7):
                    try:
                        signal.raise_signal(signal.SIGINT)
                        await asyncio.Event().wait()
                    except asyncio.CancelledError:
                        cancelled.append(aioioth.current_stack())
                        raise

    with pytest.raises(KeyboardInterrupt):
        aioioth.run(main(), loop_factory=factory)
    assert len(cancelled) == 1
    assert cancelled[0] is not None


def test_a_loop_for_others() -> None:
    async def main() -> str:
        async with aioioth.Stack() as stack:
            with stack.activate():
                async with await asyncio.start_server(whoami, "127.0.0.1", 7):
                    return await told(asyncio.open_connection("127.0.0.1", 7))

    with asyncio.Runner(loop_factory=aioioth.new_event_loop) as runner:
        assert isinstance(runner.get_loop(), StackLoop)
        assert runner.run(main()) == "127.0.0.1"


def test_a_loop_is_made_aware_once() -> None:
    loop = make_aware(aioioth.new_event_loop())
    assert type(loop).__mro__.count(StackLoop) == 1
    assert "object at" in repr(loop) or "running=False" in repr(loop)
    loop.close()


@pytest.mark.parametrize("factory", [None, uvloop.new_event_loop], ids=str)
def test_a_running_loop_learns_it(factory: Any) -> None:
    """Without a loop of aioioth: what nobody knows of must not be the host's."""

    async def main() -> str:
        assert not isinstance(asyncio.get_running_loop(), StackLoop)
        async with aioioth.Stack() as stack:
            with stack.activate(guard=True):
                async with await asyncio.start_server(whoami, "127.0.0.1", 7):
                    return await told(asyncio.open_connection("127.0.0.1", 7))

    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(main()) == "127.0.0.1"


def test_a_running_loop_that_cannot_learn_it() -> None:
    async def main() -> None:
        async with aioioth.Stack() as stack:
            with pytest.raises(errors.ConfigurationError, match="Sealed"):
                with stack.activate():
                    pytest.fail("not reached")
            assert aioioth.current_stack() is None

    with asyncio.Runner(loop_factory=Sealed) as runner:
        runner.run(main())


class Sealed(asyncio.SelectorEventLoop):
    def __init_subclass__(cls) -> None:
        msg = "no subclasses"
        raise TypeError(msg)


def test_a_loop_that_cannot_be_made_aware() -> None:
    made = []

    def factory() -> asyncio.AbstractEventLoop:
        made.append(Sealed())
        return made[0]

    main = nothing()
    with pytest.raises(
        errors.ConfigurationError, match=r"Sealed.*take asyncio's or uv"
    ):
        aioioth.run(main, loop_factory=factory)
    main.close()
    assert made[0].is_closed()


# Plain sockets


async def test_sockets_are_the_hosts_without_patch() -> None:
    async with lan() as (_, client):
        with client.activate(), socket.socket() as sock:
            assert not is_in(client, sock)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (socket.AF_INET,),
        (socket.AF_INET, socket.SOCK_DGRAM),
        (socket.AF_INET6, socket.SOCK_STREAM),
        (socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_UDP),
        (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        (socket.AF_PACKET, socket.SOCK_RAW),
        (socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE),
    ],
    ids=str,
)
async def test_a_patched_socket(arguments: Any) -> None:
    async with lan() as (_, client):
        with client.activate(patch=True):
            with socket.socket(*arguments) as sock:
                assert type(sock) is socket.socket
                assert is_in(client, sock)
                assert sock.gettimeout() is None
                assert sock.getblocking()
                assert not sock.get_inheritable()
                wanted = (socket.AF_INET, socket.SOCK_STREAM, 0)
                wanted = arguments + wanted[len(arguments) :]
                assert (sock.family, sock.type, sock.proto) == wanted


async def test_keywords_and_flags() -> None:
    async with lan() as (_, client):
        with client.activate(patch=True):
            kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            with socket.socket(type=kind, family=socket.AF_INET) as sock:
                assert is_in(client, sock)
                assert sock.type == socket.SOCK_DGRAM
                assert sock.gettimeout() == 0
                assert not sock.getblocking()
            with pytest.raises(OSError, match="Protocol not supported"):
                socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_UDP)
            with pytest.raises(TypeError):
                socket.socket("AF_INET")  # type: ignore[arg-type]


async def test_timeouts() -> None:
    async with lan() as (_, client):
        with client.activate(patch=True):
            socket.setdefaulttimeout(0.01)
            try:
                with socket.socket() as sock:
                    assert sock.gettimeout() == 0.01
                with socket.socket(type=socket.SOCK_DGRAM) as sock:
                    sock.bind(("10.0.0.2", 0))
                    with pytest.raises(TimeoutError):
                        sock.recv(1)
            finally:
                socket.setdefaulttimeout(None)
            with socket.socket(type=socket.SOCK_DGRAM) as sock:
                sock.settimeout(0)
                with pytest.raises(BlockingIOError):
                    sock.recv(1)


async def test_the_class_is_the_same() -> None:
    class Mine(socket.socket):
        def __init__(self, *args: Any, **kwds: Any) -> None:
            super().__init__(*args, **kwds)
            self.label = "mine"

    async with lan() as (_, client):
        before = socket.socket
        with client.activate(patch=True):
            assert socket.socket is before
            with Mine(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                assert isinstance(sock, socket.socket)
                assert sock.label == "mine"
                assert is_in(client, sock)
                with sock.dup() as copy:
                    assert type(copy) is Mine
                    assert is_in(client, copy)


async def test_descriptors_stay_what_they_are() -> None:
    async with lan() as (server, client):
        with client.activate(patch=True):
            with server.socket() as theirs:
                with socket.socket(fileno=theirs.dup().detach()) as same:
                    assert is_in(server, same)
                    assert same.family == socket.AF_INET
                kind = (socket.AF_INET, socket.SOCK_STREAM)
                with socket.fromfd(theirs.fileno(), *kind) as same:
                    assert is_in(server, same)
                with theirs.dup() as same:
                    assert is_in(server, same)


def serve_once(listening: socket.socket) -> list[Any]:
    """Echo one line by way of files, and tell where from it came."""
    with listening:
        sock, peer = listening.accept()
        with sock, sock.makefile("rwb") as file:
            file.write(file.readline())
            file.flush()
        return [peer, is_blocking(listening), is_blocking(sock)]


def is_blocking(sock: socket.socket) -> bool:
    return sock.gettimeout() is None


async def test_servers_and_clients_in_threads() -> None:
    def client_thread(*address: Any) -> tuple[bytes, Any]:
        with socket.create_connection(address, timeout=20) as sock:
            sock.sendall(b"hello\n")
            with sock.makefile("rb") as file:
                return file.readline(), sock.getpeername()

    async with lan() as (server, client):
        for host in "server", "10.0.0.1":
            with server.activate(patch=True, guard=True):
                listening = socket.create_server((host, 7))
                assert is_in(server, listening)
                serving = asyncio.create_task(asyncio.to_thread(serve_once, listening))
                # Its thread must have the context before the block is left.
                await asyncio.sleep(0)
            with client.activate(patch=True, guard=True):
                asking = asyncio.to_thread(client_thread, "server", 7)
                assert await asking == (b"hello\n", ("10.0.0.1", 7))
            (address, _), *blocking = await serving
            assert address == "10.0.0.2"
            assert blocking == [True, True]


async def test_a_server_on_all_addresses() -> None:
    async with lan() as (server, _):
        with server.activate(patch=True):
            assert socket.has_dualstack_ipv6()
            with socket.create_server(
                ("", 7), family=socket.AF_INET6, dualstack_ipv6=True
            ) as listening:
                assert is_in(server, listening)


async def test_names_are_the_stacks() -> None:
    async with lan() as (_, client):
        client.hosts["twice"] = ["10.0.0.8", "10.0.0.9", "fd00::9"]
        with client.activate(patch=True):
            stream = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 80))
            infos = socket.getaddrinfo("server", "http", type=socket.SOCK_STREAM)
            assert infos == [stream]
            assert isinstance(infos[0][0], socket.AddressFamily)
            assert isinstance(infos[0][1], socket.SocketKind)
            assert len(socket.getaddrinfo(None, 80, flags=socket.AI_PASSIVE)) >= 2
            assert socket.gethostbyname("server") == "10.0.0.1"
            assert socket.gethostbyname("10.9.9.9") == "10.9.9.9"
            name, aliases, addresses = socket.gethostbyname_ex("twice")
            assert (name, aliases) == ("twice", [])
            assert sorted(addresses) == ["10.0.0.8", "10.0.0.9"]
            expected: Any = ("server", [], ["10.0.0.1"])
            assert socket.gethostbyaddr("10.0.0.1") == expected
            assert socket.gethostbyaddr("server") == expected
            assert socket.getfqdn("server") == "server"
            assert socket.getnameinfo(("10.0.0.1", 80), 0) == ("server", "http")
            numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
            assert socket.getnameinfo(("10.0.0.1", 80), numeric) == ("10.0.0.1", "80")
            for lookup in (
                lambda: socket.getaddrinfo("no.such.name", 80),
                lambda: socket.gethostbyname("no.such.name"),
                lambda: socket.gethostbyname_ex("no.such.name"),
                lambda: socket.gethostbyaddr("no.such.name"),
                lambda: socket.create_connection(("no.such.name", 80)),
                lambda: socket.getaddrinfo("server", 80, flags=socket.AI_NUMERICHOST),
            ):
                with pytest.raises(socket.gaierror):
                    lookup()
            with pytest.raises(socket.herror):
                socket.gethostbyaddr("10.9.9.9")


async def test_lookups_take_keywords_where_they_did() -> None:
    async with lan() as (_, client):
        with client.activate(patch=True):
            infos = socket.getaddrinfo(host="server", port=80, family=socket.AF_INET)
            assert infos[0][4] == ("10.0.0.1", 80)


async def test_methods_look_names_up() -> None:
    async with lan() as (server, client):
        with server.activate(patch=True):
            receiver = socket.socket(type=socket.SOCK_DGRAM)
            receiver.bind(("server", 9))
            with pytest.raises(socket.gaierror):
                receiver.bind(("no.such.name", 0))
        with receiver, client.activate(patch=True):
            assert receiver.getsockname() == ("10.0.0.1", 9)
            with socket.socket(type=socket.SOCK_DGRAM) as sender:
                assert sender.sendto(b"1", ("server", 9)) == 1
                assert sender.sendto(b"2", 0, ("server", 9)) == 1
                assert sender.sendmsg([b"3"], [], 0, ("server", 9)) == 1
                sender.connect(("server", 9))
                # What looks like an address here is two buffers.
                assert sender.sendmsg((b"4", b"5")) == 2
                with pytest.raises(TypeError, match="takes 2 or 3 arguments"):
                    sender.sendto(b"6")  # type: ignore[call-overload]
            with socket.socket(type=socket.SOCK_DGRAM) as sender:
                assert sender.connect_ex(("server", 9)) == 0
                sender.send(b"7")
            receiver.settimeout(20)
            received = [await asyncio.to_thread(receiver.recv, 9) for _ in range(5)]
            assert received == [b"1", b"2", b"3", b"45", b"7"]


async def test_a_socket_is_the_same_type_error_as_ever() -> None:
    async with lan() as (_, client):
        with client.activate(patch=True), socket.socket() as sock:
            with pytest.raises(TypeError):
                sock.connect("server")
            with pytest.raises(TypeError):
                sock.connect()  # type: ignore[call-arg]
            with pytest.raises((TypeError, OverflowError)):
                sock.connect(("10.0.0.1", 1 << 20))


async def test_link_local_addresses_have_the_stacks_scope() -> None:
    async with lan() as (_, client):
        index = client.interfaces["vde0"].index
        with client.activate(patch=True):
            infos = socket.getaddrinfo("fe80::1%vde0", 80, type=socket.SOCK_STREAM)
            assert infos[0][4] == ("fe80::1", 80, 0, index)


def read_all(sock: socket.socket) -> bytes:
    with sock.makefile("rb") as file:
        return file.read()


async def test_tls_over_a_plain_socket() -> None:
    authority = trustme.CA()
    for_server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("server").configure_cert(for_server)
    for_client = ssl.create_default_context()
    authority.configure_trust(for_client)

    def before_tls() -> bytes:
        with socket.create_connection(("server", 443), timeout=20) as plain:
            with for_client.wrap_socket(plain, server_hostname="server") as sock:
                assert isinstance(sock, ssl.SSLSocket)
                return read_all(sock)

    def before_connecting() -> bytes:
        with for_client.wrap_socket(socket.socket(), server_hostname="server") as sock:
            sock.settimeout(20)
            sock.connect(("server", 443))
            return read_all(sock)

    visits = Visits()
    async with (
        lan() as (server, client),
        await server.start_server(visits.serve, None, 443, ssl=for_server),
    ):
        with client.activate(patch=True, guard=True):
            assert await asyncio.to_thread(before_tls) == b"10.0.0.2"
            assert await asyncio.to_thread(before_connecting) == b"10.0.0.2"
        await visits.over(2)


async def http_server(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.0 200 OK\r\n\r\n")
    await whoami(reader, writer)


def by_urllib() -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open("http://server/", timeout=20) as answer:
        data: bytes = answer.read()
    return data


def by_http_client() -> bytes:
    connection = http.client.HTTPConnection("server", timeout=20)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read()
    finally:
        connection.close()


@pytest.mark.parametrize("ask", [by_urllib, by_http_client])
async def test_blocking_libraries_in_threads(ask: Callable[[], bytes]) -> None:
    async with (
        lan() as (server, client),
        await server.start_server(http_server, None, 80),
    ):
        with client.activate(patch=True, guard=True):
            assert await asyncio.to_thread(ask) == b"10.0.0.2"


async def test_plain_asyncio_loops_are_patched_too() -> None:
    """Its sockets are Python's; so is the resolver, in a thread without context."""

    async def ask(stack: aioioth.Stack) -> Any:
        loop = asyncio.get_running_loop()
        assert not isinstance(loop, StackLoop)
        with stack.activate(patch=True, guard=True):
            return (
                await told(asyncio.open_connection("server", 7)),
                await loop.getnameinfo(("10.0.0.1", 80)),
            )

    async with lan() as (server, client), await server.start_server(whoami, None, 7):
        found = await asyncio.to_thread(asyncio.run, ask(client))
        assert found == ("10.0.0.2", ("server", "http"))


async def test_other_contexts_are_not_patched() -> None:
    active, done = asyncio.Event(), asyncio.Event()

    async def patched(stack: aioioth.Stack) -> None:
        with stack.activate(patch=True):
            active.set()
            await done.wait()

    async with lan() as (_, client), asyncio.TaskGroup() as group:
        group.create_task(patched(client))
        await active.wait()
        assert socket.socket.__init__ is not ORIGINALS["__init__"]
        with socket.socket() as sock:
            assert not is_in(client, sock)
            sock.bind(("127.0.0.1", 0))
            sock.listen()
            with socket.create_connection(sock.getsockname()) as outside:
                assert not is_in(client, outside)
        assert socket.getaddrinfo("127.0.0.1", 80)[0][4] == ("127.0.0.1", 80)
        assert socket.gethostbyname("127.0.0.1") == "127.0.0.1"
        with pytest.raises(socket.gaierror):
            socket.getaddrinfo("server", 80, flags=socket.AI_NUMERICHOST)
        # Activated without patch, in the middle of a patched program: not patched.
        with client.activate(), socket.socket() as sock:
            assert not is_in(client, sock)
        done.set()


async def test_left_in_another_order() -> None:
    async with lan() as (server, client):
        entered = [asyncio.Event(), asyncio.Event()]
        leave = [asyncio.Event(), asyncio.Event()]

        async def patched(number: int, stack: aioioth.Stack) -> None:
            with stack.activate(patch=True, guard=bool(number)):
                entered[number].set()
                await leave[number].wait()
                with socket.socket() as sock:
                    assert is_in(stack, sock)

        first = asyncio.create_task(patched(0, server))
        await entered[0].wait()
        second = asyncio.create_task(patched(1, client))
        await entered[1].wait()
        leave[0].set()
        await first
        with socket.socket() as sock:
            assert not is_in(client, sock)
        assert socket.socket.__init__ is not ORIGINALS["__init__"]
        leave[1].set()
        await second
        assert_nothing_patched()


async def test_patched_by_many_threads() -> None:
    def work(stack: aioioth.Stack, start: threading.Barrier) -> None:
        start.wait(20)
        for _ in range(50):
            with stack.activate(patch=True, guard=True), socket.socket() as sock:
                found = is_in(stack, sock)
            assert found
            with socket.socket() as sock:
                found = is_in(stack, sock)
            assert not found

    async with lan() as stacks:
        start = threading.Barrier(6)
        works = (asyncio.to_thread(work, stacks[n % 2], start) for n in range(6))
        await asyncio.gather(*works)
    assert_nothing_patched()


def test_no_warnings_from_a_patched_program() -> None:
    async def main() -> None:
        async with lan() as (_, client):
            with client.activate(patch=True):
                socket.socket().close()
                with pytest.raises(OSError):
                    socket.socket(socket.AF_INET, socket.SOCK_STREAM, 9999)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        aioioth.run(main())
