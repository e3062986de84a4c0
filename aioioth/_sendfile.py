"""``sendfile`` for loops that have none: uvloop's (0.23)."""

from __future__ import annotations

import asyncio
from typing import IO

from typing_extensions import override

_BLOCK = 256 * 1024  # as asyncio's own


async def sendfile(
    transport: asyncio.WriteTransport,
    file: IO[bytes],
    offset: int = 0,
    count: int | None = None,
    *,
    fallback: bool = True,
) -> int:
    """Send a file over a transport; see `asyncio.loop.sendfile`.

    The file is read in a thread, and no faster than the other side takes it.

    Returns:
        How many bytes were sent.

    Raises:
        RuntimeError: The transport is closing, or ``fallback`` is not wanted.
        ValueError: The file is one of text, or a number is out of range.
        TypeError: ``offset`` or ``count`` is no number.
        ConnectionError: The connection was lost.
    """
    if transport.is_closing():
        msg = "Transport is closing"
        raise RuntimeError(msg)
    _check(file, offset, count)
    if not fallback:
        msg = (
            f"fallback is disabled and native sendfile is not supported for transport "
            f"{transport!r}"
        )
        raise RuntimeError(msg)
    if offset:
        file.seek(offset)
    flow = _Flow(transport)
    sent = 0
    try:
        while count is None or sent < count:
            wanted = _BLOCK if count is None else min(_BLOCK, count - sent)
            block = await asyncio.to_thread(file.read, wanted)
            if not block:
                break
            await flow.room()
            transport.write(block)
            sent += len(block)
        await flow.room()
    finally:
        flow.restore()
        if sent and hasattr(file, "seek"):
            file.seek(offset + sent)
    return sent


def _check(file: IO[bytes], offset: int, count: int | None) -> None:
    """Refuse what asyncio refuses, in its words."""
    if "b" not in getattr(file, "mode", "b"):
        msg = "file should be opened in binary mode"
        raise ValueError(msg)
    for name, value, least, wanted in (
        ("count", 1 if count is None else count, 1, "positive"),
        ("offset", offset, 0, "non-negative"),
    ):
        msg = f"{name} must be a {wanted} integer (got {value!r})"
        if not isinstance(value, int):
            raise TypeError(msg)
        if value < least:
            raise ValueError(msg)


class _Flow(asyncio.Protocol):
    """Stands in for a transport's protocol, to know when there is room to write."""

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport
        self._protocol = transport.get_protocol()
        self._lost: Exception | None = None
        self._room = asyncio.Event()
        high = transport.get_write_buffer_limits()[1]
        self._was_paused = transport.get_write_buffer_size() > high
        if not self._was_paused:
            self._room.set()
        self._reader: asyncio.ReadTransport | None = None
        if isinstance(transport, asyncio.ReadTransport) and transport.is_reading():
            self._reader = transport
            transport.pause_reading()
        transport.set_protocol(self)

    async def room(self) -> None:
        """Wait until the transport takes more."""
        await self._room.wait()
        if self._lost is not None:
            raise self._lost
        if self._transport.is_closing():
            msg = "Connection closed by peer"
            raise ConnectionError(msg)

    def restore(self) -> None:
        """Put the transport's own protocol back, told of what it has missed."""
        if self._lost is not None:
            return
        self._transport.set_protocol(self._protocol)
        if self._reader is not None and not self._transport.is_closing():
            self._reader.resume_reading()
        paused = not self._room.is_set()
        if isinstance(self._protocol, asyncio.BaseProtocol):
            if paused and not self._was_paused:
                self._protocol.pause_writing()
            elif self._was_paused and not paused:
                self._protocol.resume_writing()

    @override
    def pause_writing(self) -> None:
        self._room.clear()

    @override
    def resume_writing(self) -> None:
        self._room.set()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = exc or ConnectionError("Connection is closed by peer")
        self._room.set()
        self._protocol.connection_lost(exc)
