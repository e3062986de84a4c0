"""The program's side of the keeper: starting it, asking it, doing without it.

There is one `Keeper` for each program, and one for each user namespace of another
program whose stacks are attached to. Event loops and threads share it: whoever needs it
holds it with `hold` and lets go with `release`, and the process lives as long as
somebody holds it. Two ways lead to it:

* `Keeper.ask` is one short blocking round trip, from any thread: sockets.
* `Channel.ask` is awaited on one loop: namespaces, TAPs, sysctls, which may wait for
  locks of the kernel.

The keeper remembers nothing that is not passed with each request, so when it dies the
next request simply starts another one inside the same user namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import socket
import struct
import subprocess
import sys
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aioioth import _preflight
from aioioth._keeper import messages
from aioioth.errors import ClosedError, KeeperError

if TYPE_CHECKING:
    from collections.abc import Sequence

_HELPER = str(Path(__file__).with_name("helper.py"))

# A keeper answers in microseconds. Only one that was stopped (SIGSTOP) or starved takes
# seconds; then an error is better than a program that hangs.
_PATIENCE_SECONDS = 10

# A socket takes some 270 requests before its buffer is full.
_REQUESTS_UNDER_WAY = 64

# 0 is for what is not answered.
_SEQUENCES = 0xFFFF

_TIMEVAL = struct.pack("@ll", _PATIENCE_SECONDS, 0)


_DIES = "dies whenever it is asked; see what it wrote to standard error"


class _GoneError(Exception):
    """The keeper died before it answered."""


def _pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _open_reply(
    message: bytes, descriptors: list[int], wanted: int
) -> tuple[int, list[int] | OSError]:
    """Return the reply's sequence number, and its descriptors or its error."""
    version, sequence, code, body = messages.unpack_reply(message)
    if version != messages.VERSION or code == errno.EPROTO:
        messages.close_all(descriptors)
        return sequence, KeeperError(
            "speaks another version of the protocol: aioioth was upgraded while this "
            "program ran. Restart the program",
            errno=errno.EPROTO,
        )
    if code:
        return sequence, _preflight.explain(body.decode(), code)
    if len(descriptors) < wanted:
        # The kernel drops what does not fit into our table (SCM_RIGHTS, unix(7)).
        messages.close_all(descriptors)
        return sequence, OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return sequence, descriptors


@dataclass(eq=False)
class _Process:
    """One run of the helper program."""

    popen: subprocess.Popen[bytes]
    sock: socket.socket

    @classmethod
    def start(cls, user_namespace: int | None) -> _Process:
        ours, theirs = _pair()
        with theirs:
            inherited = [theirs.fileno()]
            if user_namespace is not None:
                inherited.append(user_namespace)
            arguments = [sys.executable, "-I", "-S", _HELPER, *map(str, inherited)]
            try:
                popen = subprocess.Popen(  # noqa: S603  (our own program)
                    arguments,
                    pass_fds=inherited,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    cwd="/",
                    # Ctrl-C in the terminal must not take the keeper away from a
                    # program that is about to close its stacks.
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:
                ours.close()
                reason = f"could not be started with {sys.executable!r}: {error}"
                raise KeeperError(reason) from error
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL)
        return cls(popen, ours)

    def end(self) -> None:
        """Let it exit (end of file on its socket), and collect it."""
        self.sock.close()
        try:
            self.popen.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()

    def forget(self) -> None:
        """Close our copy in a forked child, where the process is not ours."""
        self.sock.close()
        self.popen.returncode = 0  # not our child: nothing to wait for, no warning


