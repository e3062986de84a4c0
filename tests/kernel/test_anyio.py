"""anyio is the specification: the same checks on its own functions and on ours.

On asyncio and uvloop by the usual matrix, and on trio.
"""

from __future__ import annotations

import errno
import inspect
import socket
import ssl
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trio
import trustme
from anyio.abc import (
    ConnectedUDPSocket,
    SocketAttribute,
    SocketListener,
    SocketStream,
    UDPSocket,
)
from anyio.streams.stapled import MultiListener
from anyio.streams.tls import TLSAttribute, TLSStream

import aioioth
import aioioth.anyio
from aioioth.testing import cancel_everywhere, no_leaks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    Check = Callable[["Calls"], Coroutine[Any, Any, None]]

NAMES = aioioth.anyio.__all__

# Never reached; then the test fails instead of hanging.
PATIENCE = 20

FAILED = "All connection attempts failed"


class Calls:
    """anyio's functions, of one of the two."""

    def __init__(self, stack: aioioth.Stack | None) -> None:
        self.stack = stack

    def __getattr__(self, name: str) -> Any:
        return getattr(anyio if self.stack is None else self.stack, name)


@asynccontextmanager
async def ours() -> AsyncIterator[Calls]:
    with anyio.fail_after(PATIENCE):
        async with aioioth.Stack() as stack:
            yield Calls(stack)


@asynccontextmanager
async def serving(listener: MultiListener[Any], handler: Any) -> AsyncIterator[int]:
    """Serve while the block runs, and give its port."""
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, handler)
        yield port_of(listener)
        group.cancel_scope.cancel()


def port_of(listener: MultiListener[Any]) -> int:
    port: int = listener.listeners[0].extra(SocketAttribute.local_port)
    return port


async def echo(stream: Any) -> None:
    async with stream:
        async for data in stream:
            await stream.send(data)
        await stream.send_eof()


async def swallow(stream: Any) -> None:
    async with stream:
        async for _ in stream:
            pass


async def everything(stream: Any) -> bytes:
    return b"".join([data async for data in stream])


async def a_stream(calls: Calls) -> None:
    listener = await calls.create_tcp_listener(local_host="127.0.0.1")
    async with serving(listener, echo) as port:
        async with await calls.connect_tcp("127.0.0.1", port) as stream:
            assert isinstance(stream, SocketStream)
            assert not isinstance(stream, TLSStream)
            sock = stream.extra(SocketAttribute.raw_socket)
            assert stream.extra(SocketAttribute.family) is socket.AF_INET
            assert stream.extra(SocketAttribute.remote_address) == ("127.0.0.1", port)
            assert stream.extra(SocketAttribute.remote_port) == port
            assert stream.extra(SocketAttribute.local_address) == sock.getsockname()
            local_port = stream.extra(SocketAttribute.local_port)
            assert local_port == sock.getsockname()[1]
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert not sock.get_inheritable()
            data = bytes(range(256)) * 4096
            async with anyio.create_task_group() as group:

                async def send() -> None:
                    await stream.send(data)
                    await stream.send_eof()

                group.start_soon(send)
                assert await everything(stream) == data


async def a_stream_over_ipv6(calls: Calls) -> None:
    listener = await calls.create_tcp_listener(local_host="::1")
    async with serving(listener, echo) as port:
        async with await calls.connect_tcp("::1", port) as stream:
            assert stream.extra(SocketAttribute.family) is socket.AF_INET6
            assert stream.extra(SocketAttribute.remote_address) == ("::1", port)
            await stream.send(b"hello")
            assert await stream.receive() == b"hello"


async def addresses_as_objects(calls: Calls) -> None:
    from ipaddress import ip_address

    here = ip_address("127.0.0.1")
    listener = await calls.create_tcp_listener(local_host=here)
    async with serving(listener, echo) as port:
        async with await calls.connect_tcp(here, port, local_host=here) as stream:
            address = stream.extra(SocketAttribute.local_address)
            assert address[0] == "127.0.0.1"


