"""Where the names of this user's programs are: a private directory, and its lock.

It is ``$XDG_RUNTIME_DIR/aioioth``, or ``aioioth-UID`` in the directory for temporary
files where the former is missing or another user's. It is made by who comes first and
taken away by who leaves last; in between nobody comes or leaves without the lock.

Source:
    flock(2), proc_locks(5); the XDG Base Directory Specification, 0.8.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import re
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Self

from aioioth._fork import forget_in_children
from aioioth._keeper import meeting
from aioioth.errors import BrokenTransportError, HandshakeTimeoutError

if TYPE_CHECKING:
    import socket

# Whoever has the lock asks, makes a namespace and starts a keeper: some milliseconds.
# Only who asks a stopped member has it longer, until his own patience ends.
_LOCK_PATIENCE_SECONDS = 10.0
_LONGEST_RETRY_SECONDS = 0.02

_UNSAFE = re.compile(rb"[^A-Za-z0-9_.-]|^\.")
_DIGEST_BYTES = 16


def file_name(name: str) -> str:
    """Return what a name's socket is called: another one for each name."""
    if not name:
        return "~"
    raw = name.encode("utf-8", "surrogatepass")
    escaped = _UNSAFE.sub(lambda found: b"%%%02X" % ord(found[0]), raw).decode()
    if len(escaped) <= meeting.MAX_NAME:
        return escaped
    digest = hashlib.blake2b(raw, digest_size=_DIGEST_BYTES).hexdigest()
    return f"{escaped[: meeting.MAX_NAME - 1 - len(digest)]}~{digest}"


def directory_path() -> str:
    """Return where this user's names are."""
    uid = os.geteuid()
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime):  # noqa: PTH117
        # Under sudo it may be another user's.
        with contextlib.suppress(OSError, ValueError):
            status = os.stat(runtime)  # noqa: PTH116
            if stat.S_ISDIR(status.st_mode) and status.st_uid == uid:
                return f"{runtime.rstrip('/')}/aioioth"
    return f"{tempfile.gettempdir()}/aioioth-{uid}"


class Place:
    """The directory of names, locked until the end of the ``with`` block."""

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        forget_in_children(self)

    @classmethod
    async def enter(cls) -> Self:
        """Return the directory, locked; made if it is missing.

        Raises:
            BrokenTransportError: It is not private, or cannot be made.
            HandshakeTimeoutError: Somebody else has it locked for too long.
        """
        path = directory_path()
        deadline = asyncio.get_running_loop().time() + _LOCK_PATIENCE_SECONDS
        while True:
            place = cls(path, _open_private(path))
            try:
                await place._lock(deadline)
                # Who left as the last has taken it away while we were waiting.
                if _same_file(path, place.descriptor):
                    return place
            except BaseException:
                place._close()
                raise
            place._close()

    async def _lock(self, deadline: float) -> None:
        delay = 0.001
        while True:
            try:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if asyncio.get_running_loop().time() > deadline:
                    reason = (
                        f"{_lock_holder(self.descriptor)} has had the directory locked "
                        f"for {_LOCK_PATIENCE_SECONDS:g} s: is it stopped? Continue "
                        f"or end it"
                    )
                    raise HandshakeTimeoutError(self.path, reason) from None
            else:
                return
            await asyncio.sleep(delay)
            delay = min(delay * 2, _LONGEST_RETRY_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.descriptor != -1:
            meeting.remove_if_empty(self.descriptor)
            # Whatever child of ours has a copy at this moment.
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)
            self._close()

    def _close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor != -1:
            os.close(descriptor)

    def forget_in_child(self) -> None:
        """Close the child's copy; unlocking it would unlock the parent's."""
        self._close()

    def path_of(self, file: str) -> str:
        """Return a socket's path, for people to read."""
        return f"{self.path}/{file}"

    def reopen(self) -> int:
        """Return a descriptor of the same directory, to be locked by somebody else."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        return os.open(".", flags, dir_fd=self.descriptor)

    def address(self, file: str) -> str:
        """Return where to connect to.

        Raises:
            BrokenTransportError: Something else than a socket is there.
        """
        found = meeting.address(self.descriptor, file)
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.lstat(found).st_mode):
                self.refuse(file, errno.ENOTSOCK)
        return found

    def refuse(self, file: str, code: int) -> NoReturn:
        """Say that what is in the place of the socket is not ours.

        Raises:
            BrokenTransportError: Always.
        """
        reason = f"is in the way and was not made by aioioth ({os.strerror(code)})"
        raise BrokenTransportError(
            self.path_of(file), f"{reason}: take it away", errno=code
        )

    def listen(self, file: str) -> socket.socket:
        """Return a new socket in the place of a dead one.

        Raises:
            BrokenTransportError: The file system refused.
        """
        meeting.remove(self.descriptor, file)
        listener = meeting.new_socket()
        try:
            os.fchmod(listener.fileno(), 0o600)  # what bind() makes has this mode
            listener.bind(meeting.address(self.descriptor, file))
            listener.listen(meeting.BACKLOG)
        except OSError as error:
            listener.close()
            raise _unusable(self.path_of(file), error) from error
        except BaseException:
            listener.close()
            raise
        return listener

    def remove(self, file: str) -> None:
        """Take our socket away again."""
        if self.descriptor != -1:  # not in a forked child
            meeting.remove(self.descriptor, file)


def _open_private(path: str) -> int:
    """Return a descriptor of the directory, which is made if it is missing."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)  # noqa: PTH102
            _check_private(path, os.lstat(path))
            descriptor = os.open(path, flags)
        except FileNotFoundError as error:
            if not os.path.isdir(os.path.dirname(path)):  # noqa: PTH112, PTH120
                raise _unusable(path, error) from error
            continue  # who left as the last has taken it away just now
        except BrokenTransportError:
            raise
        except OSError as error:
            raise _unusable(path, error) from error
        try:
            _check_private(path, os.fstat(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def _unusable(path: str, error: OSError) -> BrokenTransportError:
    reason = (
        f"cannot be made or opened: {error.strerror}. Set XDG_RUNTIME_DIR to a "
        f"directory of your own"
    )
    return BrokenTransportError(path, reason, errno=error.errno)


def _check_private(path: str, status: os.stat_result) -> None:
    uid, mode, code = os.geteuid(), stat.S_IMODE(status.st_mode), errno.EACCES
    if not stat.S_ISDIR(status.st_mode):
        reason = "is no directory: take it away, and aioioth makes one"
        code = errno.ENOTDIR
    elif status.st_uid != uid:
        reason = (
            f"belongs to user id {status.st_uid}, and this is user id {uid}: have it "
            f"taken away, or set XDG_RUNTIME_DIR to a directory of your own"
        )
    elif mode & 0o777 != 0o700:
        reason = f"has mode {mode:04o} and must be private: run 'chmod 0700 {path}'"
    else:
        return
    raise BrokenTransportError(path, reason, errno=code)


def _same_file(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _lock_holder(descriptor: int) -> str:
    """Return who has locked a file, in words."""
    inode = str(os.fstat(descriptor).st_ino)
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            fields = line.split()
            # 1: FLOCK ADVISORY WRITE 708 00:13:1234 0 EOF; who waits has "->" more.
            if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == inode:
                return f"process {fields[4]}"
    return "another program"
