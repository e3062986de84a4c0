"""Networks inside networks: a transform of frames on the way to another transport.

A transport for ``scheme://ADDRESS{VNL}`` is a `FrameTransform` and a few lines, which
parse the address and hand the inner network and the transform to `NestedTransport`.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Protocol

from typing_extensions import override

from aioioth.abc import CountsDrops, SignalsRoom

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from typing_extensions import Buffer

    from aioioth.abc import Plug
    from aioioth.networks import Network

__all__ = ["FrameTransform", "NestedPlug", "NestedTransport"]

# Frames of the inner network that are filtered one after the other before the loop gets
# its turn again.
_FILTERED_AT_ONCE = 64


class FrameTransform(Protocol):
    """What happens to frames on their way, both ways. Made anew for each plug.

    Attributes:
        drops: Frames from the network that were not passed on, by cause; counted by
            `incoming`.
    """

    drops: Mapping[str, int]

    def outgoing(self, frame: memoryview, /) -> Buffer | None:
        """Return what goes to the inner network instead of a frame; None for nothing.

        Any frame of 14 bytes and more comes here. Never raises.
        """
        ...

    def incoming(self, frame: memoryview, /) -> Buffer | None:
        """Return what the stack gets instead of a frame; None for nothing.

        Anything at all comes here, also nothing. Never raises. ``frame`` is read before
        the result is written, to the same place.
        """
        ...

    def close(self) -> None:
        """Release everything at once. Idempotent, never waits, never raises."""
        ...


class NestedTransport:
    """A transport around another one; see `aioioth.abc.FrameTransport`.

    Args:
        network: The inner network.
        transform: Makes the transform of one plug. May raise an `OSError`.
        overhead: Bytes that it adds to a frame at most.
    """

    def __init__(
        self, network: Network, transform: Callable[[], FrameTransform], overhead: int
    ) -> None:
        self._network = network
        self._transform = transform
        self._overhead = overhead

    async def open(self, label: str) -> NestedPlug:
        """Plug into the inner network."""
        transform = self._transform()
        try:
            plug = await self._network.transport.open(label)
        except BaseException:
            transform.close()
            raise
        return NestedPlug(plug, transform, self._overhead)


class NestedPlug:
    """A plug of the inner network, behind a transform; see `aioioth.abc.Plug`.

    Args:
        plug: Taken over.
        transform: Taken over.
        overhead: Bytes that it adds to a frame at most.
    """

    def __init__(self, plug: Plug, transform: FrameTransform, overhead: int) -> None:
        self.mtu = plug.mtu - overhead
        self._plug = plug
        self._transform = transform
        self._recv_into, self._send = plug.recv_into, plug.send
        self._incoming, self._outgoing = transform.incoming, transform.outgoing
        self.fileno = plug.fileno
        self.hangup_fileno = plug.hangup_fileno
        self.room_fileno = (
            plug.room_fileno if isinstance(plug, SignalsRoom) else plug.fileno
        )

    @property
    def drops(self) -> Mapping[str, int]:
        """What the transform did not pass on, and what the inner network lost."""
        inner = self._plug.drops if isinstance(self._plug, CountsDrops) else {}
        own = self._transform.drops
        return {
            cause: inner.get(cause, 0) + own.get(cause, 0)
            for cause in dict.fromkeys([*inner, *own])
        }

    def recv_into(self, buffer: memoryview, /) -> int | None:
        """See `aioioth.abc.Plug.recv_into`."""
        for _ in range(_FILTERED_AT_ONCE):
            length = self._recv_into(buffer)
            if length is None:
                return None
            frame = self._incoming(view := buffer[:length])
            if frame is view:
                return length
            if frame is not None:
                length = memoryview(frame).nbytes
                buffer[:length] = frame
                return length
        raise BlockingIOError  # the rest wakes us in the loop's next turn

    def send(self, frame: Buffer, /) -> int | None:
        """See `aioioth.abc.Plug.send`."""
        changed = self._outgoing(memoryview(frame))
        if changed is None:
            raise OSError(errno.ENOMSG, os.strerror(errno.ENOMSG))
        return self._send(changed)

    def close(self) -> None:
        """See `aioioth.abc.Plug.close`."""
        self._plug.close()
        self._transform.close()

    @override
    def __repr__(self) -> str:
        return f"<NestedPlug {self._transform!r} around {self._plug!r}>"