async def a_connection_from_somewhere(calls: Calls) -> None:
    listener = await calls.create_tcp_listener(local_host="127.0.0.1")
    async with serving(listener, echo) as port:
        with socket.socket() if calls.stack is None else calls.stack.socket() as free:
            free.bind(("127.0.0.2", 0))
            free_port = free.getsockname()[1]
        options: dict[str, Any] = {"local_host": "127.0.0.2"}
        # New in anyio 4.12 or so; ours has it on any.
        with_port = (
            calls.stack is not None
            or "local_port" in inspect.signature(anyio.connect_tcp).parameters
        )
        if with_port:
            options["local_port"] = free_port
        async with await calls.connect_tcp("127.0.0.1", port, **options) as stream:
            host, found = stream.extra(SocketAttribute.local_address)
            assert host == "127.0.0.2"
            assert found == free_port or not with_port


async def a_listener_everywhere(calls: Calls) -> None:
    listener = await calls.create_tcp_listener()
    assert type(listener) is MultiListener
    [only] = listener.listeners
    assert isinstance(only, SocketListener)
    assert only.extra(SocketAttribute.family) is socket.AF_INET6
    assert only.extra(SocketAttribute.local_address) == ("::", port_of(listener))
    async with serving(listener, echo) as port:
        for host in "127.0.0.1", "::1", "localhost":
            async with await calls.connect_tcp(host, port) as stream:
                await stream.send(b"hello")
                assert await stream.receive() == b"hello"


async def a_listener_of_one_family(calls: Calls) -> None:
    options: list[tuple[dict[str, Any], str]] = [
        ({"local_host": "0.0.0.0"}, "0.0.0.0"),
        ({"local_host": "::"}, "::"),
    ]
    if calls.stack is not None:
        # glibc says that a host without a network has no addresses of a family.
        options.append(({"family": socket.AF_INET}, "0.0.0.0"))
        options.append(({"family": socket.AF_INET6}, "::"))
    for wanted, expected in options:
        async with await calls.create_tcp_listener(**wanted) as listener:
            [only] = listener.listeners
            host, port = only.extra(SocketAttribute.local_address)
            assert host == expected
            assert port
            other = "127.0.0.1" if expected == "::" else "::1"
            with pytest.raises(OSError, match=FAILED):
                await calls.connect_tcp(other, port)


async def a_port_twice(calls: Calls) -> None:
    create = partial(calls.create_tcp_listener, local_host="127.0.0.1")
    async with await create() as first:
        with pytest.raises(OSError) as caught:
            await create(local_port=port_of(first))
        assert caught.value.errno == errno.EADDRINUSE
    async with await create(reuse_port=True) as first:
        async with await create(local_port=port_of(first), reuse_port=True) as second:
            assert port_of(second) == port_of(first)


async def a_port_that_was_used(calls: Calls) -> None:
    create = partial(calls.create_tcp_listener, local_host="127.0.0.1")
    listener = await create()
    async with serving(listener, echo) as port:
        async with await calls.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(b"hello")
            await stream.receive()
    # In spite of connections that are not forgotten yet.
    await (await create(local_port=port)).aclose()


async def a_queue_of_one(calls: Calls) -> None:
    async with await calls.create_tcp_listener(
        local_host="127.0.0.1", backlog=10**6
    ) as listener:
        async with await calls.connect_tcp("127.0.0.1", port_of(listener)) as client:
            async with await listener.listeners[0].accept() as accepted:
                ours = client.extra(SocketAttribute.local_address)
                assert accepted.extra(SocketAttribute.remote_address) == ours


async def nobody_listens(calls: Calls) -> None:
    with pytest.raises(OSError, match=FAILED) as caught:
        await calls.connect_tcp("127.0.0.1", 7)
    assert type(caught.value) is OSError
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    assert caught.value.__cause__.errno == errno.ECONNREFUSED


async def nowhere_to_go(calls: Calls) -> None:
    with pytest.raises(OSError, match=FAILED) as caught:
        await calls.connect_tcp("10.9.9.9", 7)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENETUNREACH


