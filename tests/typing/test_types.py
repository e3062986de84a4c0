"""What a type checker makes of the API; these functions are checked, not called.

mypy fails on an `assert_type` that is not true. At run time the names are looked up,
and asyncio's signatures are compared with ours.
"""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, assert_type

import pytest
from typing_extensions import override

import aioioth
from aioioth import abc, endpoints
from aioioth_transports import memory, null, vde

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

    from tests.kernel.test_datagrams import DatagramCalls
    from tests.kernel.test_parity import Calls

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read())


class Silent(asyncio.Protocol):
    """Does nothing."""


async def streams(stack: aioioth.Stack) -> None:
    assert_type(await aioioth.open_connection("10.0.0.1", 7), Streams)
    assert_type(await aioioth.open_connection("10.0.0.1", 7, stack=stack), Streams)
    assert_type(await stack.open_connection("10.0.0.1", 7, limit=100), Streams)
    assert_type(
        await aioioth.start_server(answer, "10.0.0.1", 7, stack=stack),
        asyncio.Server,
    )
    assert_type(
        await stack.start_server(answer, ["10.0.0.1", "fd00::1"], 7),
        asyncio.Server,
    )
    assert_type(
        await stack.create_connection(Silent, "10.0.0.1", 7),
        tuple[asyncio.Transport, Silent],
    )
    assert_type(await stack.create_server(Silent, None, 7), asyncio.Server)


async def stacks(stack: aioioth.Stack) -> None:
    async with aioioth.Stack("null://", ip=["10.0.0.1/24"], mtu={"vde0": 1400}) as it:
        assert_type(it, aioioth.Stack)
    assert_type(await stack.open(), aioioth.Stack)
    assert_type(aioioth.stacks(), tuple[aioioth.Stack, ...])
    assert_type(stack.name, str)
    assert_type(stack.kind, str)
    assert_type(stack.interfaces, Mapping[str, aioioth.Interface])
    assert_type(stack.stats(), dict[str, aioioth.InterfaceStats])
    assert_type(stack.stats()["vde0"].sent.frames, int)
    assert_type(stack.stats()["vde0"].received.drops, dict[str, int])
    assert_type(stack.sockets(), list[aioioth.SocketInfo])
    assert_type(stack.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket)
    assert_type(stack.events(), aioioth.EventStream)
    async for event in stack.events():
        assert_type(event, aioioth.Event)
        if isinstance(event, aioioth.CarrierDown):
            assert_type(event.cause, str)
        elif isinstance(event, aioioth.CarrierUp):
            assert_type(event.attempts, int)
    interface = stack.interfaces["vde0"]
    assert_type(interface.index, int)
    assert_type(interface.mac, str)
    assert_type(interface.mtu, int)
    assert_type(interface.attached, bool)


class Subclass(aioioth.Stack):
    """A stack of one's own kind keeps its type."""

    @override
    async def open(self) -> Self:
        return await super().open()


async def subclasses() -> None:
    async with Subclass() as stack:
        assert_type(stack, Subclass)


class OwnPlug:
    """What a third party writes; no base class of ours."""

    mtu = 1500

    def fileno(self) -> int:
        return -1

    def hangup_fileno(self) -> int:
        return -1

    def recv_into(self, buffer: memoryview, /) -> int:
        raise BlockingIOError

    def send(self, frame: Buffer, /) -> int:
        return 0

    def close(self) -> None: ...


class OwnTransport:
    """What a third party registers."""

    def __init__(self, address: str) -> None: ...

    async def open(self, label: str) -> OwnPlug:
        return OwnPlug()


def protocols() -> None:
    factories: list[Callable[[str], abc.FrameTransport]] = [
        OwnTransport,
        memory.MemoryTransport,
        null.NullTransport,
        vde.VdeTransport,
    ]
    switch: abc.FrameTransport = aioioth.Switch()
    aioioth.Stack(switch, OwnTransport(""), "null://", *[f("") for f in factories])


# Parity with asyncio: one set of calls, for both.


