"""The keeper's part in the rendezvous: answering for a name, and leaving it in order.

Programs of one user find each other's descriptors by name. In a directory that only
this user may enter, each name is one listening socket; every member program's keeper
holds a copy of it and answers in a thread, whatever the program's event loop does, so
a name lives as long as any member. ``aioioth/_rendezvous.py`` is the program's part.

    packet      "aioioth bridge", version u8, count u8
    beside it   the count descriptors that are met for, and the listening socket itself

Comers and leavers are serialized by a lock on the directory, so nobody is ever half a
member. What a crash leaves is told from what is alive by connecting: to a socket that
nobody holds the kernel refuses. What ends where, and who clears up:

    program killed ...
      waiting for the lock      nothing is left; an empty directory goes with the next
      asking a member           nothing: the lock and the answer go with the program
      founding, socket bound    a dead socket: the next comer replaces it
      introducing, as founder   the same, unless the keeper has the message already
      as a member               its keeper sees the membership hang up, and leaves
    program cancelled           takes its socket away; the keeper, if told, leaves
    keeper killed ...
      answering                 the comer sees a reset and asks again
      as one of many            the others answer; its program joins again
      as the only one           a dead socket: its program, or a comer, replaces it
      leaving, with the lock    the lock falls; perhaps a dead socket is left
      with its program          the same as the two lines before
    last one leaves while a     cannot be: the comer has the lock; the leaver goes on
    comer asks                  answering until it has it, and then finds the comer
    all killed at once          dead sockets, until a comer asks for the same name

This module runs without site-packages, as the helper does, and is imported by the
program too, for what both do alike.

Source:
    unix(7): SCM_RIGHTS, SO_PEERCRED, pathname sockets; flock(2); proc(5): /proc/PID/fd.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import stat
import struct
import threading
import time

# No pathlib: it would double the helper's start-up time.
TYPE_CHECKING = False  # typing would take its time
if TYPE_CHECKING:
    from collections.abc import Sequence

MAGIC = b"aioioth bridge"
VERSION = 1
MAX_DESCRIPTORS = 3  # beside the listening socket; the two others are the program's
MAX_NAME = 64  # bytes, so that `address` always fits into the 107 of sun_path
BACKLOG = 128

_PACKET = struct.Struct("=14sBB")
_UCRED = struct.Struct("=iII")  # struct ucred: pid, uid, gid

_LOCK_PATIENCE_SECONDS = 5.0
_ANSWER_SECONDS = 1.0
_RETRY_MS = 5
# Without descriptors to accept with, the socket would wake us all the time.
_PAUSE_SECONDS = 0.2


def pack(count: int) -> bytes:
    """Return the packet that goes with ``count`` descriptors and the listener."""
    return _PACKET.pack(MAGIC, VERSION, count)


def unpack(packet: bytes) -> tuple[int, int]:
    """Return version and count of a packet.

    Raises:
        ValueError: It is something else.
    """
    # A later version may say more.
    if len(packet) < _PACKET.size or not packet.startswith(MAGIC):
        msg = f"no answer of aioioth's: {packet[:32]!r}"
        raise ValueError(msg)
    _, version, count = _PACKET.unpack_from(packet)
    return version, count


def new_socket() -> socket.socket:
    """Return a socket to listen or to ask with; it never blocks."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)


def address(directory: int, name: str) -> str:
    """Return where to bind or connect to: short, however long the path is.

    And it stays in the directory that was checked, whatever is renamed meanwhile.
    """
    return f"/proc/self/fd/{directory}/{name}"


def peer(sock: socket.socket) -> tuple[int, int]:
    """Return process and user id of the other side.

    Where we have connected, it is who called listen() last (unix(7)).
    """
    option = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, _ = _UCRED.unpack(option)
    return pid, uid


def remove(directory: int, name: str) -> None:
    """Take a dead socket away. Only with the lock."""
    try:
        if stat.S_ISSOCK(os.lstat(address(directory, name)).st_mode):
            os.unlink(name, dir_fd=directory)
    except OSError:
        return  # it is gone with its directory, or nothing can be done


def remove_if_empty(directory: int) -> None:
    """Take the directory away if no name is left in it. Only with the lock."""
    try:
        os.rmdir(os.readlink(f"/proc/self/fd/{directory}"))  # noqa: PTH106  (as above)
    except OSError:
        return  # somebody's names are there, or it is gone


