"""Plugs whose frames come and go in a stream of bytes: pipes, sockets, TLS on top.

`ByteStream` stands in for asyncio's transports, which cannot be closed without the loop
(a forked child must not touch it), and which need a task for each connection that is
accepted.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import select
from collections import deque
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

from aioioth.errors import BrokenTransportError
from aioioth.plugs import Gate, Inbox
from aioioth.wire.vdestream import GREETING, Decoder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from typing_extensions import Buffer

    from aioioth.wire.vdestream import Framing

_log = logging.getLogger("aioioth")

# What is read at once. A pipe holds half of it, a socket may hold more.
_READ_SIZE = 1 << 17

# Frames that may wait for the pump before we stop reading, and so stop the other side.
_WAITING_FRAMES = 512
# The same in bytes, of frames that are long: what waits for longer leaves the caches.
_WAITING_BYTES = 1 << 20
# No more than that, and what is in one piece of the stream.
_QUEUE_FRAMES = _WAITING_FRAMES + _READ_SIZE

# Frames that are sent in one turn of the loop are written together, up to this.
BATCH_SIZE = 1 << 16

# Of pipes. vde_plug 4.0.1 reads 9234 bytes at once, and is out of step for ever when
# the last one is the first byte of a length. So a pipe must never hold more than that,
# and what is written must go as a whole or not at all: that is PIPE_BUF, see pipe(7).
PIPE_SIZE = 8192
PIPE_BATCH_SIZE = select.PIPE_BUF


def _ignore(_: object) -> None:
    """Do nothing: nobody has asked to be told."""


def _nothing() -> None:
    """Do nothing: it is the parent's."""


class Channel(Protocol):
    """Bytes both ways, on the event loop.

    Attributes:
        on_data: Called with what comes.
        on_full: Called with True when `write` should not be called, with False when it
            may be again.
        on_lost: Called once, with the error or with None at the end of the stream.
            Nothing else is called then.
    """

    on_data: Callable[[bytes], None]
    on_full: Callable[[bool], None]
    on_lost: Callable[[OSError | None], None]

    def start(self) -> None:
        """Begin to call. Idempotent."""
        ...

    def write(self, data: bytes | bytearray, /) -> None:
        """Send; what does not go at once is kept. Never raises."""
        ...

    def pause(self) -> None:
        """Stop reading."""
        ...

    def resume(self) -> None:
        """Read again."""
        ...

    def release(self, *, forked: bool) -> None:
        """Close at once, without touching the loop if forked. Idempotent."""
        ...


class ByteStream:
    """A `Channel` of descriptors that do not block.

    Args:
        reading: Taken over.
        writing: Taken over; may be the same.

    Raises:
        OSError: There are no descriptors left; nothing was taken over.
    """

    def __init__(self, reading: int, writing: int) -> None:
        self.on_data: Callable[[bytes], None] = _ignore
        self.on_full: Callable[[bool], None] = _ignore
        self.on_lost: Callable[[OSError | None], None] = _ignore
        self._reading, self._writing = reading, writing
        self._paused = False
        self._queue: deque[memoryview] = deque()
        self._watched: dict[int, int] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        # The loop watches this one. It never has an error, after which libuv would not
        # look at a descriptor any more; and what is watched changes without the loop.
        self._epoll = select.epoll()

    def start(self) -> None:
        """See `Channel.start`."""
        if self._loop is None and not self._epoll.closed:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._epoll.fileno(), self._on_ready)
            self._watch()

    def write(self, data: bytes | bytearray, /) -> None:
        """See `Channel.write`."""
        if self._epoll.closed:
            return
        if self._queue:
            self._queue.append(memoryview(data))
            return
        try:
            sent = os.write(self._writing, data)
        except BlockingIOError:
            sent = 0
        except OSError:
            # The place to tell is the callback of the loop: reading fails as well. A
            # pipe that is only written to has to be watched for that.
            sent = 0
        if sent < len(data):
            self._queue.append(memoryview(data)[sent:])
            self._watch()
            self.on_full(True)

    def pause(self) -> None:
        """See `Channel.pause`."""
        self._paused = True
        self._watch()

    def resume(self) -> None:
        """See `Channel.resume`."""
        self._paused = False
        self._watch()

    def release(self, *, forked: bool) -> None:
        """See `Channel.release`."""
        if self._epoll.closed:
            return
        if self._loop is not None and not forked and not self._loop.is_closed():
            self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._queue.clear()
        for descriptor in {self._reading, self._writing}:
            os.close(descriptor)

    def _watch(self) -> None:
        """Tell epoll what we wait for now."""
        if self._loop is None or self._epoll.closed:
            return
        wanted: dict[int, int] = {}
        if not self._paused:
            wanted[self._reading] = select.EPOLLIN
        if self._queue:
            wanted[self._writing] = wanted.get(self._writing, 0) | select.EPOLLOUT
        for descriptor in self._watched.keys() - wanted.keys():
            self._epoll.unregister(descriptor)
        for descriptor, events in wanted.items():
            if descriptor not in self._watched:
                self._epoll.register(descriptor, events)
            elif self._watched[descriptor] != events:
                self._epoll.modify(descriptor, events)
        self._watched = wanted

    def _on_ready(self) -> None:
        if self._epoll.closed:
            return
        try:
            for descriptor, events in self._epoll.poll(0):
                # Errors count as both: the call will tell them.
                if events != select.EPOLLIN and descriptor == self._writing:
                    self._write_more()
                if events != select.EPOLLOUT and descriptor == self._reading:
                    self._read_some()
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error)

    def _read_some(self) -> None:
        if self._paused or self._epoll.closed:
            return
        data = os.read(self._reading, _READ_SIZE)
        if data:
            self.on_data(data)
        else:
            self._lose(None)

    def _write_more(self) -> None:
        if not self._queue:
            return
        while self._queue:
            data = self._queue[0]
            sent = os.write(self._writing, data)
            if sent < data.nbytes:
                self._queue[0] = data[sent:]
                return
            self._queue.popleft()
        self._watch()
        self.on_full(False)

    def _lose(self, error: OSError | None) -> None:
        if not self._epoll.closed:
            self.release(forked=False)
            self.on_lost(error)


