"""Programs that networks need, started and ended without waiting.

The event loop's own way is not taken: what watches children differs from loop to loop
and ends with it, and a plug may be closed after that.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import shutil
import signal
import subprocess
import threading
from typing import TYPE_CHECKING

from aioioth.errors import BrokenTransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from aioioth_transports._framed import StreamPlug

# One that does not end when it is asked to is killed then.
_GRACE_SECONDS = 5.0

# A program that ends closes its files first; its exit status is known a moment later.
_STATUS_SECONDS = 1.0


class Child:
    """A program of ours.

    Args:
        vnl: For error messages.
        command: Its name or path, and its arguments.
        stdin: Descriptor of its standard input.
        stdout: Of its standard output.
        pass_fds: Descriptors that it shall have under the same numbers.
        own_session: Whether Ctrl-C in the terminal is for us alone.
        asked_by: Signal that asks it to end; None if it ends by itself when its files
            are closed.
        grace: Seconds after which it is killed.

    Raises:
        BrokenTransportError: It cannot be started.
    """

    def __init__(  # noqa: PLR0913  (what the programs differ in)
        self,
        vnl: str,
        command: Sequence[str],
        *,
        stdin: int = subprocess.DEVNULL,
        stdout: int | None = None,
        pass_fds: Collection[int] = (),
        own_session: bool = False,
        asked_by: signal.Signals | None = signal.SIGTERM,
        grace: float = _GRACE_SECONDS,
    ) -> None:
        self._asked_by = asked_by
        self._grace = grace
        self._watching: tuple[asyncio.AbstractEventLoop, asyncio.TimerHandle] | None
        self._watching = None
        try:
            self._process = subprocess.Popen(  # noqa: S603  (what the user asked for)
                command,
                stdin=stdin,
                stdout=stdout,
                pass_fds=pass_fds,
                start_new_session=own_session,
            )
        except (OSError, ValueError) as error:
            raise _not_started(vnl, command[0], error) from error
        try:
            self._pidfd = os.pidfd_open(self._process.pid)
        except OSError as error:
            self._process.kill()
            self._process.wait()
            raise BrokenTransportError(vnl, str(error), errno=error.errno) from error

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def status(self) -> str | None:
        """Return how it ended, in words; None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        if code >= 0:
            return f"exit status {code}"
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:  # a realtime one
            return f"killed by signal {-code}"

    def when_ended(
        self, callback: Callable[[], None], timeout: float = _STATUS_SECONDS
    ) -> None:
        """Call a function from the loop, when it has ended or time is over.

        Not after `release`.
        """
        loop = asyncio.get_running_loop()

        def on_ended() -> None:
            self._stop_watching()
            callback()

        self._watching = loop, loop.call_later(timeout, on_ended)
        loop.add_reader(self._pidfd, on_ended)

    async def ended(self) -> str:
        """Return how it ended, in words, after a moment if it is about to."""
        over = asyncio.Event()
        self.when_ended(over.set)
        await over.wait()
        return self.status() or "it runs, but has hung up"

    def release(self) -> None:
        """End it, soon and whatever happens to us. Idempotent, never raises."""
        if self._pidfd == -1:
            return
        self._stop_watching()
        if self._process.poll() is not None:
            os.close(self._pidfd)
        else:
            if self._asked_by is not None:
                self._process.send_signal(self._asked_by)
            # A daemon: a program that ends has no children to collect.
            reaper = threading.Thread(
                target=_reap,
                args=(self._process, self._pidfd, self._grace),
                name=f"aioioth: end of {self._process.pid}",
                daemon=True,
            )
            try:
                reaper.start()
            except RuntimeError:  # the interpreter is ending
                _reap(self._process, self._pidfd, 0)
        self._pidfd = -1

    def forget(self) -> None:
        """Close our copies in a forked child, whose program it is not. Idempotent."""
        if self._pidfd != -1:
            os.close(self._pidfd)
            self._pidfd = -1
            self._process.returncode = 0  # it is not for us to collect, nor to miss

    def _stop_watching(self) -> None:
        if self._watching is not None:
            loop, timer = self._watching
            self._watching = None
            timer.cancel()
            if not loop.is_closed():
                loop.remove_reader(self._pidfd)


def _not_started(
    vnl: str, name: str, error: OSError | ValueError
) -> BrokenTransportError:
    # A directory of PATH that is not for us counts as "not permitted" there.
    if isinstance(error, OSError) and shutil.which(name) is None and "/" not in name:
        reason = f"there is no program {name!r}: install it"
        return BrokenTransportError(vnl, reason, errno=errno.ENOENT)
    code = error.errno if isinstance(error, OSError) else None
    return BrokenTransportError(vnl, f"{name!r} cannot be run: {error}", errno=code)


def _reap(process: subprocess.Popen[bytes], pidfd: int, grace: float) -> None:
    ended = select.poll()
    ended.register(pidfd, select.POLLIN)
    if not ended.poll(grace * 1000):
        process.kill()
    process.wait()
    os.close(pidfd)


class ChildStream:
    """What to do when the stream to a program is lost: say how the program ended.

    Args:
        child: Taken over by the plug.
        name: Of the program, for error messages.
    """

    def __init__(self, child: Child, name: str) -> None:
        self._child = child
        self._name = name
        self._plug: StreamPlug | None = None

    def serve(self, plug: StreamPlug) -> None:
        """End the program with the plug."""
        self._plug = plug
        plug.undo(self._child.release, self._child.forget)

    def on_lost(self, reason: str, error: OSError | None) -> None:
        """See `StreamPlug`."""
        if error is not None:
            self._tell(f"{self._name}: {reason}", error)
        elif self._child.status() is not None:
            self._tell_status()
        else:
            self._child.when_ended(self._tell_status)

    def _tell_status(self) -> None:
        status = self._child.status() or "it runs, but closed its output"
        self._tell(f"{self._name} has ended: {status}", None)

    def _tell(self, reason: str, error: OSError | None) -> None:
        if self._plug is not None:
            self._plug.break_down(reason, error)
