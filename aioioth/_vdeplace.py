"""What a VDE node has in the file system: a directory, and sockets in it.

Nobody gets in who shall not, at no moment; what others have put there stays; and what a
node has left that was killed is taken away by the next one.

Source: the behaviour of Debian's vde_plug 4.0.1 as a switch; unix(7).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import socket
import stat
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aioioth.errors import BrokenTransportError

if TYPE_CHECKING:
    from collections.abc import Iterator

_STALE = re.compile(r"fd\d+")


@dataclass(frozen=True)
class Access:
    """Who may use what is made in the file system.

    Attributes:
        mode: Permissions of the sockets.
        dirmode: Permissions of the directory; None for what goes with ``mode``.
        group: Group of all of it; None for this process's.
    """

    mode: int = 0o600
    dirmode: int | None = None
    group: int | None = None

    @property
    def directory_mode(self) -> int:
        """Permissions of the directory."""
        if self.dirmode is not None:
            return self.dirmode
        # Who may use the sockets has to get at them. New files then get the
        # directory's group.
        mode = self.mode | (self.mode & 0o444) >> 2 | (self.mode & 0o222) >> 1
        return mode | (0o2000 if mode & 0o077 else 0)

    def grant(self, path: Path, mode: int) -> None:
        """Let those in who shall; nobody else is at any moment."""
        # Through a descriptor, in case that somebody puts something else there.
        item = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if self.group is not None:
                os.chown(f"/proc/self/fd/{item}", -1, self.group)
            Path(f"/proc/self/fd/{item}").chmod(mode)
        finally:
            os.close(item)


class Place:
    """What a server has: its directory, the names in there that are its own, sockets.

    Args:
        vnl: Shown in messages.
        path: Of the directory.
        access: For whom it is.

    Raises:
        BrokenTransportError: It cannot be made or used, or somebody else uses it.
    """

    def __init__(self, vnl: str, path: Path, access: Access) -> None:
        self.path = path
        self._vnl = vnl
        self._access = access
        self._pid = os.getpid()
        self._names: dict[Path, os.stat_result] = {}
        self._sockets: set[socket.socket] = set()
        self._made = False
        try:
            with ExitStack() as undo:
                undo.callback(self.close)
                self._make()
                with _locked(path):
                    self._occupy()
                    self.listener = self._listen()
                undo.pop_all()
        except OSError as error:
            if isinstance(error, BrokenTransportError):
                raise
            name = error.filename or path
            reason = f"{name}: {error.strerror}. {self._advice(error)}".rstrip(". ")
            raise BrokenTransportError(vnl, reason, errno=error.errno) from error

    def connect(self, number: int, address: bytes) -> tuple[socket.socket, Path]:
        """Make a data socket that is connected to a client's.

        Raises:
            OSError: It cannot be made, or the client's is not there.
        """
        path = self.path / f"fd{number}"
        if path not in self._names:
            _remove_stale(path)  # of a switch that was killed
        data = self._socket(socket.SOCK_DGRAM)
        try:
            # Both are connected to each other, so what bounds the frames on their way
            # is our send buffer: the most that the system gives.
            data.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            self._bind(data, path)
            data.connect(address)
        except OSError:
            self.release(path, data)
            raise
        return data, path

    def adopt(self, sock: socket.socket) -> None:
        """Have a socket closed with all the others."""
        self._sockets.add(sock)

    def release(self, path: Path | None, *sockets: socket.socket) -> None:
        """Close sockets and remove a name."""
        if path is not None:
            self._remove(path)
        for sock in sockets:
            self._sockets.discard(sock)
            sock.close()

    def close(self) -> None:
        """Close and remove everything that is ours. Idempotent, never raises."""
        for path in list(self._names):
            self._remove(path)
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()
        made, self._made = self._made, False
        if made and os.getpid() == self._pid:
            with contextlib.suppress(OSError):  # somebody has put something there
                self.path.rmdir()

    def _advice(self, error: OSError) -> str:
        if error.errno == errno.ENOENT:
            return f"Make {self.path.parent} first"
        if error.errno in {errno.EADDRINUSE, errno.EAGAIN}:
            return "Somebody is starting a switch there at this moment"
        if error.errno == errno.EPERM and self._access.group is not None:
            return f"You have to be a member of group {self._access.group}"
        return ""

    def _make(self) -> None:
        with contextlib.suppress(FileExistsError):
            self.path.mkdir(0o700)
            self._made = True

    def _occupy(self) -> None:
        if self._made:
            self._access.grant(self.path, self._access.directory_mode)
        else:
            self._take_over()

    def _take_over(self) -> None:
        """Remove what a switch has left that was killed; nothing else."""
        ctl = self.path / "ctl"
        try:
            kind = ctl.lstat().st_mode
        except FileNotFoundError:
            pass
        else:
            if not stat.S_ISSOCK(kind):
                raise FileExistsError(errno.EEXIST, "is no socket", os.fspath(ctl))
            if _answers(ctl):
                reason = f"a switch is running there. Join it with vde://{self.path}"
                raise BrokenTransportError(self._vnl, reason, errno=errno.EBUSY)
            ctl.unlink()
        for name in os.listdir(self.path):
            if _STALE.fullmatch(name):
                _remove_stale(self.path / name)

    def _listen(self) -> socket.socket:
        listener = self._socket(socket.SOCK_STREAM)
        self._bind(listener, self.path / "ctl")
        # Not before: nobody can connect until now.
        listener.listen(128)
        return listener

    def _socket(self, kind: socket.SocketKind) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, kind)
        sock.setblocking(False)
        self._sockets.add(sock)
        return sock

    def _bind(self, sock: socket.socket, path: Path) -> None:
        # The file gets the permissions of the socket: nobody gets in in between.
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(os.fspath(path))
        self._names[path] = path.lstat()
        self._access.grant(path, self._access.mode)

    def _remove(self, path: Path) -> None:
        ours = self._names.pop(path, None)
        if ours is None or os.getpid() != self._pid:
            return
        with contextlib.suppress(OSError):
            if os.path.samestat(path.lstat(), ours):
                path.unlink()


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Have nobody else look for, and remove, what seems to be left over."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _answers(ctl: Path) -> bool:
    # Connecting and going away without a word makes vde_plug 4.0.1 use up a processor.
    # So that is only for switches that are not listed, in other network namespaces.
    listening = b" 00010000 "  # __SO_ACCEPTCON, <linux/net.h>
    names = {b" " + os.fsencode(ctl), b" " + os.fsencode(ctl.resolve())}
    for line in Path("/proc/self/net/unix").read_bytes().splitlines():
        if listening in line and any(line.endswith(name) for name in names):
            return True
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(ctl))
        except ConnectionRefusedError:
            return False
        except OSError:
            return True  # it is busy, or not for us
    return True


def _remove_stale(path: Path) -> None:
    """Remove a data socket of ours that nobody has any more."""
    try:
        info = path.lstat()
        if not stat.S_ISSOCK(info.st_mode) or info.st_uid != os.geteuid():
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            probe.connect(os.fspath(path))
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
    except OSError:
        pass
