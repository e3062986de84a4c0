"""How programs of one user meet: descriptors found by name, as long as they are used.

The first program that joins a name founds it: it makes the descriptors, and the
others are given copies. Nothing is left in the file system after the last one, unless
all were killed at the same moment; then the next one clears up.

A name is a socket in a directory of the user's own (`aioioth._meetingplace`). The
members' keepers answer there: `aioioth._keeper.meeting` has the protocol, and says what
happens if somebody dies at any point.

Source:
    unix(7), epoll(7).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

from aioioth._fork import forget_in_children
from aioioth._keeper import meeting, messages
from aioioth._linux.sockets import identity
from aioioth._meetingplace import Place, file_name
from aioioth._readiness import until_readable
from aioioth.errors import BrokenTransportError, HandshakeTimeoutError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    Make = Callable[[], Awaitable[Sequence[int]]]
    Introduce = Callable[[list[int], bytes], Awaitable[object]]

_log = logging.getLogger("aioioth")

# A keeper answers in microseconds.
_ANSWER_SECONDS = 2.0
_PATIENCE_SECONDS = 6.0
_RETRY_SECONDS = 0.01


class Meeting:
    """A name that this program has joined, until `close`.

    Attributes:
        name: The name.
        descriptors: What was met for. Ours; closed with it.
        founded: Whether we came first.
        is_member: Whether others find us. False if the name was taken by others, with
            other descriptors, while we had no keeper.
    """

    def __init__(
        self,
        name: str,
        descriptors: Sequence[int],
        membership: socket.socket | None,
        *,
        founded: bool,
    ) -> None:
        self.name = name
        self.founded = founded
        self.is_member = membership is not None
        self._own = _Belongings()
        self._membership = membership
        if membership is not None:
            self._own.enter_context(membership)
        self._watching: asyncio.AbstractEventLoop | None = None
        try:
            self.descriptors = tuple(self._own.copy(each) for each in descriptors)
        except BaseException:
            self._own.close()
            raise

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called once, on the running loop, if the keeper dies.

        The descriptors are good still: join again with them, then close this one.
        """
        if self._membership is None or self._membership.fileno() == -1:
            return
        self._watching = asyncio.get_running_loop()
        self._watching.add_reader(self._membership.fileno(), self._lose, callback)

    def _lose(self, callback: Callable[[], None]) -> None:
        # In a forked child that runs its parent's loop on, there is nothing to lose.
        if self._membership is not None and self._membership.fileno() != -1:
            self._unwatch()
            callback()

    def _unwatch(self) -> None:
        loop, self._watching = self._watching, None
        membership = self._membership
        if loop is None or membership is None or membership.fileno() == -1:
            return
        if not loop.is_closed():
            loop.remove_reader(membership.fileno())

    def close(self) -> None:
        """Leave; our keeper does the rest. Idempotent, never waits, never raises."""
        self._unwatch()
        self._own.close()


async def join(
    name: str,
    make: Make,
    introduce: Introduce,
    *,
    have: Sequence[int] | None = None,
) -> Meeting:
    """Join a name, or found it.

    Args:
        name: Any text.
        make: Makes the descriptors if nobody has them: three at most, or none. They
            are taken over.
        introduce: Sends descriptors and a body to our keeper, which passes them to
            `aioioth._keeper.meeting.start`, and returns when it has them. What was met
            for is found from the fourth on. Nothing is taken over.
        have: To join again: what to found the name with. It is copied. Should somebody
            else have founded it anew, with other descriptors, we stay alone with ours.

    Raises:
        BrokenTransportError: The directory or the socket is not as it should be.
        HandshakeTimeoutError: A process that is stopped holds everybody up.
        OSError: What the callbacks raise; no descriptors are left.

    Cancellation:
        Nothing is left behind.
    """
    file = file_name(name)
    with await Place.enter() as place, _Belongings() as own, ExitStack() as undo:
        found = await _ask(place, file)
        descriptors = [] if have is None else [own.copy(each) for each in have]
        if found is None:
            if have is None:
                descriptors = own.take(await make())
            listener = own.enter_context(place.listen(file)).fileno()
            undo.callback(place.remove, file)
        else:
            *theirs, listener = own.take(found)
            if have is not None and not _same(theirs, descriptors):
                _log.warning(
                    "%s: others have founded it anew while our keeper was dead, and "
                    "we do not see each other: close it and join again",
                    place.path_of(file),
                )
                return Meeting(name, descriptors, None, founded=False)
            descriptors = theirs
        assert len(descriptors) <= meeting.MAX_DESCRIPTORS
        ours, keepers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        own.enter_context(keepers)
        joined = Meeting(name, descriptors, ours, founded=found is None)
        undo.callback(joined.close)
        # Not the descriptor that we hold the lock with: a lock belongs to all copies.
        [directory] = own.take([place.reopen()])
        sent = [listener, directory, keepers.fileno(), *descriptors]
        await introduce(sent, file.encode())
        undo.pop_all()
    return joined