async def an_address_of_others(calls: Calls) -> None:
    with pytest.raises(OSError, match=FAILED) as caught:
        await calls.connect_tcp("127.0.0.1", 7, local_host="10.9.9.9")
    assert isinstance(caught.value.__cause__, OSError)
    # asyncio's loop gives no number for it.
    assert caught.value.__cause__.errno in {None, errno.EADDRNOTAVAIL}
    with pytest.raises(OSError) as direct:
        await calls.create_tcp_listener(local_host="10.9.9.9")
    assert direct.value.errno == errno.EADDRNOTAVAIL
    with pytest.raises(OSError) as direct:
        await calls.create_udp_socket(local_host="10.9.9.9")
    assert direct.value.errno == errno.EADDRNOTAVAIL


async def families_that_do_not_match(calls: Calls) -> None:
    with pytest.raises(OSError, match=FAILED) as caught:
        await calls.connect_tcp("::1", 7, local_host="127.0.0.1")
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(socket.gaierror):
        await calls.create_connected_udp_socket("::1", 7, local_host="127.0.0.1")


async def a_bad_name(calls: Calls) -> None:
    for attempt in (
        partial(calls.connect_tcp, "nowhere.invalid", 7),
        partial(calls.connect_tcp, "127.0.0.1", 7, local_host="nowhere.invalid"),
        partial(calls.create_tcp_listener, local_host="nowhere.invalid"),
        partial(calls.create_udp_socket, local_host="nowhere.invalid"),
        partial(calls.create_connected_udp_socket, "nowhere.invalid", 7),
    ):
        with pytest.raises(socket.gaierror):
            await attempt()


async def datagrams(calls: Calls) -> None:
    async with await calls.create_udp_socket(local_host="127.0.0.1") as server:
        assert isinstance(server, UDPSocket)
        assert server.extra(SocketAttribute.family) is socket.AF_INET
        assert SocketAttribute.remote_address not in server.extra_attributes
        port = server.extra(SocketAttribute.local_port)
        assert server.extra(SocketAttribute.local_address) == ("127.0.0.1", port)
        async with (
            await calls.create_udp_socket(family=socket.AF_INET) as client,
            await calls.create_connected_udp_socket("127.0.0.1", port) as connected,
        ):
            assert client.extra(SocketAttribute.local_address)[0] == "0.0.0.0"
            await client.sendto(b"hello", "127.0.0.1", port)
            data, source = await server.receive()
            assert data == b"hello"
            assert source[1] == client.extra(SocketAttribute.local_port)

            assert isinstance(connected, ConnectedUDPSocket)
            remote = connected.extra(SocketAttribute.remote_address)
            assert remote == ("127.0.0.1", port)
            await client.sendto(
                b"from somebody else",
                "127.0.0.1",
                connected.extra(SocketAttribute.local_port),
            )
            await connected.send(b"hello")
            data, source = await server.receive()
            assert source == connected.extra(SocketAttribute.local_address)
            await server.sendto(b"welcome", *source)
            assert await connected.receive() == b"welcome"


async def datagrams_over_ipv6(calls: Calls) -> None:
    async with await calls.create_udp_socket(socket.AF_INET6) as server:
        assert server.extra(SocketAttribute.family) is socket.AF_INET6
        host, port = server.extra(SocketAttribute.local_address)
        assert host == "::"
        async with await calls.create_connected_udp_socket("::1", port) as client:
            await client.send(b"hello")
            data, source = await server.receive()
            assert data == b"hello"
            assert source == client.extra(SocketAttribute.local_address)


async def ports_of_datagrams(calls: Calls) -> None:
    with pytest.raises(ValueError, match="must be given"):
        await calls.create_udp_socket()
    create = partial(calls.create_udp_socket, local_host="127.0.0.1", local_port=5353)
    async with await create():
        with pytest.raises(OSError) as caught:
            await create()
        assert caught.value.errno == errno.EADDRINUSE
    async with await create(reuse_port=True), await create(reuse_port=True):
        pass
    connect = partial(calls.create_connected_udp_socket, "127.0.0.1", 5354)
    async with await connect(local_port=5353) as client:
        assert client.extra(SocketAttribute.local_port) == 5353
    async with await connect(local_host="127.0.0.2") as client:
        assert client.extra(SocketAttribute.local_address)[0] == "127.0.0.2"
    with pytest.raises(OSError) as caught:
        await calls.create_connected_udp_socket("10.9.9.9", 7)
    assert caught.value.errno == errno.ENETUNREACH


