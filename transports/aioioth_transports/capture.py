"""``capture://FILE[[append/snaplen=N]]{VNL}``: a network whose frames are recorded.

What the stack gets and what the network took is in the file, in the pcapng format, with
its direction, by the loop's next turn; tshark, tcpdump and Wireshark read it. A program
that is killed loses no more than that turn's frames.

A file is begun anew, unless it is no capture: then it is refused. With ``append`` it is
continued; it also is when the network was lost and found again. A new file is for its
owner alone (0600). One stack at a time writes to a file. Of each frame at most
``snaplen`` bytes are kept.

FILE may also be a FIFO, to look at frames as they come: ``tshark -i FIFO``. It is
written while somebody reads it, who may come and go. ``-`` is standard output, such as
``program | tshark -i -``.

Traffic goes on if nothing can be written, because the disk is full or whoever reads the
FIFO is slow: frames that are missing are counted as "not captured", and a warning is
logged. A disk that takes its time holds the event loop up, as any write to a file does.

Source: draft-ietf-opsawg-pcapng; `aioioth.wire.pcapng`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import stat
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from aioioth.errors import BrokenTransportError
from aioioth.nested import NestedTransport
from aioioth.networks import find_nested
from aioioth.vnl import parse_bracket
from aioioth.wire import pcapng

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["CaptureTransport"]

_STDOUT = Path("/dev/stdout")

# One system call for the frames of a pump's wake-up; it takes 3 us, to put a frame into
# a list 0.3.
_AT_ONCE = 64
# As large as anybody may have it: a burst does not fill it before the reader wakes up.
_PIPE_SIZE = 1 << 20
# How often we look whether somebody reads a FIFO now, or a block can be completed.
_RETRY_SECONDS = 0.2

_log = logging.getLogger("aioioth")


class CaptureTransport(NestedTransport):
    """See `aioioth.abc.FrameTransport`.

    Args:
        address: What stands after ``capture://``.

    Raises:
        VnlError: It makes no sense.
        ConfigurationError: The network in braces makes none.
    """

    def __init__(self, address: str) -> None:
        parsed = parse_bracket(
            address, options=["snaplen"], flags=["append"], nested=True
        )
        if not parsed.base:
            parsed.refuse("", "expected a file: capture://FILE{VNL}")
        self._vnl = f"capture://{address}"
        self._path = _STDOUT if parsed.base == "-" else Path(parsed.base)
        self._snaplen = parsed.integer(
            "snaplen", pcapng.MAX_SNAPLEN, low=1, high=pcapng.MAX_SNAPLEN
        )
        self._anew = "append" not in parsed.options
        network = find_nested(parsed)
        self._beginning = pcapng.section() + pcapng.interface(
            network.vnl, snaplen=self._snaplen
        )
        super().__init__(network, self._capture, overhead=0)

    def _capture(self) -> _Capture:
        try:
            return self._open()
        except BrokenTransportError:
            raise
        except OSError as error:
            reason = f"{self._path}: cannot be written: {error.strerror}"
            raise BrokenTransportError(self._vnl, reason, errno=error.errno) from error

    def _open(self) -> _Capture:
        try:
            mode = self._path.stat().st_mode
        except FileNotFoundError:
            mode = stat.S_IFREG
        if stat.S_ISFIFO(mode):
            return _Capture(_Fifo(self._path, self._beginning), self._snaplen)
        if not stat.S_ISREG(mode):
            reason = "is neither a file nor a FIFO"
            raise self._refused(reason, errno.EINVAL)
        # Non-blocking: it may have become something else meanwhile.
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        flags |= os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        descriptor = os.open(self._path, flags, 0o600)
        try:
            beginning = self._prepare(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._anew = False
        return _Capture(_File(descriptor, beginning), self._snaplen)

    def _prepare(self, descriptor: int) -> bytes:
        """Begin a file, or return what a continued one needs before its next frame."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            reason = "is written by another stack: give each a file of its own"
            raise self._refused(reason, errno.EBUSY) from None
        except OSError:
            pass  # the file system has no locks
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 4, 0) != pcapng.MAGIC:
            reason = "exists, and is no pcapng file: it is left alone"
            raise self._refused(reason, errno.EEXIST)
        if size and not self._anew:
            last = int.from_bytes(os.pread(descriptor, 4, size - 4), "little")
            head = os.pread(descriptor, 8, size - last) if last <= size else b""
            if not pcapng.is_block(head, last):
                reason = "is cut off at its end; 'editcap OLD NEW' makes a whole one"
                raise self._refused(reason, errno.EINVAL)
            # Not before there is a frame: an attempt to reach a network leaves no mark.
            return self._beginning
        os.ftruncate(descriptor, 0)
        if os.write(descriptor, self._beginning) < len(self._beginning):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return b""

    def _refused(self, reason: str, code: int) -> BrokenTransportError:
        return BrokenTransportError(self._vnl, f"{self._path} {reason}", errno=code)