class StreamPlug:
    """A plug whose frames are in a stream; see `aioioth.abc.Plug`.

    Without a channel frames to be sent are dropped as "unreachable". While the pump
    does not take frames the channel is not read, so that the other side has to wait,
    too.

    Args:
        vnl: For error messages.
        framing: How frames are told from each other.
        batch: Bytes that are written at once.
        on_lost: Called when a channel is lost, with the reason in words and the error,
            if there is one; None for a plug that is broken then.
        inbox: For frames that come; None for one that gives them as they are.
    """

    def __init__(
        self,
        vnl: str,
        framing: Framing,
        *,
        batch: int = BATCH_SIZE,
        on_lost: Callable[[str, OSError | None], None] | None = None,
        inbox: StreamInbox | None = None,
    ) -> None:
        self.mtu: int = framing.mtu
        self._vnl = vnl
        self._framing = framing
        self._pack_length, self._longest = framing.header.pack, framing.longest
        self._batch_size = batch
        self._on_lost = on_lost or self.break_down
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._inbox = StreamInbox() if inbox is None else inbox
        self._gate = Gate()
        self._error: Callable[[], OSError] | None = None
        self._channel: Channel | None = None
        self._decoder = Decoder(framing)
        self._paused = False
        # Written at the end of the loop's turn, if something was written in it.
        self._batch = bytearray()
        self._batching = False
        self._undo = ExitStack()
        # For each frame: bound once.
        self._next_frame = self._inbox.recv_into
        self.fileno = self._inbox.fileno
        self.room_fileno = self._gate.fileno

    @property
    def drops(self) -> Mapping[str, int]:
        """See `aioioth.abc.CountsDrops`."""
        return self._inbox.drops

    @property
    def has_channel(self) -> bool:
        """Whether there is somebody to exchange frames with."""
        return self._channel is not None

    async def greeted(self) -> None:
        """Wait until the other end has greeted, where it has to: at once."""

    def connect(self, channel: Channel) -> None:
        """Exchange frames over a channel from now on; there is none.

        Args:
            channel: Taken over.
        """
        self._channel, self._decoder = channel, Decoder(self._framing)
        self._paused = False
        channel.on_data = self._on_first_data
        channel.on_full = self._on_full
        channel.on_lost = self._on_channel_lost
        channel.start()

    def undo(
        self,
        release: Callable[[], object],
        in_children: Callable[[], object] | None = None,
    ) -> None:
        """Have a function called when the plug is closed; the last one given first.

        Args:
            release: Called in the process that made the plug.
            in_children: Called in processes forked from it, if any.
        """
        self._undo.callback(
            lambda: (in_children or _nothing)() if self._forked else release()
        )

    def break_down(self, reason: str, error: OSError | None = None) -> None:
        """Have the plug tell that it is broken, after the frames that have come."""
        code = errno.EPIPE if error is None else error.errno
        vnl = self._vnl
        self._error = lambda: BrokenTransportError(vnl, reason, errno=code)
        self._inbox.fail(self._error)

    def hangup_fileno(self) -> int:
        """Return -1: `recv_into` tells."""
        return -1

    def recv_into(self, buffer: memoryview, /) -> int:
        """See `aioioth.abc.Plug.recv_into`."""
        try:
            return self._next_frame(buffer)
        finally:
            # Here, since the pump may not come again once there is none.
            if self._paused and self._inbox.is_empty:
                self._go_on_reading()

    def send(self, frame: Buffer, /) -> int:
        """See `aioioth.abc.Plug.send`."""
        if self._gate.is_shut:
            raise BlockingIOError
        data = memoryview(frame)
        length = data.nbytes
        if length > self._longest:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        channel = self._channel
        if channel is None:
            if self._error is not None:
                raise self._error()
            raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))
        header = self._pack_length(length)
        if not self._batching:
            # The first one of this turn of the loop goes at once, so that one that is
            # alone does not wait; those that follow go together.
            self._batching = True
            self._loop.call_soon(self._end_batch)
            channel.write(header + data)
            return length
        batch = self._batch
        if batch and len(batch) + len(header) + length > self._batch_size:
            self._write_batch()
            batch = self._batch
        batch += header
        batch += data
        return length

    def close(self) -> None:
        """See `aioioth.abc.Plug.close`."""
        if not self._forked and not self._gate.is_shut:
            self._write_batch()
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.release(forked=self._forked)
        self._undo.close()
        self._inbox.close()
        self._gate.close()

    @property
    def _forked(self) -> bool:
        return os.getpid() != self._pid

    def _go_on_reading(self) -> None:
        self._paused = False
        if self._channel is not None:
            self._channel.resume()

    def _end_batch(self) -> None:
        self._batching = False
        if not self._gate.is_shut:
            self._write_batch()

    def _write_batch(self) -> None:
        if self._batch and self._channel is not None:
            batch, self._batch = self._batch, bytearray()
            self._channel.write(batch)

    def _on_first_data(self, data: bytes) -> None:
        if data.startswith(GREETING):
            _log.warning(
                "%s: the other end has the option offload: give it to both, or to none",
                self._vnl,
            )
        if self._channel is not None:
            self._channel.on_data = self._on_data
            self._on_data(data)

    def _on_data(self, data: bytes) -> None:
        decoder, put = self._decoder, self._inbox.put
        for frame in decoder.feed(data):
            put(frame)
        if decoder.short:
            self._inbox.drops["malformed"] += decoder.short
            decoder.short = 0
        if decoder.broken is not None and self._channel is not None:
            self._channel.release(forked=False)
            error = OSError(errno.EPROTO, os.strerror(errno.EPROTO))
            self._forget_channel(decoder.broken, error)
        elif self._inbox.is_crowded and self._channel is not None:
            self._paused = True
            self._channel.pause()

    def _on_full(self, full: bool, /) -> None:  # noqa: FBT001  (a callback)
        if full:
            self._gate.shut()
        else:
            self._gate.open()
            self._write_batch()  # which may shut it again

    def _on_channel_lost(self, error: OSError | None) -> None:
        reason = "the other side has ended"
        if error is not None:
            reason = error.strerror or str(error)
        self._forget_channel(reason, error)

    def _forget_channel(self, reason: str, error: OSError | None) -> None:
        self._channel = None
        self._batch = bytearray()
        self._gate.open()  # what waits there shall learn it
        self._on_lost(reason, error)


class StreamInbox(Inbox):
    """An inbox that tells when it is time to stop reading."""

    def __init__(self) -> None:
        super().__init__(_QUEUE_FRAMES)

    def __len__(self) -> int:
        """Return how many frames wait."""
        return len(self._queue)

    @property
    def is_crowded(self) -> bool:
        """Whether more should not come for now."""
        waiting = self._long_put - self._long_read
        return len(self) > _WAITING_FRAMES or waiting > _WAITING_BYTES