def contexts(name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


@asynccontextmanager
async def serving_tls(calls: Calls, context: ssl.SSLContext) -> AsyncIterator[int]:
    async def handle(raw: Any) -> None:
        async with raw:
            try:
                stream = await TLSStream.wrap(raw, ssl_context=context)
            except (ssl.SSLError, anyio.BrokenResourceError, anyio.EndOfStream):
                return  # a client that does not like us
            await stream.send(b"hello")
            await stream.aclose()

    listener = await calls.create_tcp_listener(local_host="127.0.0.1")
    async with serving(listener, handle) as port:
        yield port


async def tls(calls: Calls) -> None:
    server, client = contexts("example.org")
    async with serving_tls(calls, server) as port:
        connect = partial(calls.connect_tcp, "127.0.0.1", port)
        async with await connect(
            ssl_context=client, tls_hostname="example.org"
        ) as stream:
            assert type(stream) is TLSStream
            assert stream.standard_compatible
            assert stream.extra(TLSAttribute.server_side) is False
            assert stream.extra(SocketAttribute.remote_port) == port
            assert await everything(stream) == b"hello"
        async with await connect(
            tls=True,
            ssl_context=client,
            tls_hostname="example.org",
            tls_standard_compatible=False,
        ) as stream:
            assert not stream.standard_compatible
            assert await stream.receive() == b"hello"


async def tls_for_another_name(calls: Calls) -> None:
    server, client = contexts("example.org")
    async with serving_tls(calls, server) as port:
        for options in (
            {"ssl_context": client},
            {"ssl_context": client, "tls_hostname": "example.com"},
            {"tls_hostname": "example.org"},
            {"tls": True},
        ):
            with pytest.raises(ssl.SSLCertVerificationError):
                await calls.connect_tcp("127.0.0.1", port, **options)


async def tls_with_somebody_who_speaks_none(calls: Calls) -> None:
    async def rude(stream: Any) -> None:
        async with stream:
            await stream.send(b"hello, hello, hello, hello")

    listener = await calls.create_tcp_listener(local_host="127.0.0.1")
    async with serving(listener, rude) as port:
        with pytest.raises(ssl.SSLError):
            await calls.connect_tcp("127.0.0.1", port, tls=True)


CHECKS: list[Check] = [
    a_stream,
    a_stream_over_ipv6,
    addresses_as_objects,
    a_connection_from_somewhere,
    a_listener_everywhere,
    a_listener_of_one_family,
    a_port_twice,
    a_port_that_was_used,
    a_queue_of_one,
    nobody_listens,
    nowhere_to_go,
    an_address_of_others,
    families_that_do_not_match,
    a_bad_name,
    datagrams,
    datagrams_over_ipv6,
    ports_of_datagrams,
    tls,
    tls_for_another_name,
    tls_with_somebody_who_speaks_none,
]

every_check = pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)


@every_check
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_anyio_itself(check: Check, backend: str) -> None:
    if (check, backend) == (an_address_of_others, "trio"):
        pytest.skip("anyio 4.16 does not close the socket that it cannot bind")

    async def main() -> None:
        with anyio.fail_after(PATIENCE):
            await check(Calls(None))

    anyio.run(main, backend=backend)


@every_check
async def test_ours_is_the_same(check: Check) -> None:
    async with ours() as calls:
        await check(calls)


@every_check
def test_ours_is_the_same_on_trio(check: Check) -> None:
    async def main() -> None:
        async with ours() as calls:
            await check(calls)

    trio.run(main)


# Ours alone: two stacks and a network in between


@asynccontextmanager
async def pair(**options: Any) -> AsyncIterator[tuple[aioioth.Stack, aioioth.Stack]]:
    async with (
        aioioth.Stack("memory://lan", ip=["10.0.0.1/24", "fd00::1/64"]) as one,
        aioioth.Stack(
            "memory://lan", ip=["10.0.0.2/24", "fd00::2/64"], **options
        ) as two,
    ):
        yield one, two


