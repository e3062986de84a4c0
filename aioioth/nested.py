"""Networks inside networks: a transform of frames on the way to another transport.

A transport for ``scheme://ADDRESS{VNL}`` is a `FrameTransform` and a few lines, which
parse the address and hand the inner network and the transform to `NestedTransport`.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from typing_extensions import override

from aioioth.abc import CountsDrops, Plug, SignalsRoom

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from typing_extensions import Buffer

    from aioioth.networks import Network

__all__ = [
    "FrameTransform",
    "NestedPlug",
    "NestedTransport",
    "SeesSent",
    "TakesTransform",
]

# Frames that are filtered before the loop gets its turn: a network that carries mostly
# what is none of our business, or forgeries, holds nobody else up.
_FILTERED_AT_ONCE = 64


class FrameTransform(Protocol):
    """What happens to frames on their way, both ways. Made anew for each plug.

    It may also have what `SeesSent` says.
    """

    @property
    def drops(self) -> Mapping[str, int]:
        """Frames from the network that `incoming` did not pass on, by cause."""
        ...

    def outgoing(self, frame: memoryview, /) -> Buffer | None:
        """Return what goes to the inner network instead of a frame; None for nothing.

        Any frame of 14 bytes and more comes here, and comes again, later, if the inner
        network was full: what is made of it must not depend on having been sent. Never
        raises.
        """
        ...

    def incoming(self, frame: memoryview, /) -> Buffer | None:
        """Return what the stack gets instead of a frame; None for nothing.

        Anything at all comes here, also nothing. Never raises. ``frame`` is read before
        the result is written, to the same place; the result may be a part of it.
        """
        ...

    def close(self) -> None:
        """Release everything at once. Idempotent, never waits, never raises.

        Also called in a forked child, for its copies of the descriptors.
        """
        ...


@runtime_checkable
class SeesSent(Protocol):
    """What a transform has besides, if it wants to know what the network took."""

    def sent(self, frame: memoryview, /) -> None:
        """See a frame that came through `FrameTransform.outgoing`. Never raises."""
        ...


@runtime_checkable
class TakesTransform(Plug, CountsDrops, SignalsRoom, Protocol):
    """What a plug is besides, if it puts a virtio header in front of all its frames.

    Inside of what a transform makes of them, not outside, where it would tell of what
    is not there any more.
    """

    def take_transform(self, transform: FrameTransform, overhead: int, /) -> None:
        """Put a transform around, before the first frame; around those it has, if any.

        Args:
            transform: Gets frames with their header. Taken over.
            overhead: Bytes that it adds to a frame at most.
        """
        ...


class NestedTransport:
    """A transport around another one; see `aioioth.abc.FrameTransport`.

    Args:
        network: The inner network.
        transform: Makes the transform of one plug. May raise an `OSError`.
        overhead: Bytes that it adds to a frame at most.
        opaque: Whether any bytes are a frame to it; see `TakesTransform`.
    """

    def __init__(
        self,
        network: Network,
        transform: Callable[[], FrameTransform],
        overhead: int,
        *,
        opaque: bool = False,
    ) -> None:
        self._network = network
        self._transform = transform
        self._overhead = overhead
        self._opaque = opaque

    async def open(self, label: str) -> NestedPlug | TakesTransform:
        """Plug into the inner network."""
        transform = self._transform()
        try:
            plug = await self._network.transport.open(label)
        except BaseException:
            transform.close()
            raise
        if self._opaque and isinstance(plug, TakesTransform):
            plug.take_transform(transform, self._overhead)
            return plug
        return NestedPlug(plug, transform, self._overhead)


class NestedPlug:
    """A plug of the inner network, behind a transform; see `aioioth.abc.Plug`.

    Args:
        plug: Taken over.
        transform: Taken over.
        overhead: Bytes that it adds to a frame at most.
    """

    def __init__(self, plug: Plug, transform: FrameTransform, overhead: int) -> None:
        self.mtu: int = plug.mtu - overhead
        self._plug = plug
        self._transform = transform
        self._filtered = 0
        self._too_long = 0
        self._recv_into, self._send = plug.recv_into, plug.send
        self._incoming, self._outgoing = transform.incoming, transform.outgoing
        self._sent = transform.sent if isinstance(transform, SeesSent) else None
        self.fileno: Callable[[], int] = plug.fileno
        self.hangup_fileno: Callable[[], int] = plug.hangup_fileno
        self.room_fileno: Callable[[], int] = (
            plug.room_fileno if isinstance(plug, SignalsRoom) else plug.fileno
        )

    @property
    def drops(self) -> Mapping[str, int]:
        """What the transform did not pass on, and what the inner network lost."""
        drops = Counter(self._transform.drops)
        if isinstance(self._plug, CountsDrops):
            drops.update(self._plug.drops)
        if self._too_long:
            drops["too long"] += self._too_long
        return drops

    def recv_into(self, buffer: memoryview, /) -> int | None:
        """See `aioioth.abc.Plug.recv_into`."""
        while (length := self._recv_into(buffer)) is not None:
            frame = self._incoming(view := buffer[:length])
            if frame is view:
                return length
            if frame is not None:
                length = memoryview(frame).nbytes
                if length <= buffer.nbytes:
                    buffer[:length] = frame
                    return length
                self._too_long += 1
            self._filtered += 1
            if self._filtered == _FILTERED_AT_ONCE:
                self._filtered = 0
                raise BlockingIOError  # the rest wakes us in the loop's next turn
        return None

    def send(self, frame: Buffer, /) -> int | None:
        """See `aioioth.abc.Plug.send`."""
        view = memoryview(frame)
        changed = self._outgoing(view)
        if changed is None:
            raise OSError(errno.ENOMSG, os.strerror(errno.ENOMSG))
        if self._send(changed) is None:
            return None
        if self._sent is not None:
            self._sent(view)
        return view.nbytes

    def close(self) -> None:
        """See `aioioth.abc.Plug.close`."""
        self._plug.close()
        self._transform.close()

    @override
    def __repr__(self) -> str:
        return f"<NestedPlug {self._transform!r} around {self._plug!r}>"
