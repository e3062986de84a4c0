"""What plugs are made of whose network is no socket.

The event loop waits for descriptors. A plug whose frames come from somewhere else, a
stream to be cut into frames, a thread, another plug, keeps them in an `Inbox`; one
whose way can be full for a while tells so with a `Gate`.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import Counter, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Gate", "Inbox"]

# Four wake-ups' worth of a pump, from each of eight senders.
_QUEUE_FRAMES = 2048

# Of frames longer than this, which may have 64 KiB, so many bytes; the others are few
# enough.
_LONG, _LONG_BYTES = 4096, 8 << 20

# The most that an eventfd holds; it is not writable then.
_FULL = (1 << 64) - 2


class _Wake:
    """An eventfd that is closed once nobody uses it any more.

    Another thread may be about to write to it. Were the number closed under its hands,
    it could write into whatever gets that number next.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class Inbox:
    """Frames on their way to the pump: a queue with a descriptor.

    `put` and `fail` may be called from any thread, one at a time; the rest from the
    plug's own.

    Args:
        frames: How many may wait; what comes beyond is dropped and counted, and so are
            frames beyond 8 MiB if they are long.

    Attributes:
        drops: Frames dropped, by cause.
    """

    def __init__(self, frames: int = _QUEUE_FRAMES) -> None:
        self.drops: Counter[str] = Counter()
        self._frames = frames
        self._queue: deque[bytes] = deque()
        # Bytes in long frames; each number is written by one thread only.
        self._long_put = self._long_read = 0
        self._error: Callable[[], OSError] | None = None
        # Readable while frames wait. An eventfd, so that another thread may wake us.
        fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._wake: _Wake | None = _Wake(fd)
        self._woken = False

    def fileno(self) -> int:
        """Return the descriptor that is readable while frames wait; -1 when closed."""
        return -1 if self._wake is None else self._wake.fd

    @property
    def is_empty(self) -> bool:
        """Whether no frame waits."""
        return not self._queue

    def put(self, frame: bytes) -> None:
        """Queue a frame, or drop it if too many wait. Nothing happens when closed.

        Args:
            frame: Not longer than what `recv_into` is given, and not empty.
        """
        if self._wake is None:
            return
        if len(self._queue) >= self._frames:
            self.drops["queue full"] += 1
            return
        length = len(frame)
        if length > _LONG:
            if self._long_put + length - self._long_read > _LONG_BYTES:
                self.drops["queue full"] += 1
                return
            self._long_put += length
        self._queue.append(frame)
        if not self._woken:
            self._rouse()

    def put_in_front(self, header: bytes) -> None:
        """Put bytes in front of each frame that waits; nobody may `put` meanwhile."""
        self._queue = deque(header + frame for frame in self._queue)
        waiting = sum(len(frame) for frame in self._queue if len(frame) > _LONG)
        self._long_put = self._long_read + waiting

    def fail(self, error: Callable[[], OSError]) -> None:
        """Have `recv_into` raise an error once the frames that wait are read.

        Args:
            error: Makes the error, a new one each time. A function, because an error
                that is kept keeps what it was raised in.
        """
        self._error = error
        self._rouse()

    def recv_into(self, buffer: memoryview, /) -> int:
        """See `aioioth.abc.Plug.recv_into`.

        Raises:
            BlockingIOError: No frame is waiting.
            OSError: It is closed, or has failed.
        """
        queue = self._queue
        if not queue:
            self._look_again()
        frame = queue.popleft()
        if not queue:
            self._calm_down()
        length = len(frame)
        if length > _LONG:
            self._long_read += length
        buffer[:length] = frame
        return length

    def close(self) -> None:
        """Forget what waits and release the descriptor. Idempotent."""
        self._wake = None
        self._queue.clear()

    def _look_again(self) -> None:
        """Return if there is a frame after all; raise what there is otherwise."""
        if self._wake is None:
            raise OSError(errno.EBADF, "the plug is closed")
        if self._woken:  # late, for a frame that was read before, or for the error
            self._calm_down()
        # First the error, then the queue: frames that were put before it come first.
        error = self._error
        if self._queue:
            return
        if error is not None:
            raise error()
        raise BlockingIOError

    def _calm_down(self) -> None:
        """Have the descriptor not readable, unless there is something after all."""
        wake = self._wake
        if wake is None:
            return
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(wake.fd)
        # First the flag, then another look: who came in between has either seen the
        # flag down and woken us again, or is seen here.
        self._woken = False
        if self._queue or self._error is not None:
            self._rouse()

    def _rouse(self) -> None:
        wake = self._wake
        if wake is not None:
            self._woken = True
            os.eventfd_write(wake.fd, 1)


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