async def a_name_of_two_families() -> None:
    names = {"both": ["10.0.0.1", "fd00::1"]}
    async with pair(hosts=names) as (one, two):
        one.hosts.update(names)
        for wanted in (0, 7):
            listener = await one.create_tcp_listener(
                local_host="both", local_port=wanted
            )
            v4, v6 = listener.listeners
            async with serving(listener, echo) as port:
                assert v4.extra(SocketAttribute.local_address) == ("10.0.0.1", port)
                assert v6.extra(SocketAttribute.local_address) == ("fd00::1", port)
                async with await two.connect_tcp(
                    "both", port, happy_eyeballs_delay=PATIENCE
                ) as stream:
                    # IPv6 goes first, whatever the order of the answers.
                    assert stream.extra(SocketAttribute.family) is socket.AF_INET6
                    await stream.send(b"hello")
                    assert await stream.receive() == b"hello"
                async with await two.connect_tcp(
                    "both", port, local_host="10.0.0.2"
                ) as stream:
                    assert stream.extra(SocketAttribute.family) is socket.AF_INET
        with pytest.raises(OSError) as caught:
            await two.connect_tcp("both", 9)
        assert isinstance(caught.value.__cause__, ExceptionGroup)
        refused, other = caught.value.__cause__.exceptions
        assert isinstance(refused, ConnectionRefusedError)
        assert isinstance(other, ConnectionRefusedError)


async def a_happy_eyeball() -> None:
    # Nobody has fd00::9: nothing comes back.
    async with pair(hosts={"half": ["fd00::9", "10.0.0.1"]}) as (one, two):
        listener = await one.create_tcp_listener(local_port=7)
        async with serving(listener, echo):
            async with await two.connect_tcp(
                "half", 7, happy_eyeballs_delay=0.01
            ) as stream:
                address = stream.extra(SocketAttribute.remote_address)
                assert address == ("10.0.0.1", 7)
                assert len(two.sockets()) == 1


async def a_link_local_address() -> None:
    async with pair() as (one, two):
        sock = one.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.connect(("ff02::1", 9, 0, one.interfaces["vde0"].index))
        address = sock.getsockname()[0]
        sock.close()
        listener = await one.create_tcp_listener(local_host=f"{address}%vde0")
        async with serving(listener, echo) as port:
            async with await two.connect_tcp(f"{address}%vde0", port) as stream:
                await stream.send(b"hello")
                assert await stream.receive() == b"hello"


async def a_name_in_another_script() -> None:
    async with aioioth.Stack(hosts={"xn--mnchen-3ya.example": "127.0.0.1"}) as stack:
        listener = await stack.create_tcp_listener(local_host="München.example")
        async with serving(listener, echo) as port:
            await (await stack.connect_tcp("münchen.example", port)).aclose()


async def waiting_in_vain() -> None:
    async with pair() as (one, two):
        for connect in (
            partial(two.connect_tcp, "10.0.0.9", 7),
            partial(two.connect_tcp, "10.0.0.1", 7, tls=True),
        ):
            # Accepted by the kernel alone: nobody answers the TLS greeting.
            async with await one.create_tcp_listener(local_port=7):
                async with anyio.create_task_group() as group:
                    group.start_soon(connect)
                    while not two.sockets():
                        await anyio.sleep(0.001)
                    group.cancel_scope.cancel()
                assert two.sockets() == []


async def cancelled_before_it_begins() -> None:
    async with aioioth.Stack() as stack:
        async with await stack.create_tcp_listener(local_port=7):
            before = len(stack.sockets())
            for call in (
                partial(stack.connect_tcp, "127.0.0.1", 7),
                stack.create_tcp_listener,
                partial(stack.create_udp_socket, local_host="127.0.0.1"),
                partial(stack.create_udp_socket, socket.AF_INET),
                partial(stack.create_connected_udp_socket, "127.0.0.1", 7),
            ):
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await call()
                assert scope.cancelled_caught
                assert len(stack.sockets()) == before


async def a_closed_stack() -> None:
    stack = aioioth.Stack()
    for call in (
        partial(stack.connect_tcp, "127.0.0.1", 7),
        stack.create_tcp_listener,
        partial(stack.create_udp_socket, socket.AF_INET),
        partial(stack.create_connected_udp_socket, "127.0.0.1", 7),
    ):
        with pytest.raises(aioioth.errors.ClosedError):
            await call()