async def typed_parity(stack: aioioth.Stack) -> None:
    mine = await aioioth.open_connection("::1", port=7, limit=5, happy_eyeballs_delay=1)
    asyncios = await asyncio.open_connection(
        "::1", port=7, limit=5, happy_eyeballs_delay=1
    )
    assert_type(mine, Streams)
    assert_type(asyncios, Streams)
    server: asyncio.AbstractServer
    server = await aioioth.start_server(answer, "::1", 7, limit=5, start_serving=False)
    server = await stack.start_server(answer, "::1", 7, limit=5, start_serving=False)
    server = await asyncio.start_server(answer, "::1", 7, limit=5, start_serving=False)
    await server.start_serving()


def loops_and_stacks(
    loop: asyncio.AbstractEventLoop, stack: aioioth.Stack
) -> tuple[list[Calls], list[DatagramCalls]]:
    """Both have what the parity tests call."""
    return [loop, stack], [loop, stack]


async def endpoints_typed(stack: aioioth.Stack, sock: socket.socket) -> None:
    """Their parameters are checked where a stack's methods take any."""
    assert_type(
        await endpoints.create_connection(
            stack,
            Silent,
            "::1",
            7,
            ssl=True,
            family=socket.AF_INET6,
            local_addr=("::1", 0),
            happy_eyeballs_delay=0.25,
            interleave=1,
            all_errors=True,
        ),
        tuple[asyncio.Transport, Silent],
    )
    assert_type(
        await endpoints.create_server(
            stack, Silent, ["::1"], 7, backlog=5, reuse_port=True, keep_alive=True
        ),
        asyncio.Server,
    )
    assert_type(
        await stack.create_datagram_endpoint(
            asyncio.DatagramProtocol, ("::1", 7), allow_broadcast=True
        ),
        tuple[asyncio.DatagramTransport, asyncio.DatagramProtocol],
    )
    assert_type(
        await endpoints.create_datagram_endpoint(
            stack, asyncio.DatagramProtocol, remote_addr=("::1", 7), reuse_port=True
        ),
        tuple[asyncio.DatagramTransport, asyncio.DatagramProtocol],
    )
    await endpoints.sock_connect(stack, sock, ("::1", 7))


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read())
    await writer.drain()
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("module", [asyncio, aioioth])
async def test_without_a_stack_it_is_asyncio(module: Any) -> None:
    async with asyncio.timeout(10):
        server = await module.start_server(echo, "127.0.0.1", 0, limit=1000, backlog=5)
        async with server:
            port = server.sockets[0].getsockname()[1]
            reader, writer = await module.open_connection(
                "127.0.0.1", port, limit=1000, family=socket.AF_INET
            )
            writer.write(b"the same")
            writer.write_eof()
            assert await reader.read() == b"the same"
            writer.close()
            await writer.wait_closed()


def keywords(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name not in {"self", "stack"}
    ]


@pytest.mark.parametrize("name", ["open_connection", "start_server"])
def test_parameters_of_the_streams_are_asyncios(name: str) -> None:
    expected = keywords(getattr(asyncio, name))
    assert keywords(getattr(aioioth, name)) == expected
    assert keywords(getattr(aioioth.Stack, name)) == expected


@pytest.mark.parametrize(
    "name", ["create_connection", "create_server", "create_datagram_endpoint"]
)
def test_parameters_of_the_endpoints_are_the_loops(name: str) -> None:
    theirs = {
        each.name: (each.kind, each.default)
        for each in keywords(getattr(asyncio.BaseEventLoop, name))
    }
    ours = {
        each.name: (each.kind, each.default)
        for each in keywords(getattr(endpoints, name))
    }
    assert theirs.keys() <= ours.keys()
    positional = {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    for parameter, (kind, default) in theirs.items():
        assert ours[parameter][1] == default, parameter
        assert (ours[parameter][0] in positional) == (kind in positional), parameter


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("Stack", ["open", "aclose", "close", "socket", "sockets", "events", "stats"]),
        ("Interface", ["index", "mac", "mtu", "device", "attached", "stats"]),
    ],
)
def test_what_the_type_checker_was_told_is_there(
    name: str, attributes: list[str]
) -> None:
    for attribute in attributes:
        assert hasattr(getattr(aioioth, name), attribute)
