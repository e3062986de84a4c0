"""Queries over TCP: several on one connection, answered in any order.

Source: RFC 1035 section 4.2.2, RFC 7766.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aioioth.servers._dns.service import Waiting
from aioioth.servers._dns.udp import address_of

if TYPE_CHECKING:
    from collections import Counter

    from aioioth._ip import IPAddress
    from aioioth.servers._dns.service import DnsService, Spawn

# RFC 7766 section 6.2: few connections for each client, and seconds of silence.
_CONNECTIONS = 100
_CONNECTIONS_OF_ONE = 20
_IDLE_SECONDS = 10.0

# Queries of one connection that wait; then nothing more is read.
_PIPELINED = 16


class TcpPort:
    """The connections of a name server.

    Args:
        service: Answers.
        ignored: Counts what is turned away.
        spawn: Starts a task that ends with the server.
    """

    def __init__(
        self, service: DnsService, ignored: Counter[str], spawn: Spawn
    ) -> None:
        self._service = service
        self._ignored = ignored
        self._spawn = spawn
        self._connections: set[_Connection] = set()
        self._closed = False

    def connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Serve a connection; for `asyncio.start_server`."""
        peer = writer.get_extra_info("peername")
        if self._closed or peer is None:  # it came too late, or is gone already
            writer.transport.abort()
            return
        client = address_of(peer)
        same = sum(each.client == client for each in self._connections)
        if len(self._connections) >= _CONNECTIONS or same >= _CONNECTIONS_OF_ONE:
            self._ignored["connections"] += 1
            writer.transport.abort()
            return
        connection = _Connection(reader, writer, client, self._service)
        self._connections.add(connection)
        self._spawn(self._serve(connection), "DNS over TCP")

    def close(self) -> None:
        """End all connections at once. Idempotent."""
        self._closed = True
        while self._connections:
            self._connections.pop().abort()

    async def _serve(self, connection: _Connection) -> None:
        try:
            await connection.serve()
        finally:
            connection.abort()
            self._connections.discard(connection)


class _Connection:
    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        client: IPAddress,
        service: DnsService,
    ) -> None:
        self.client = client
        self._reader = reader
        self._writer = writer
        self._service = service
        self._slots = asyncio.Semaphore(_PIPELINED)

    async def serve(self) -> None:
        """Answer until the client has had enough, or has been silent for too long."""
        async with asyncio.TaskGroup() as group:
            while (wire := await self._read()) is not None:
                await self._answer(wire, group)
                if not await self._drained():
                    break
                # What has arrived already is read without a wait, and would hold the
                # loop for a second: 64 KiB are thousands of queries.
                await asyncio.sleep(0)
        if await self._drained():
            self._writer.close()
            try:
                async with asyncio.timeout(_IDLE_SECONDS):
                    await self._writer.wait_closed()
            except OSError:
                pass

    def abort(self) -> None:
        """End it at once. Idempotent."""
        self._writer.transport.abort()

    async def _read(self) -> bytes | None:
        """Return the next message; None at the end, whatever that is."""
        try:
            async with asyncio.timeout(_IDLE_SECONDS):
                size = int.from_bytes(await self._reader.readexactly(2))
                return await self._reader.readexactly(size)
        except (OSError, asyncio.IncompleteReadError):
            return None

    async def _answer(self, wire: bytes, group: asyncio.TaskGroup) -> None:
        outcome = self._service.begin(wire, self.client, over_tcp=True)
        if isinstance(outcome, Waiting):
            await self._slots.acquire()
            _ = group.create_task(self._answer_later(outcome))
        elif outcome is not None:
            self._write(outcome)

    async def _answer_later(self, waiting: Waiting) -> None:
        try:
            self._write(await self._service.finish(waiting))
        finally:
            self._slots.release()

    def _write(self, reply: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(len(reply).to_bytes(2) + reply)

    async def _drained(self) -> bool:
        """Wait until the client has read; False if he does not."""
        try:
            async with asyncio.timeout(_IDLE_SECONDS):
                await self._writer.drain()
        except OSError:
            return False
        return True