class _Belongings(ExitStack):
    """Descriptors to be closed, also in a forked child: they would hold the name."""

    def __init__(self) -> None:
        super().__init__()
        forget_in_children(self)

    def take(self, descriptors: Sequence[int]) -> list[int]:
        """Take descriptors over."""
        for each in descriptors:
            self.callback(os.close, each)
        return list(descriptors)

    def copy(self, descriptor: int) -> int:
        """Return a copy of a descriptor."""
        copied = os.dup(descriptor)
        self.callback(os.close, copied)
        return copied

    def forget_in_child(self) -> None:
        """Close the child's copies."""
        self.close()


async def _ask(place: Place, file: str) -> list[int] | None:
    """Ask a member; return the descriptors and the listener, None if there is none."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _PATIENCE_SECONDS
    path, pid, hung_up = place.path_of(file), 0, False
    while loop.time() < deadline:
        with _Belongings() as own:
            sock = own.enter_context(meeting.new_socket())
            try:
                sock.connect(place.address(file))
            except (FileNotFoundError, ConnectionRefusedError):
                return None
            except BlockingIOError:  # too many are waiting; there is no event for it
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            except OSError as error:
                if error.errno != errno.EPROTOTYPE:
                    raise
                place.refuse(file, errno.EPROTOTYPE)
            pid = _check_peer(sock, path)
            try:
                async with asyncio.timeout(
                    min(_ANSWER_SECONDS, deadline - loop.time())
                ):
                    await until_readable(sock)
            except TimeoutError:
                continue
            if (found := _receive(sock, path)) is not None:
                return found
            hung_up = True  # it is being ended just now, or cannot send
            await asyncio.sleep(_RETRY_SECONDS)
    raise _unanswered(path, pid, hung_up=hung_up)


def _unanswered(path: str, pid: int, *, hung_up: bool) -> HandshakeTimeoutError:
    who = f"process {pid}" if pid else "who answers there"
    reason = (
        f"{who} has not answered for {_PATIENCE_SECONDS:g} s: is it stopped? Continue "
        f"it with 'kill -CONT {pid or 'PID'}', or end it"
    )
    if hung_up:
        reason = (
            f"{who} has only hung up for {_PATIENCE_SECONDS:g} s: has it no "
            f"descriptors left ('ulimit -n')?"
        )
    return HandshakeTimeoutError(path, reason)


def _check_peer(sock: socket.socket, path: str) -> int:
    """Return the other side's process id, if it is the same user's or root's."""
    pid, uid = meeting.peer(sock)
    if uid in {os.geteuid(), 0}:
        return pid
    reason = f"belongs to user id {uid}, and this is user id {os.geteuid()}"
    raise BrokenTransportError(path, reason, errno=errno.EACCES)


def _receive(sock: socket.socket, path: str) -> list[int] | None:
    """Return what a member has sent, None if it has hung up."""
    try:
        packet, descriptors = messages.receive(sock)
    except (ConnectionResetError, BlockingIOError):
        return None
    if packet:
        if (problem := _problem(packet, descriptors, path)) is None:
            return descriptors
        messages.close_all(descriptors)
        raise problem
    messages.close_all(descriptors)
    return None


def _problem(packet: bytes, descriptors: list[int], path: str) -> OSError | None:
    try:
        version, count = meeting.unpack(packet)
    except ValueError as error:
        reason = f"somebody else answers there, in words unknown: {error}"
        return BrokenTransportError(path, reason, errno=errno.EPROTO)
    if version != meeting.VERSION:
        reason = "is held by another version of aioioth: upgrade one of the two"
        return BrokenTransportError(path, reason, errno=errno.EPROTO)
    if len(descriptors) <= count:  # the kernel drops what does not fit into our table
        return OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return None


def _same(some: Sequence[int], others: Sequence[int]) -> bool:
    return list(map(identity, some)) == list(map(identity, others))