def is_alive(directory: int, name: str) -> bool:
    """Whether any process answers for a name, or could.

    That somebody can be connected to is not enough: the kernel closes a dying program's
    descriptors one after another, the lock and the membership perhaps before its copy
    of the listening socket. But then the connection is reset in a moment.
    """
    deadline = time.monotonic() + _ANSWER_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        try:
            with new_socket() as probe:
                probe.connect(address(directory, name))
                poller = select.poll()
                poller.register(probe, select.POLLIN)
                # Descriptors that come are dropped, as no room is made for them.
                if poller.poll(left * 1000) and probe.recv(_PACKET.size):
                    return True
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except ConnectionResetError:
            continue
        except OSError:
            return True  # too many are asking, or no descriptor is left to look with
        time.sleep(_RETRY_MS / 1000)
    return True  # it is stopped, or has no descriptors left


_members: set[_Member] = set()


def start(received: Sequence[int], name: str) -> None:
    """Become a member, in a thread of its own, until the membership hangs up.

    Args:
        received: The listening socket, the directory (opened for us alone, for it is
            locked through this descriptor), our end of the membership, and the
            descriptors to give out. All are copied.
        name: The socket's name in the directory.

    Raises:
        OSError: No descriptors or threads are left.
    """
    copies: list[int] = []
    try:
        for descriptor in received:
            copies.append(os.dup(descriptor))  # noqa: PERF401  (some may be made)
    except OSError:
        _close_all(copies)
        raise
    member = _Member(copies, name)
    _members.add(member)
    try:
        member.thread.start()
    except RuntimeError as error:  # can't start new thread
        _members.discard(member)
        member.close()
        raise OSError(errno.EAGAIN, str(error)) from None


def end_all(timeout: float) -> None:
    """Leave all names, as long as it takes, but ``timeout`` seconds at most."""
    deadline = time.monotonic() + timeout
    while members := list(_members):
        for member in members:
            member.leave()
        left = deadline - time.monotonic()
        if left <= 0:
            return
        members[0].thread.join(left)


class _Member:
    """One keeper's membership of one name."""

    def __init__(self, own: list[int], name: str) -> None:
        self._name = name
        self._directory = own[1]
        self._descriptors = own[3:]
        self._listener = socket.socket(fileno=own[0])
        self._membership = socket.socket(fileno=own[2])
        self._packet = pack(len(self._descriptors))
        self.thread = threading.Thread(target=self._run)

    def leave(self) -> None:
        """Have the thread leave now, as when the program has hung up."""
        try:
            self._membership.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it is leaving

    def close(self) -> None:
        """Close all descriptors."""
        self._membership.close()
        self._listener.close()
        self._close_descriptors()
        os.close(self._directory)

    def _close_descriptors(self) -> None:
        descriptors, self._descriptors = self._descriptors, []
        _close_all(descriptors)

    def _run(self) -> None:
        try:
            self._answer_until_hangup()
            self._leave()
        finally:
            self.close()
            _members.discard(self)

    def _answer_until_hangup(self) -> None:
        poller = select.poll()
        poller.register(self._membership, select.POLLIN)
        poller.register(self._listener, select.POLLIN)
        membership = self._membership.fileno()
        while membership not in dict(poller.poll()):
            if not self._answer():
                self._pause()

    def _pause(self) -> None:
        poller = select.poll()
        poller.register(self._membership, select.POLLIN)
        poller.poll(int(_PAUSE_SECONDS * 1000))

    def _answer(self) -> bool:
        """Answer who asks; false if there are no descriptors to do so."""
        try:
            comer, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return True  # another keeper was quicker
        except OSError:
            return False
        with comer:
            # In a user namespace, users that it does not know all have the overflow id;
            # the modes of directory and socket have kept them out.
            if peer(comer)[1] not in {os.geteuid(), 0}:
                return True
            try:
                # The next comer is told that this process is who answers.
                self._listener.listen(BACKLOG)
                socket.send_fds(
                    comer,
                    [self._packet],
                    [*self._descriptors, self._listener.fileno()],
                    socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL,
                )
            except OSError:
                return True  # he is gone, or asks again
        return True

    def _leave(self) -> None:
        locked = self._lock()
        self._listener.close()
        # Before the name: who sees it gone may rely on all being gone.
        self._close_descriptors()
        if locked:
            if not is_alive(self._directory, self._name):
                remove(self._directory, self._name)
            remove_if_empty(self._directory)
            fcntl.flock(self._directory, fcntl.LOCK_UN)

    def _lock(self) -> bool:
        poller = select.poll()
        poller.register(self._listener, select.POLLIN)
        deadline = time.monotonic() + _LOCK_PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() > deadline:
                    return False
            else:
                return True
            # Who has the lock may be waiting for our answer.
            if poller.poll(_RETRY_MS) and not self._answer():
                time.sleep(_RETRY_MS / 1000)


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
