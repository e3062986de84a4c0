"""What fails, fails in the same way on the host's stack and on ours.

asyncio on the host is what both of ours are held against: ours on asyncio and ours on
uvloop. Where uvloop's own calls say something else is in `UVLOOPS_OWN`.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
import subprocess
import sys
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

import aioioth

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PATIENCE = 10
PORT = 7007

FREE = "127.0.0.1", PORT


@dataclass
class Side:
    """A network stack: what its calls are, and certificates."""

    stack: aioioth.Stack | None
    certificate: tuple[Path, Path]

    @property
    def calls(self) -> Any:
        return self.stack or asyncio.get_running_loop()

    @property
    def streams(self) -> Any:
        return self.stack or asyncio

    def socket(self, *args: Any) -> socket.socket:
        make = self.stack.socket if self.stack else socket.socket
        sock = make(*args)
        sock.setblocking(False)
        return sock

    def serving(self) -> ssl.SSLContext:
        key, cert = self.certificate
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(cert, key)
        return context

    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.certificate[1]))


CASES: dict[str, Any] = {}
WITHOUT_TEXT: set[str] = set()


def case(function: Any) -> Any:
    CASES[function.__name__] = function
    return function


def wordless(function: Any) -> Any:
    """The text has descriptors in it."""
    WITHOUT_TEXT.add(function.__name__)
    return case(function)


def calling(name: str, call: str, *args: Any, text: bool = True, **kwds: Any) -> None:
    """Add a case that is one call."""

    async def function(side: Side) -> None:
        await getattr(side.calls, call)(asyncio.DatagramProtocol, *args, **kwds)

    CASES[name] = function
    if not text:
        WITHOUT_TEXT.add(name)


def connecting(name: str, *args: Any, text: bool = True, **kwds: Any) -> None:
    calling(name, "create_connection", *args, text=text, **kwds)


# Nobody there

connecting("refused", "127.0.0.1", PORT)
connecting("refused_ipv6", "::1", PORT)
connecting("refused_by_bytes", b"127.0.0.1", PORT)
connecting("refused_by_all", None, PORT)  # of loopback, both families
connecting("refused_by_all_at_once", None, PORT, happy_eyeballs_delay=0.01)
connecting("no_port", "127.0.0.1", None)
connecting("no_route", "10.9.9.9", PORT)
connecting("no_route_ipv6", "fd00::9", PORT)
connecting("broadcast", "127.255.255.255", PORT)
connecting("not_a_scope", "fe80::1", PORT)


@case
async def sock_connect_refused(side: Side) -> None:
    with side.socket() as sock:
        await side.calls.sock_connect(sock, ("127.0.0.1", PORT))


@case
async def sock_connect_without_a_port(side: Side) -> None:
    with side.socket() as sock:
        await side.calls.sock_connect(sock, ("127.0.0.1",))


@case
async def sock_connect_with_the_other_family(side: Side) -> None:
    with side.socket() as sock:
        await side.calls.sock_connect(sock, ("::1", PORT))


@case
async def stream_refused(side: Side) -> None:
    await side.streams.open_connection("127.0.0.1", PORT)


@asynccontextmanager
async def full_server(side: Side) -> AsyncIterator[None]:
    """Listens, but its queue is full: no answer, as from a machine that is off."""
    with ExitStack() as undo:
        sock = undo.enter_context(side.socket())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(FREE)
        sock.listen(0)
        for _ in range(2):
            waiting = undo.enter_context(side.socket())
            waiting.connect_ex(FREE)
        yield


@case
async def timeout(side: Side) -> None:
    async with full_server(side), asyncio.timeout(0.05):
        await side.calls.create_connection(asyncio.Protocol, *FREE)


@case
async def timeout_of_wait_for(side: Side) -> None:
    async with full_server(side):
        await asyncio.wait_for(side.streams.open_connection(*FREE), 0.05)


# Addresses

connecting("unknown_local", "127.0.0.1", PORT, local_addr=("10.9.9.9", 0))
connecting("unknown_local_of_all", None, PORT, local_addr=("10.9.9.9", 0))
connecting("wrong_local", "127.0.0.1", PORT, local_addr=("::1", 0))
connecting("wrong_family", "127.0.0.1", PORT, family=socket.AF_INET6)
connecting("wrong_ipv6_family", "::1", PORT, family=socket.AF_INET)
calling("unknown_server", "create_server", "10.9.9.9", PORT)
calling("unknown_server_ipv6", "create_server", "fd00::9", PORT)
calling("unknown_datagram", "create_datagram_endpoint", ("10.9.9.9", PORT))
calling("scopeless_server", "create_server", "fe80::1", PORT)


@case
async def taken(side: Side) -> None:
    async with await side.calls.create_server(asyncio.Protocol, *FREE):
        await side.calls.create_server(asyncio.Protocol, *FREE)


@case
async def one_of_several_taken(side: Side) -> None:
    async with await side.calls.create_server(asyncio.Protocol, *FREE):
        await side.streams.start_server(print, ["::1", "127.0.0.1"], PORT)


@case
async def taken_datagram(side: Side) -> None:
    with side.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(FREE)
        await side.calls.create_datagram_endpoint(asyncio.DatagramProtocol, FREE)


@case
async def taken_local(side: Side) -> None:
    async with await side.calls.create_server(asyncio.Protocol, *FREE):
        await side.streams.open_connection(*FREE, local_addr=FREE)


calling(
    "no_leave_to_broadcast",
    "create_datagram_endpoint",
    remote_addr=("127.255.255.255", PORT),
)
calling("no_route_for_datagrams", "create_datagram_endpoint", None, ("10.9.9.9", 7))

# Names, ports, types

connecting("unknown_name", "no-such-host.invalid", PORT)
WITHOUT_NUMBER = {"unknown_name"}  # the host's DNS is out of reach, ours is none
connecting("not_numeric", "name", PORT, flags=socket.AI_NUMERICHOST, text=False)
connecting("unknown_service", "127.0.0.1", "no-such-service")
connecting("high_port", "127.0.0.1", 70_000)
connecting("high_port_ipv6", "::1", 70_000)
connecting("high_port_by_name", "localhost", 70_000, family=socket.AF_INET)
connecting("negative_port", "127.0.0.1", -1)
connecting("high_port_in_text", "127.0.0.1", "70000")
connecting("port_of_wrong_type", "127.0.0.1", object, text=False)
connecting("host_of_wrong_type", 7, PORT, text=False)
connecting("family_of_wrong_type", "127.0.0.1", PORT, family="inet")
connecting("unknown_family", "127.0.0.1", PORT, family=socket.AF_UNIX)
calling("server_at_high_port", "create_server", "127.0.0.1", 70_000)
calling("server_at_unknown_service", "create_server", "127.0.0.1", "no-such-service")
calling("server_at_wrong_type", "create_server", [7], PORT, text=False)
calling("datagrams_at_high_port", "create_datagram_endpoint", ("127.0.0.1", 70_000))
calling("datagrams_without_a_port", "create_datagram_endpoint", ("127.0.0.1",))
calling("datagrams_without_a_family", "create_datagram_endpoint")
calling("datagrams_of_two", "create_datagram_endpoint", ("::1", 0), ("127.0.0.1", 7))
calling("datagrams_of_no_kind", "create_datagram_endpoint", family=77)

# Arguments

connecting("nothing")
calling("server_of_nothing", "create_server")
for late in "ssl_handshake_timeout", "ssl_shutdown_timeout":
    one: Any = {late: 1}
    zero: Any = {late: 0, "ssl": True}
    connecting(f"{late}_without_ssl", *FREE, **one)
    connecting(f"{late}_zero", *FREE, **zero)
    calling(f"server_{late}_without_ssl", "create_server", *FREE, **one)
connecting("hostname_without_ssl", *FREE, server_hostname="name")
connecting("empty_hostname_without_ssl", *FREE, server_hostname="")
connecting("ssl_without_host", None, PORT, ssl=True)
connecting("ssl_of_wrong_type", *FREE, ssl="yes")
calling("server_with_ssl_true", "create_server", *FREE, ssl=True)
calling("server_with_ssl_false", "create_server", *FREE, ssl=False)
calling(
    "server_with_unknown_keyword", "create_server", *FREE, no_such_keyword=1, text=False
)


@case
async def socket_and_host(side: Side) -> None:
    with side.socket() as sock:
        await side.calls.create_connection(asyncio.Protocol, *FREE, sock=sock)


@case
async def server_of_socket_and_host(side: Side) -> None:
    with side.socket() as sock:
        await side.calls.create_server(asyncio.Protocol, *FREE, sock=sock)


@wordless
async def socket_of_datagrams(side: Side) -> None:
    with side.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        await side.calls.create_connection(asyncio.Protocol, sock=sock)


@wordless
async def server_of_datagrams(side: Side) -> None:
    with side.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        await side.calls.create_server(asyncio.Protocol, sock=sock)


@case
async def ssl_with_a_socket_and_no_hostname(side: Side) -> None:
    with side.socket() as sock:
        await side.calls.create_connection(asyncio.Protocol, sock=sock, ssl=True)


@wordless
async def socket_that_is_not_connected(side: Side) -> None:
    with side.socket() as sock:
        reader, writer = await side.streams.open_connection(sock=sock)
        try:
            await reader.read()
        finally:
            writer.close()


@case
async def datagram_protocol_factory_that_fails(side: Side) -> None:
    def factory() -> asyncio.DatagramProtocol:
        msg = "no protocol today"
        raise ZeroDivisionError(msg)

    await side.calls.create_datagram_endpoint(factory, None, FREE)


@wordless
async def serving_when_closed(side: Side) -> None:
    server = await side.calls.create_server(asyncio.Protocol, ["127.0.0.1"], PORT)
    server.close()
    await server.serve_forever()


# TLS


class Rude(asyncio.Protocol):
    """Ends the connection after what comes first, with a reset or in peace."""

    def __init__(self, *, reset: bool) -> None:
        self.reset = reset
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.reset:
            linger = struct.pack("ii", 1, 0)
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.close()


@case
async def reset_in_handshake(side: Side) -> None:
    async with await side.calls.create_server(lambda: Rude(reset=True), *FREE):
        await side.streams.open_connection(*FREE, ssl=side.trusting())


@case
async def end_in_handshake(side: Side) -> None:
    async with await side.calls.create_server(lambda: Rude(reset=False), *FREE):
        await side.streams.open_connection(*FREE, ssl=side.trusting())


@case
async def slow_handshake(side: Side) -> None:
    async with full_server_accepting(side):
        await side.streams.open_connection(
            *FREE, ssl=side.trusting(), ssl_handshake_timeout=0.05
        )


@asynccontextmanager
async def full_server_accepting(side: Side) -> AsyncIterator[None]:
    """The kernel accepts connections, and nobody ever answers."""
    with side.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(FREE)
        sock.listen()
        yield


@case
async def no_tls_there(side: Side) -> None:
    def greet(reader: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 welcome\r\n")
        writer.close()

    async with await side.streams.start_server(greet, *FREE):
        await side.streams.open_connection(*FREE, ssl=side.trusting())


@case
async def certificate_of_an_unknown(side: Side) -> None:
    async with await side.streams.start_server(hang_up, *FREE, ssl=side.serving()):
        await side.streams.open_connection(*FREE, ssl=ssl.create_default_context())


@case
async def certificate_of_another(side: Side) -> None:
    async with await side.streams.start_server(hang_up, *FREE, ssl=side.serving()):
        await side.streams.open_connection(
            *FREE, ssl=side.trusting(), server_hostname="another"
        )


def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


@case
async def end_inside_tls(side: Side) -> None:
    """Without the closing alert, in the midst of what is expected."""

    def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"1234")
        writer.transport.abort()

    async with await side.streams.start_server(leave, *FREE, ssl=side.serving()):
        reader, writer = await side.streams.open_connection(*FREE, ssl=side.trusting())
        try:
            await reader.readexactly(100)
        finally:
            writer.close()


# Connections that are gone


@case
async def reset(side: Side) -> None:
    async with await side.calls.create_server(lambda: Rude(reset=True), *FREE):
        reader, writer = await side.streams.open_connection(*FREE)
        writer.write(b"?")
        try:
            await reader.read()
        finally:
            writer.close()


@case
async def drain_after_the_end(side: Side) -> None:
    async with await side.streams.start_server(hang_up, *FREE):
        _, writer = await side.streams.open_connection(*FREE)
        writer.close()
        await writer.wait_closed()
        await writer.drain()


@wordless
async def sendfile_after_closing(side: Side) -> None:
    async with await side.streams.start_server(hang_up, *FREE):
        _, writer = await side.streams.open_connection(*FREE)
        writer.close()
        await writer.wait_closed()
        await side.calls.sendfile(writer.transport, None)


@case
async def too_long_a_datagram(side: Side) -> None:
    errors: asyncio.Queue[Exception] = asyncio.Queue()

    class Protocol(asyncio.DatagramProtocol):
        def error_received(self, exc: Exception) -> None:
            errors.put_nowait(exc)

    transport, _ = await side.calls.create_datagram_endpoint(Protocol, None, FREE)
    transport.sendto(bytes(70_000))
    error = await errors.get()
    transport.close()
    raise error


# Of another type or number if asked of uvloop itself (0.23); see
# docs/explanation/asyncio-and-uvloop.md.
UVLOOPS_OWN = {
    "refused_by_all",
    "refused_by_all_at_once",
    "sock_connect_without_a_port",
    "unknown_local_of_all",
    "wrong_local",
    "unknown_datagram",
    "taken_datagram",
    "high_port",
    "high_port_ipv6",
    "negative_port",
    "high_port_in_text",
    "port_of_wrong_type",
    "server_at_high_port",
    "datagrams_at_high_port",
    "datagrams_of_two",
    "datagrams_of_no_kind",
    "ssl_handshake_timeout_zero",
    "ssl_shutdown_timeout_zero",
    "sendfile_after_closing",
}
if sys.version_info >= (3, 13):  # asyncio has changed
    UVLOOPS_OWN |= {"unknown_server", "unknown_server_ipv6"}


@dataclass(frozen=True)
class Outcome:
    """What a failing call gave."""

    kind: type[BaseException]
    number: int | None
    text: str


async def outcome(name: str, side: Side) -> Outcome:
    """Run a case, which must fail."""
    limit = asyncio.timeout(PATIENCE)
    try:
        async with limit:
            await CASES[name](side)
    except BaseException as error:  # noqa: BLE001  (whatever it is, it is compared)
        assert not limit.expired(), f"{name} hangs"
        number = None if name in WITHOUT_NUMBER else getattr(error, "errno", None)
        wordless = name in WITHOUT_TEXT | WITHOUT_NUMBER
        # Where in OpenSSL's sources it is depends on nothing of interest.
        text = re.sub(r"\(_ssl\.c:\d+\)", "", str(error))
        return Outcome(type(error), number, "" if wordless else text)
    msg = f"{name} does not fail"
    raise AssertionError(msg)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost "
        f"-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout {key} -out {cert}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    return key, cert


def on_the_host(name: str, certificate: Any, factory: Any) -> Outcome:
    """As a loop of its own has it."""
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.get_loop().set_exception_handler(lambda *_: None)
        return runner.run(outcome(name, Side(None, certificate)))


# asyncio's own call leaves a socket behind where a protocol factory fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", CASES)
async def test_the_same_error(name: str, certificate: tuple[Path, Path]) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)  # what a server has to say of it
    expected = await asyncio.to_thread(
        on_the_host, name, certificate, asyncio.new_event_loop
    )
    async with aioioth.Stack() as stack:
        assert await outcome(name, Side(stack, certificate)) == expected


# uvloop's own call leaves a server behind where nothing fails, and then hangs.
SUCCEED_ON_UVLOOP = {"server_at_high_port", "datagrams_at_high_port"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", sorted(set(CASES) - SUCCEED_ON_UVLOOP))
@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_uvloops_own_error(name: str, certificate: tuple[Path, Path]) -> None:
    """The type and the number are the same, too, but for some that are known."""
    theirs = await asyncio.to_thread(
        on_the_host, name, certificate, uvloop.new_event_loop
    )
    asyncios = await asyncio.to_thread(
        on_the_host, name, certificate, asyncio.new_event_loop
    )
    same = (theirs.kind, theirs.number) == (asyncios.kind, asyncios.number)
    assert same == (name not in UVLOOPS_OWN)


async def test_a_protocol_factory_that_fails() -> None:
    """Nothing is left open, where asyncio's own call leaves its socket behind."""

    def factory() -> asyncio.Protocol:
        msg = "no protocol today"
        raise ZeroDivisionError(msg)

    async with (
        aioioth.Stack() as stack,
        await stack.create_server(asyncio.Protocol, *FREE),
    ):
        with pytest.raises(ZeroDivisionError, match="no protocol today"):
            await stack.create_connection(factory, *FREE)
