"""Streams whose frames have a virtio header, between two programs of ours.

The header is always there, also if neither end's plug is asked to carry offloads: who
is not adds an empty one, and completes and cuts what comes. So any two ends go
together. What another end may send is looked at before it goes anywhere.

Source: `aioioth.wire.vdestream`; <linux/virtio_net.h>, Linux 6.1.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import Counter
from typing import TYPE_CHECKING

from typing_extensions import override

from aioioth.wire.offload import EMPTY_HEADER, HEADER_SIZE, complete, is_of_tunnel
from aioioth.wire.vdestream import GREETING, OFFLOADED, is_sound
from aioioth_transports._framed import StreamInbox, StreamPlug

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from typing_extensions import Buffer

    from aioioth.nested import FrameTransform
    from aioioth_transports._framed import Channel

__all__ = ["OffloadedPlug"]

GREETING_SECONDS = 10.0

_BOTH = "give it to both ends, or to none"

# Frames of one piece of the stream that go to the stack without waking up the pump:
# measured, a round trip takes an eighth less, and 64 KiB are copied once less.
_AT_ONCE = 8
# What is shorter is not worth joining; see the pump.
_SHORT = 600


class OffloadedPlug(StreamPlug):
    """A plug of a stream whose frames have a virtio header; see `StreamPlug`.

    It has a channel, as far as frames are concerned, once the other end has greeted.

    Args:
        vnl: For error messages.
        on_lost: See `StreamPlug`.
    """

    def __init__(
        self,
        vnl: str,
        *,
        on_lost: Callable[[str, OSError | None], None] | None = None,
    ) -> None:
        self._messages = _Messages()
        super().__init__(vnl, OFFLOADED, on_lost=on_lost, inbox=self._messages)
        self._most = OFFLOADED.longest
        self._transforms: tuple[FrameTransform, ...] = ()
        self._newcomer: Channel | None = None
        self._heard = b""
        self._patience: asyncio.TimerHandle | None = None
        self._settled = asyncio.Event()

    @property
    @override
    def drops(self) -> Mapping[str, int]:
        """See `aioioth.abc.CountsDrops`."""
        drops = Counter(self._messages.drops)
        for each in self._transforms:
            drops.update(each.drops)
        return drops

    @property
    @override
    def has_channel(self) -> bool:
        """Whether there is somebody, who may still have to greet."""
        return self._newcomer is not None or super().has_channel

    def take_transform(self, transform: FrameTransform, overhead: int) -> None:
        """Put a transform around; see `aioioth.nested.TakesTransform`."""
        # The newest is the outermost.
        self._transforms = (transform, *self._transforms)
        self._messages.incoming = (*self._messages.incoming, transform.incoming)
        self._most -= overhead
        self.mtu -= overhead
        self.undo(transform.close, transform.close)

    def carry_offloads(self, deliver: Callable[[Buffer], bool], /) -> bool:
        """See `aioioth.abc.CarriesOffloads.carry_offloads`."""
        self._messages.deliver = deliver
        self._next_frame = self._messages.recv_whole_into
        self.send = self._send_whole  # type: ignore[method-assign]  # a call less
        return True

    @override
    async def greeted(self) -> None:
        """Wait until the other end has greeted.

        Raises:
            BrokenTransportError: It has not.
        """
        await self._settled.wait()
        if self._error is not None:
            raise self._error()

    @override
    def connect(self, channel: Channel) -> None:
        """Greet, and exchange frames once the other end has; see `StreamPlug`."""
        self._newcomer, self._heard = channel, b""
        channel.on_data = self._on_greeting
        channel.on_full = self._on_full
        channel.on_lost = self._on_channel_lost
        self._patience = self._loop.call_later(GREETING_SECONDS, self._on_silence)
        channel.start()
        channel.write(GREETING)

    @override
    def send(self, frame: Buffer, /) -> int:
        """See `aioioth.abc.Plug.send`."""
        data = memoryview(frame)
        self._send_message(b"".join((EMPTY_HEADER, data)))
        return data.nbytes

    @override
    def close(self) -> None:
        """See `aioioth.abc.Plug.close`."""
        newcomer, self._newcomer = self._newcomer, None
        if newcomer is not None:
            newcomer.release(forked=self._forked)
        if not self._forked:
            self._lose_patience()
        super().close()

    def _send_whole(self, frame: Buffer, /) -> int:
        """Send a frame with its header; see `aioioth.abc.Plug.send`."""
        data = memoryview(frame)
        if data.nbytes > self._most or (data[0] and not data[1] and is_of_tunnel(data)):
            self._send_parts(data)
        else:
            self._send_message(data)
        return data.nbytes

    def _send_message(self, message: Buffer) -> None:
        if self._transforms:
            if self._gate.is_shut:
                raise BlockingIOError
            message = self._transformed(message)
        super().send(message)

    def _send_parts(self, frame: memoryview) -> None:
        """Send the frames that one is on the wire, all of them or none."""
        if self._gate.is_shut:
            raise BlockingIOError
        try:
            parts = complete(frame)
        except ValueError:
            raise _too_long() from None
        messages = [EMPTY_HEADER + part for part in parts]
        if max(map(len, messages)) > self._most:
            raise _too_long()
        first, *others = map(self._transformed, messages)
        super().send(first)
        # There is a batch now, and the gate may be shut: it is written when it opens.
        for message in others:
            self._batch += OFFLOADED.pack(message)

    @override
    def _on_data(self, data: bytes) -> None:
        self._messages.at_once = _AT_ONCE
        super()._on_data(data)

    def _transformed(self, message: Buffer) -> Buffer:
        for each in self._transforms:
            changed = each.outgoing(memoryview(message))
            if changed is None:
                raise OSError(errno.ENOMSG, os.strerror(errno.ENOMSG))
            message = changed
        return message

    def _on_greeting(self, data: bytes) -> None:
        self._heard += data
        channel = self._newcomer
        assert channel is not None, "nothing comes from one that was released"
        if not self._heard.startswith(GREETING):
            if not GREETING.startswith(self._heard):
                self._refuse(f"the other end has not the option offload: {_BOTH}")
            return
        rest, self._heard = self._heard[len(GREETING) :], b""
        self._newcomer = None
        self._lose_patience()
        super().connect(channel)
        self._settled.set()
        if rest:
            self._on_data(rest)

    def _on_silence(self) -> None:
        self._refuse(f"no greeting, which the option offload comes with: {_BOTH}")

    def _refuse(self, reason: str) -> None:
        if self._newcomer is not None:
            self._newcomer.release(forked=False)
            error = OSError(errno.EPROTO, os.strerror(errno.EPROTO))
            self._forget_channel(reason, error)

    @override
    def _forget_channel(self, reason: str, error: OSError | None) -> None:
        self._newcomer, self._heard = None, b""
        self._lose_patience()
        super()._forget_channel(reason, error)
        self._settled.set()

    def _lose_patience(self) -> None:
        patience, self._patience = self._patience, None
        if patience is not None:
            patience.cancel()


class _Messages(StreamInbox):
    """An inbox whose frames have a virtio header, or are to be given without.

    Attributes:
        incoming: What is to be done to them first.
        deliver: Takes a frame for the stack, if it can.
        at_once: How many it may be given before the loop gets its turn.
    """

    def __init__(self) -> None:
        super().__init__()
        self.incoming: tuple[Callable[[memoryview], Buffer | None], ...] = ()
        self.deliver: Callable[[Buffer], bool] = _never
        self.at_once = 0
        # What a frame was cut into, the last first. The descriptor stays readable.
        self._parts: list[bytes] = []

    @override
    def put(self, frame: bytes) -> None:
        """Queue a frame, or have it taken at once.

        Not one that could be joined with others: the pump has them written together.
        """
        if (
            self.at_once
            and not self._queue
            and (frame[1] or len(frame) < _SHORT)
            and not self.incoming
            and is_sound(frame)
            and self.deliver(frame)
        ):
            self.at_once -= 1
        else:
            super().put(frame)

    def recv_whole_into(self, buffer: memoryview, /) -> int:
        """Give the next frame with its header; see `recv_into`.

        Raises:
            BlockingIOError: No frame is waiting, or one was dropped.
        """
        length = super().recv_into(buffer)
        for change in self.incoming:
            frame = change(buffer[:length])
            if frame is None:
                raise BlockingIOError  # those behind it wake us up
            length = memoryview(frame).nbytes
            buffer[:length] = frame
        if is_sound(buffer[:length]):
            return length
        self.drops["malformed"] += 1
        raise BlockingIOError

    @override
    def recv_into(self, buffer: memoryview, /) -> int:
        """Give the next frame as it is on the wire; see `Inbox.recv_into`."""
        if not self._parts:
            length = self.recv_whole_into(buffer)
            if not (buffer[0] or buffer[1]):
                buffer[: length - HEADER_SIZE] = buffer[HEADER_SIZE:length]
                return length - HEADER_SIZE
            self._cut(buffer[:length])
        part = self._parts.pop()
        if not self._parts and not self._queue:
            self._calm_down()
        buffer[: len(part)] = part
        return len(part)

    @override
    def close(self) -> None:
        """See `Inbox.close`."""
        super().close()
        self._parts.clear()

    def _cut(self, frame: memoryview) -> None:
        try:
            parts = complete(frame)
        except ValueError:
            self.drops["not to be cut"] += 1
            raise BlockingIOError from None
        self._parts = parts[::-1]
        if not self._woken:
            self._rouse()


def _never(_: Buffer, /) -> bool:
    return False


def _too_long() -> OSError:
    return OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
