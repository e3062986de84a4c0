"""One question to one DNS server, over the sockets of a stack, and its answer.

dnspython reads and writes the messages; the sockets and the waiting are ours, on any
event loop. dnspython takes a while to import: this module is not for `import aioioth`.

Source: RFC 1035, 6891 (EDNS), 7766 (TCP).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, cast

import dns.exception
import dns.flags
import dns.message
import dns.rcode
from typing_extensions import override

from aioioth._connecting import connect_socket
from aioioth._names import family_of

if TYPE_CHECKING:
    from aioioth._ip import IPAddress

OpenSocket = Callable[[int, int, int], socket.socket]
SocketAddress = Callable[["IPAddress", int], Any]

# What passes every link without fragments; DNS flag day 2020.
PAYLOAD = 1232
_PORT = 53


class Exchange:
    """Asks servers, one question each time.

    Works on any event loop and in any thread, also on several at once. Each question
    has a socket of its own: its port is half of what a forger has to guess.

    Args:
        open_socket: Opens a non-blocking socket in the stack.
        socket_address: Makes a socket address of an address and a port.
        seconds: How long to wait for each try over UDP, and for TCP.
        tries: How often to ask over UDP.
        check: Called with a server's address and the socket that is connected to it;
            raises OSError if it is not to be asked.
    """

    def __init__(
        self,
        open_socket: OpenSocket,
        socket_address: SocketAddress,
        *,
        seconds: float,
        tries: int,
        check: Callable[[IPAddress, socket.socket], None] | None = None,
    ) -> None:
        self._open_socket = open_socket
        self._socket_address = socket_address
        self._seconds = seconds
        self._tries = tries
        self._check = check

    async def ask(
        self, server: IPAddress, name: dns.name.Name, kind: dns.rdatatype.RdataType
    ) -> dns.message.Message:
        """Return a server's reply, by TCP if it is long, without EDNS if it is old.

        Raises:
            TimeoutError: There is none.
            OSError: The server cannot be reached, or the kernel says that nobody is
                there.
            EOFError: It ends the connection, or sends nonsense over it.
            dns.exception.DNSException: The question cannot be asked.
        """
        query = dns.message.make_query(name, kind, use_edns=0, payload=PAYLOAD)
        reply = await self._exchange(server, query)
        if reply.rcode() == dns.rcode.FORMERR:  # older than EDNS
            query.use_edns(False)
            reply = await self._exchange(server, query)
        return reply

    async def _exchange(
        self, server: IPAddress, query: dns.message.Message
    ) -> dns.message.Message:
        reply = await self._over_udp(server, query)
        if reply.flags & dns.flags.TC:
            async with asyncio.timeout(self._seconds):
                reply = await self._over_tcp(server, query)
        return reply

    async def _over_udp(
        self, server: IPAddress, query: dns.message.Message
    ) -> dns.message.Message:
        wire = query.to_wire()
        mailbox = _Mailbox()
        try:
            transport = await self._udp_endpoint(server, mailbox)
            for _ in range(self._tries):
                transport.sendto(wire)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._seconds):
                        return await mailbox.reply_to(query)
        finally:
            mailbox.close()
        raise TimeoutError

    async def _udp_endpoint(
        self, server: IPAddress, mailbox: _Mailbox
    ) -> asyncio.DatagramTransport:
        sock = self._open_socket(family_of(server), socket.SOCK_DGRAM, 0)
        try:
            # The kernel then drops what others send, and reports what is refused.
            sock.connect(self._socket_address(server, _PORT))
            if self._check is not None:
                self._check(server, sock)
        except OSError:
            sock.close()
            raise
        # A transport, for uvloop's sock_recv() waits for ever when the answer is ICMP.
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: mailbox, sock=sock)
        return transport

    async def _over_tcp(
        self, server: IPAddress, query: dns.message.Message
    ) -> dns.message.Message:
        with ExitStack() as undo:
            sock = self._open_socket(family_of(server), socket.SOCK_STREAM, 0)
            undo.callback(sock.close)
            await connect_socket(sock, self._socket_address(server, _PORT))
            reader, writer = await asyncio.open_connection(sock=sock)
            undo.pop_all()
            undo.callback(writer.transport.abort)
            writer.write(query.to_wire(prepend_length=True))
            size = int.from_bytes(await reader.readexactly(2))
            reply = _parse(query, await reader.readexactly(size))
        # What is cut off even here is not all, and nobody can fetch the rest.
        if reply is None or reply.flags & dns.flags.TC:
            raise EOFError
        return reply


class _Mailbox(asyncio.DatagramProtocol):
    """What comes from one server; closes its transport, whenever that turns up."""

    def __init__(self) -> None:
        self._arrived: asyncio.Queue[bytes | OSError] = asyncio.Queue()
        self._transport: asyncio.DatagramTransport | None = None
        self._closed = False

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)
        if self._closed:  # uvloop comes so late when the one who waited is cancelled
            self._transport.abort()

    @override
    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._arrived.put_nowait(data)

    @override
    def error_received(self, exc: Exception) -> None:
        if isinstance(exc, OSError):
            self._arrived.put_nowait(exc)

    async def reply_to(self, query: dns.message.Message) -> dns.message.Message:
        """Wait for the reply; what answers another question is passed over.

        Raises:
            OSError: The kernel, or a router, says that it will not come.
        """
        while True:
            arrived = await self._arrived.get()
            if isinstance(arrived, OSError):
                raise arrived
            reply = _parse(query, arrived)
            if reply is not None:
                return reply

    def close(self) -> None:
        """Close the transport and its socket. Idempotent."""
        self._closed = True
        if self._transport is not None:
            self._transport.abort()


def _parse(query: dns.message.Message, wire: bytes) -> dns.message.Message | None:
    """Return the message; None if it is none, or no reply to the query."""
    reply: dns.message.Message
    try:
        reply = dns.message.from_wire(wire, raise_on_truncation=True)
    except dns.message.Truncated as error:
        reply = cast("Any", error).message()
    except dns.exception.DNSException:
        return None
    return reply if query.is_response(reply) else None
