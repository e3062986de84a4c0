"""``cmd://COMMAND ARGUMENT...``: a network that a program brings.

The program's standard input and output are a stream of frames (vdestream), as those of
``vde_plug`` are: ``cmd://ssh host vde_plug vde://`` is a switch on another machine. Its
standard error is ours. Quotes and backslashes work as in a shell, which there is none;
the program is looked for in ``PATH``. It is asked to end (SIGTERM) when the plug is
closed, and started again when it has ended before.

Source: the behaviour of libvdeplug 4.0.1; `aioioth.wire.vdestream`.
"""

from __future__ import annotations

import fcntl
import os
import shlex
from contextlib import ExitStack, suppress

from aioioth.errors import VnlError
from aioioth.wire.vdestream import VDESTREAM
from aioioth_transports._child import Child, ChildStream
from aioioth_transports._framed import (
    PIPE_BATCH_SIZE,
    PIPE_SIZE,
    ByteStream,
    StreamPlug,
)


class CmdTransport:
    """See `aioioth.abc.FrameTransport`.

    Args:
        address: A command line.

    Raises:
        VnlError: There is none in it.
    """

    def __init__(self, address: str) -> None:
        self._vnl = f"cmd://{address}"
        self._command = split_command(address)
        if not self._command:
            raise VnlError(address, 0, "expected a command, such as 'vde_plug vde://'")

    async def open(self, label: str) -> StreamPlug:
        """Start the program; see `aioioth.abc.FrameTransport.open`.

        Raises:
            BrokenTransportError: It cannot be started.
        """
        with ExitStack() as theirs, ExitStack() as undo:
            stdin, writing = _pipe(theirs, undo)
            reading, stdout = _pipe(undo, theirs)
            for descriptor in (reading, writing):
                os.set_blocking(descriptor, False)
            with suppress(OSError):  # the way is open all the same; see PIPE_SIZE
                fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
            stream = ByteStream(reading, writing)
            undo.pop_all()
            undo.callback(stream.release, forked=False)
            child = Child(self._vnl, self._command, stdin=stdin, stdout=stdout)
            ended = ChildStream(child, self._command[0])
            undo.callback(child.release)
            plug = StreamPlug(
                self._vnl, VDESTREAM, batch=PIPE_BATCH_SIZE, on_lost=ended.on_lost
            )
            ended.serve(plug)
            plug.connect(stream)
            undo.pop_all()
        return plug


def split_command(text: str) -> list[str]:
    """Return the words of a command line.

    Raises:
        VnlError: A quote is not closed.
    """
    try:
        words = shlex.split(text)
        if len(words) == 1 and text[:1] in {"'", '"'}:
            # The quotes were meant for a shell that did not come by.
            words = shlex.split(words[0])
    except ValueError as error:
        place = max(text.rfind("'"), text.rfind('"'), text.rfind("\\"))
        raise VnlError(text, place, f"{error}".lower()) from None
    return words


def _pipe(read_end: ExitStack, write_end: ExitStack) -> tuple[int, int]:
    """Return a pipe, each end to be closed by its owner."""
    reading, writing = os.pipe()
    read_end.callback(os.close, reading)
    write_end.callback(os.close, writing)
    return reading, writing