class Keeper:
    """A keeper, in one user namespace. Safe from any thread, and after `os.fork`."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._holders = 0
        self._process: _Process | None = None
        self._user_namespace: int | None = None
        self._sequence = itertools.count()

    @property
    def pid(self) -> int | None:
        """Process id of the running helper; None when there is none."""
        process = self._process
        return None if process is None else process.popen.pid

    def hold(self) -> None:
        """Count one more user. The process is started by the first request."""
        with self._lock:
            self._holders += 1

    def release(self) -> None:
        """Count one user less; after the last the process ends."""
        with self._lock:
            self._holders -= 1
            if self._holders:
                return
            self._drop_process()
            if self._user_namespace is not None:
                os.close(self._user_namespace)
                self._user_namespace = None

    def connect(self) -> tuple[socket.socket, _Process]:
        """Open another way to the keeper, with a thread of its own at the far end.

        Returns:
            Our end, and the process that it leads to.

        Raises:
            KeeperError: The helper could not be started.
        """
        with self._lock:
            ours, theirs = _pair()
            request = messages.pack_request(messages.CHANNEL, 0)
            with ExitStack() as undo:
                undo.callback(ours.close)
                with theirs:
                    for _ in range(2):  # the first one may be dead for a while
                        process = self._running()
                        try:
                            messages.send(process.sock, request, [theirs.fileno()])
                        except (BrokenPipeError, ConnectionResetError):
                            self._drop_process()
                            continue
                        undo.pop_all()
                        return ours, process
        raise KeeperError(_DIES)

    @property
    def user_namespace(self) -> int | None:
        """The user namespace of all that it makes; None if it needed none."""
        return self._user_namespace

    @property
    def remembers(self) -> bool:
        """Whether another keeper could go on in the same user namespace."""
        return self._user_namespace is not None

    def remember(self, user_namespace: int) -> None:
        """Take over the descriptor of the user namespace, for later keepers."""
        with self._lock:
            if self._user_namespace is None and self._holders:
                self._user_namespace = user_namespace
                return
        os.close(user_namespace)

    def ask(
        self, operation: int, body: bytes, sent: Sequence[int], *, wanted: int
    ) -> list[int]:
        """Ask and wait for the answer, which takes some tens of microseconds.

        Args:
            operation: One of the operations in `messages`.
            body: As `messages` says for that operation.
            sent: Descriptors to send along; they stay ours.
            wanted: How many descriptors the answer has.

        Returns:
            The answer's descriptors; the caller owns them.

        Raises:
            OSError: What the system call in the keeper raised.
            KeeperError: The keeper cannot be started, or does not answer.
        """
        with self._lock:
            for _ in range(2):  # the first one may be dead for a while
                try:
                    return self._ask_once(operation, body, sent, wanted)
                except _GoneError:
                    self._drop_process()
        raise KeeperError(_DIES)

    def _ask_once(
        self, operation: int, body: bytes, sent: Sequence[int], wanted: int
    ) -> list[int]:
        sock = self._running().sock
        sequence = next(self._sequence) % _SEQUENCES + 1
        request = messages.pack_request(operation, sequence, body)
        try:
            messages.send(sock, request, sent)
            message, descriptors = messages.receive_reply(sock)
        except BlockingIOError:
            # The answer may still come; that stream is out of step for good.
            if self._process is not None:
                self._process.popen.kill()
            self._drop_process()
            reason = f"did not answer within {_PATIENCE_SECONDS} s and was ended"
            raise KeeperError(reason, errno=errno.ETIMEDOUT) from None
        except (BrokenPipeError, ConnectionResetError):
            raise _GoneError from None
        if not message:
            messages.close_all(descriptors)
            raise _GoneError
        answered, outcome = _open_reply(message, descriptors, wanted)
        assert answered == sequence, "one request at a time, under the lock"
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    def _running(self) -> _Process:
        if self._process is None:
            self._process = _Process.start(self._user_namespace)
        return self._process

    def _drop_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()

    def reap(self, process: _Process) -> None:
        """Collect a helper that has died, so that no zombie is left.

        Does nothing when another channel noticed before and a new one runs already.
        """
        with self._lock:
            if self._process is process:
                self._drop_process()

    def forget_in_child(self) -> None:
        """Leave the parent's keeper alone after a fork; a request starts our own."""
        self._lock = threading.RLock()  # its owner may be a thread that is not here
        process, self._process = self._process, None
        if process is not None:
            process.forget()


