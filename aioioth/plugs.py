"""What plugs are made of whose network is no socket.

The event loop waits for descriptors. A plug whose frames come from somewhere else, a
stream to be cut into frames, a thread, another plug, keeps them in an `Inbox`; one
whose way can be full for a while tells so with a `Gate`.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Gate", "Inbox"]

# Four wake-ups' worth of a pump, from each of eight senders.
_QUEUE_FRAMES = 2048

# The most that an eventfd holds; it is not writable then.
_FULL = (1 << 64) - 2


class Inbox:
    """Frames on their way to the pump: a queue with a descriptor.

    `put` and `fail` may be called from any thread, one at a time; the rest from the
    plug's own.

    Args:
        frames: How many may wait; what comes beyond is dropped and counted.

    Attributes:
        drops: Frames dropped, by cause.
    """

    def __init__(self, frames: int = _QUEUE_FRAMES) -> None:
        self.drops: Counter[str] = Counter()
        self._frames = frames
        self._queue: deque[bytes] = deque()
        self._error: Callable[[], OSError] | None = None
        # Readable while frames wait. An eventfd, so that another thread may wake us.
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._woken = False

    def fileno(self) -> int:
        """Return the descriptor that is readable while frames wait; -1 when closed."""
        return self._wake

    def put(self, frame: bytes) -> None:
        """Queue a frame, or drop it if too many wait."""
        if len(self._queue) >= self._frames:
            self.drops["queue full"] += 1
            return
        self._queue.append(frame)
        self._rouse()

    def fail(self, error: Callable[[], OSError]) -> None:
        """Have `recv_into` raise an error once the frames that wait are read.

        Args:
            error: Makes the error, a new one each time. A function, because an error
                that is kept keeps what it was raised in.
        """
        self._error = error
        self._rouse()

    def recv_into(self, buffer: memoryview, /) -> int:
        """See `aioioth.abc.Plug.recv_into`."""
        if not self._queue:
            # First the flag, then another look: a frame that came in between has either
            # seen the flag down and wakes us again, or is seen here.
            if self._wake != -1 and self._error is None:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
            self._woken = False
            if not self._queue:
                if self._error is not None:
                    raise self._error()
                raise BlockingIOError
        frame = self._queue.popleft()
        length = len(frame)
        buffer[:length] = frame
        return length

    def close(self) -> None:
        """Forget what waits and release the descriptor. Idempotent."""
        wake, self._wake = self._wake, -1
        if wake != -1:
            self._queue.clear()
            os.close(wake)

    def _rouse(self) -> None:
        if not self._woken and self._wake != -1:
            self._woken = True
            os.eventfd_write(self._wake, 1)


class Gate:
    """A descriptor that is writable while there is room; see `abc.SignalsRoom`."""

    def __init__(self) -> None:
        self._room = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._shut = False

    def fileno(self) -> int:
        """Return the descriptor; -1 when closed."""
        return self._room

    @property
    def is_shut(self) -> bool:
        """Whether there is no room."""
        return self._shut

    def shut(self) -> None:
        """Be not writable."""
        if not self._shut and self._room != -1:
            self._shut = True
            os.eventfd_write(self._room, _FULL)

    def open(self) -> None:
        """Be writable again."""
        if self._shut and self._room != -1:
            self._shut = False
            os.eventfd_read(self._room)

    def close(self) -> None:
        """Release the descriptor. Idempotent."""
        room, self._room = self._room, -1
        if room != -1:
            os.close(room)