async def a_taken_port() -> None:
    """A port that is free on one address and taken on the next is not given up on."""
    async with aioioth.Stack(hosts={"here": ["127.0.0.1", "::1"]}) as stack:
        # The kernel may pick one of two ports, and one is taken for IPv6.
        await stack.sysctl("net.ipv4.ip_local_port_range", "10000 10001")
        async with await stack.create_tcp_listener(local_host="::1", local_port=10000):
            for _ in range(3):
                listener = await stack.create_tcp_listener(local_host="here")
                async with listener:
                    ports = [
                        each.extra(SocketAttribute.local_port)
                        for each in listener.listeners
                    ]
                    assert ports == [10001, 10001]
            async with await stack.create_tcp_listener(
                local_host="127.0.0.1", local_port=10001
            ):
                with pytest.raises(OSError, match="2 listeners with a consistent port"):
                    await stack.create_tcp_listener(local_host="here")


OURS = [
    a_name_of_two_families,
    a_happy_eyeball,
    a_link_local_address,
    a_name_in_another_script,
    waiting_in_vain,
    cancelled_before_it_begins,
    a_closed_stack,
    a_taken_port,
]
each_of_ours = pytest.mark.parametrize("check", OURS, ids=lambda check: check.__name__)


@each_of_ours
async def test_ours(check: Callable[[], Coroutine[Any, Any, None]]) -> None:
    await check()


@each_of_ours
def test_ours_on_trio(check: Callable[[], Coroutine[Any, Any, None]]) -> None:
    trio.run(check)


@pytest.mark.parametrize("name", NAMES)
def test_parameters(name: str) -> None:
    theirs = list(inspect.signature(getattr(anyio, name)).parameters.values())
    ours = list(inspect.signature(getattr(aioioth.anyio, name)).parameters.values())
    assert ours[0].name == "stack"
    # What newer versions add, ours have with older ones, too.
    known = [each for each in ours[1:] if each.name in {their.name for their in theirs}]
    assert [(each.name, each.kind, each.default) for each in known] == [
        (each.name, each.kind, each.default) for each in theirs
    ]


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("name", NAMES)
async def test_cancelled_anywhere(name: str, times: int) -> None:
    async with pair(hosts={"half": ["fd00::9", "10.0.0.1"]}) as (one, two):
        calls: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
            "connect_tcp": partial(
                two.connect_tcp, "half", 7, happy_eyeballs_delay=0.01
            ),
            "create_tcp_listener": one.create_tcp_listener,
            "create_udp_socket": partial(one.create_udp_socket, socket.AF_INET),
            "create_connected_udp_socket": partial(
                two.create_connected_udp_socket, "10.0.0.1", 7
            ),
        }
        async with await one.create_tcp_listener(local_port=7):
            # libuv opens /dev/null with a loop's first stream, and keeps it.
            await anyio.aclose_forcefully(await calls[name]())
            assert await cancel_everywhere(
                calls[name], undo=anyio.aclose_forcefully, times=times
            )


class _CancelAt(trio.abc.Instrument):
    """Cancels a scope when the tasks of a run have taken some steps."""

    def __init__(self, steps: int, scope: trio.CancelScope) -> None:
        self.steps = steps
        self._scope = scope

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps -= 1
        if self.steps == 0:
            self._scope.cancel()


def test_cancelled_anywhere_on_trio() -> None:
    async def main() -> None:
        async with pair(hosts={"half": ["fd00::9", "10.0.0.1"]}) as (one, two):
            async with await one.create_tcp_listener(local_port=7):
                for steps in range(1, 1000):
                    with no_leaks():
                        with trio.CancelScope() as scope:
                            instrument = _CancelAt(steps, scope)
                            trio.lowlevel.add_instrument(instrument)
                            try:
                                stream = await two.connect_tcp(
                                    "half", 7, happy_eyeballs_delay=0.01
                                )
                            finally:
                                trio.lowlevel.remove_instrument(instrument)
                            await anyio.aclose_forcefully(stream)
                    if instrument.steps > 0:
                        assert steps > 5
                        return
                raise AssertionError

    trio.run(main)