class _Capture:
    """See `aioioth.nested.FrameTransform`; frames pass as they are.

    Args:
        output: Where blocks go. Taken over.
        snaplen: Bytes of a frame that are kept.
    """

    def __init__(self, output: _File | _Fifo, snaplen: int) -> None:
        self._output = output
        self._snaplen = snaplen
        self.drops = output.drops

    def outgoing(self, frame: memoryview) -> Buffer | None:
        """Pass it on; whether the network takes it is not known yet."""
        return frame

    def sent(self, frame: memoryview) -> None:
        """Record a frame."""
        self._record(frame, pcapng.OUTBOUND)

    def incoming(self, frame: memoryview) -> Buffer | None:
        """Record a frame, and pass it on."""
        self._record(frame, pcapng.INBOUND)
        return frame

    def close(self) -> None:
        """Write what is waiting, and close the file."""
        self._output.close()

    def _record(self, frame: memoryview, direction: int) -> None:
        if self._output.is_open():
            now = time.time_ns()
            self._output.put(
                pcapng.packet(
                    frame, time_ns=now, direction=direction, snaplen=self._snaplen
                )
            )

    @override
    def __repr__(self) -> str:
        return f"<Capture to {self._output!r}>"


class _File:
    """A file to which whole blocks are written in the loop's next turn.

    Args:
        descriptor: Taken over.
        beginning: Written before the first block.

    Attributes:
        drops: Blocks that were not written.
    """

    _why_not = "the disk is full"

    def __init__(self, descriptor: int, beginning: bytes = b"") -> None:
        self.drops: Counter[str] = Counter()
        self._descriptor = descriptor
        self._beginning = beginning
        self._blocks: list[bytes] = []
        # Bytes of the first of them that are in the file already.
        self._torn = 0
        self._loop = asyncio.get_running_loop()
        self._due: asyncio.Handle | None = None
        self._process = os.getpid()

    def is_open(self) -> bool:
        """Whether blocks can be put."""
        return self._descriptor != -1

    def put(self, block: bytes) -> None:
        """Have a block written."""
        if self._beginning:
            block, self._beginning = self._beginning + block, b""
        self._blocks.append(block)
        if len(self._blocks) >= _AT_ONCE:
            self._flush()
        elif self._due is None:
            self._due = self._loop.call_soon(self._flush_when_due)

    def close(self) -> None:
        """Write what waits, leave whole blocks behind, and close the file."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if self._descriptor == -1:
            return
        if os.getpid() == self._process:  # else it is all the parent's
            self._flush()
            self._mend()
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor != -1:  # somebody may have hung up just now
            os.close(descriptor)

    def _flush_when_due(self) -> None:
        self._due = None
        self._flush()
        if self._torn and self._due is None:
            self._due = self._loop.call_later(_RETRY_SECONDS, self._flush_when_due)

    def _flush(self) -> None:
        if not self._blocks:
            return
        reason = self._why_not
        try:
            written = os.writev(self._descriptor, self._blocks)
        except OSError as error:
            written = 0
            if error.errno == errno.EPIPE:
                self._hang_up()
            elif error.errno != errno.EAGAIN:
                reason = os.strerror(error.errno or errno.EIO)
        self._forget(written)
        if lost := len(self._blocks) - bool(self._torn):
            # Nothing is kept for later: it would be too much, or come too late.
            del self._blocks[bool(self._torn) :]
            if not self.drops:
                _log.warning("%r: frames are not captured: %s", self, reason)
            self.drops["not captured"] += lost

    def _forget(self, written: int) -> None:
        """Forget what is in the file, up to the middle of a block."""
        blocks = self._blocks
        whole = 0
        while whole < len(blocks) and written >= len(blocks[whole]):
            written -= len(blocks[whole])
            whole += 1
        if whole:
            del blocks[:whole]
            self._torn = 0
        if written:
            blocks[0] = blocks[0][written:]
            self._torn += written

    def _mend(self) -> None:
        """Take away the part of a block that could not be completed."""
        if self._torn:
            with contextlib.suppress(OSError):
                size = os.fstat(self._descriptor).st_size
                os.ftruncate(self._descriptor, size - self._torn)

    def _hang_up(self) -> None:
        """Do nothing: a file is not read from us."""

    @override
    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._descriptor}>"


class _Fifo(_File):
    """A FIFO, written while somebody reads it.

    Args:
        path: Its name.
        beginning: Written first, for everybody who comes to read.
    """

    _why_not = "they are not read as quickly as they come"

    def __init__(self, path: Path, beginning: bytes) -> None:
        super().__init__(-1)
        self._path = path
        self._greeting = beginning
        self._look_at = 0.0

    @override
    def is_open(self) -> bool:
        if self._descriptor != -1:
            return True
        now = self._loop.time()
        if now < self._look_at:
            return False
        self._look_at = now + _RETRY_SECONDS
        return self._connect()

    def _connect(self) -> bool:
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        try:
            descriptor = os.open(self._path, flags)
        except OSError:  # ENXIO: nobody reads it
            return False
        try:
            with contextlib.suppress(OSError):
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
            if os.write(descriptor, self._greeting) == len(self._greeting):
                self._descriptor = descriptor
                return True
        except OSError:  # gone already, or full of somebody else's
            pass
        os.close(descriptor)
        return False

    @override
    def close(self) -> None:
        self._look_at = float("inf")
        super().close()

    @override
    def _hang_up(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)
        self._blocks.clear()
        self._torn = 0

    @override
    def _mend(self) -> None:
        """Do nothing: what went into a pipe cannot be taken back."""