class Channel:
    """One event loop's way to the keeper. Not thread-safe, like the loop itself."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._sequence = itertools.count()
        self._pending: dict[int, tuple[asyncio.Future[list[int]], int]] = {}
        self._slots = asyncio.Semaphore(_REQUESTS_UNDER_WAY)
        self._sock: socket.socket | None = None
        self._process: _Process | None = None
        self._closed = False
        self._parcel: list[int] = []  # of the reply that comes next

    async def ask(
        self, operation: int, body: bytes, sent: Sequence[int], *, wanted: int
    ) -> list[int]:
        """Ask and wait; see `Keeper.ask` for arguments and errors.

        Cancellation:
            Safe. Descriptors that arrive later are closed on arrival.
        """
        async with self._slots:
            for _ in range(2):  # the first one may be dead for a while
                if self._closed:
                    raise ClosedError("the way to the keeper")  # noqa: EM101
                with contextlib.suppress(_GoneError):
                    return await self._ask_once(operation, body, sent, wanted)
        raise KeeperError(_DIES)

    async def _ask_once(
        self, operation: int, body: bytes, sent: Sequence[int], wanted: int
    ) -> list[int]:
        sock = self._connected()
        sequence = next(self._sequence) % _SEQUENCES + 1
        request = messages.pack_request(operation, sequence, body)
        try:
            messages.send(sock, request, sent)
        except (BrokenPipeError, ConnectionResetError):
            self._lose()
            raise _GoneError from None
        answer: asyncio.Future[list[int]] = self.loop.create_future()
        self._pending[sequence] = answer, wanted
        try:
            return await answer
        except asyncio.CancelledError:
            # Cancelled in the very turn in which the answer came.
            if answer.done() and not answer.cancelled() and not answer.exception():
                messages.close_all(answer.result())
            raise

    def tell(self, operation: int, body: bytes, sent: Sequence[int]) -> None:
        """Ask for something soon, and do not wait for it; see `Keeper.ask`.

        Without a keeper, or with one that is too busy, it is left undone. Never raises.
        """
        if self._sock is not None:
            request = messages.pack_request(operation, messages.NO_ANSWER, body)
            with contextlib.suppress(OSError):
                messages.send(self._sock, request, sent)

    def _connected(self) -> socket.socket:
        if self._sock is None:
            self._sock, self._process = self._keeper.connect()
            self._sock.setblocking(False)
            self.loop.add_reader(self._sock.fileno(), self._on_readable)
        return self._sock

    def _on_readable(self) -> None:
        if self._sock is None:
            return  # in a forked child that runs its parent's loop on
        try:
            message, descriptors = messages.receive(self._sock)
        except BlockingIOError:
            return
        except ConnectionResetError:
            message, descriptors = b"", []
        if not message:
            self._lose()
            return
        if message == messages.PARCEL:
            self._parcel = descriptors
            return
        descriptors, self._parcel = self._parcel, []
        sequence = messages.unpack_reply(message)[1]
        answer, wanted = self._pending.pop(sequence)
        _, outcome = _open_reply(message, descriptors, wanted)
        if isinstance(outcome, OSError):
            if not answer.done():
                answer.set_exception(outcome)
        elif answer.done():
            messages.close_all(outcome)
        else:
            answer.set_result(outcome)

    def _lose(self) -> None:
        """The keeper died. Whoever waits asks again, a new one."""
        process = self._process
        self._disconnect()
        if process is not None:
            self._keeper.reap(process)

    def close(self) -> None:
        """Close our end; requests under way fail with ClosedError. Idempotent."""
        self._closed = True
        self._disconnect()

    def _disconnect(self) -> None:
        """Close our end; requests under way are told to ask again."""
        sock, self._sock = self._sock, None
        if sock is not None:
            if not self.loop.is_closed():
                self.loop.remove_reader(sock.fileno())
            sock.close()
        parcel, self._parcel = self._parcel, []
        messages.close_all(parcel)
        pending, self._pending = self._pending, {}
        for answer, _ in pending.values():
            if not answer.done():
                answer.set_exception(_GoneError())

    def forget_in_child(self) -> None:
        """Close our copy after a fork. The loop's epoll set is the parent's too."""
        self._closed = True  # the loop is the parent's
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()
        parcel, self._parcel = self._parcel, []
        messages.close_all(parcel)
        self._pending = {}
