"""The door of a switch for VDE programs: the control protocol, from its side.

Everything runs on one event loop, except that frames for a client may come from any
thread: they go straight into its socket, and wait in a queue only while that is full.

Source: the behaviour of Debian's vde_plug 4.0.1 as a switch, and of its clients;
`aioioth.wire.vde`; unix(7).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import struct
import threading
import weakref
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from aioioth._fork import forget_in_children
from aioioth._switchports import Port
from aioioth._vdeplace import Place
from aioioth.wire import vde

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioioth._forwarding import Fabric
    from aioioth._vdeplace import Access

_log = logging.getLogger("aioioth")

# A client sends its request right after it has connected.
_HANDSHAKE_SECONDS = 3.0
_HANDSHAKES = 32
_CLIENTS = 256
# Until somebody may have given descriptors back.
_RETRY_SECONDS = 0.5

_LONGEST = 9234  # with a VLAN tag; VDE programs have buffers of that size
# 0.3 ms, as for a pump: long enough to be worth the wake-up, and short enough for the
# others on the loop.
_BUDGET = 64
# More than what a client that has gone can have left in its socket.
_LAST_FRAMES = 1024
# What waits for a client besides what its socket holds: 0.1 s at 100 Mbit/s.
_QUEUE_FRAMES = 1024
_QUEUE_BYTES = 2 << 20
# The frame is lost; the client is still there.
_DROPS = {
    errno.ENOBUFS: "no buffer space",
    errno.ENOMEM: "no memory",
    errno.EMSGSIZE: "too long",
}

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


class VdeServer:
    """Lets VDE programs into a switch, from when it is made until it is closed.

    Belongs to the event loop that is running. If that ends first, the sockets are
    closed and the files removed with the last reference, or when the process ends.

    Args:
        vnl: Shown in messages.
        path: Of the directory.
        access: For whom it is.
        fabric: The switch's.

    Raises:
        BrokenTransportError: The directory cannot be made or used, or a switch is
            running there already.
    """

    def __init__(
        self, vnl: str, path: Path, access: Access, fabric: Fabric[Port]
    ) -> None:
        self._vnl = vnl
        self._fabric = fabric
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._handshakes: set[_Handshake] = set()
        self._clients: set[ClientPort] = set()
        self._pid = os.getpid()
        self._closed = False
        self._accepting = False
        self._retry: asyncio.TimerHandle | None = None
        self._place = Place(vnl, path, access)
        self._release = weakref.finalize(self, self._place.close)
        self._listener = self._place.listener
        self._listen()
        forget_in_children(self)

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, or its loop was."""
        return self._closed or self._loop.is_closed()

    def close(self) -> None:
        """Send all away and remove what is ours; from any thread. Idempotent."""
        if os.getpid() != self._pid:
            self.forget_in_child()
        elif threading.get_ident() == self._thread or self._loop.is_closed():
            self._close()
        else:
            with contextlib.suppress(RuntimeError):  # closed at this moment
                self._loop.call_soon_threadsafe(self._close)

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._pause()
        if self._retry is not None:
            self._retry.cancel()
        for handshake in list(self._handshakes):
            handshake.end()
        for client in list(self._clients):
            client.end()
        self._release()

    def forget_in_child(self) -> None:
        """Close our copies after a fork; the files and the loop are the parent's."""
        self._closed = True
        for client in self._clients:
            client.forget()
        self._clients.clear()
        for handshake in self._handshakes:
            handshake.forget()
        self._handshakes.clear()
        self._accepting = False
        self._release()

    def _listen(self) -> None:
        self._retry = None
        if (
            not self._accepting
            and not self._closed
            and len(self._handshakes) < _HANDSHAKES
        ):
            self._accepting = True
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _pause(self) -> None:
        if self._accepting:
            self._accepting = False
            if not self._loop.is_closed():
                self._loop.remove_reader(self._listener.fileno())

    def _accept(self) -> None:
        if not self._accepting:  # a forked child, in the parent's loop
            return
        for _ in range(_HANDSHAKES - len(self._handshakes)):
            try:
                ctl, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                # No descriptors left. It would be readable all the time.
                _log.warning("%s: cannot let anybody in: %s", self._vnl, error)
                self._pause()
                self._retry = self._loop.call_later(_RETRY_SECONDS, self._listen)
                return
            if len(self._clients) >= _CLIENTS:
                _log.warning("%s: %s clients are enough", self._vnl, _CLIENTS)
                ctl.close()
                continue
            ctl.setblocking(False)
            self._place.adopt(ctl)
            self._handshakes.add(_Handshake(self, self._loop, ctl))
        if len(self._handshakes) >= _HANDSHAKES:
            self._pause()

    def shaken(
        self, handshake: _Handshake, ctl: socket.socket, request: vde.Request | None
    ) -> None:
        """Go on after a handshake; None if it has failed."""
        self._handshakes.discard(handshake)
        try:
            if request is None:
                self._place.release(None, ctl)
            else:
                self._admit(ctl, request)
        except OSError as error:
            _log.info("%s: %s not let in: %s", self._vnl, request, error)
            self._place.release(None, ctl)
        if self._retry is None:
            self._listen()

    def _admit(self, ctl: socket.socket, request: vde.Request) -> None:
        if request.port == 0:
            raise OSError(errno.EOPNOTSUPP, "there is no management port")
        if len(self._clients) >= _CLIENTS:
            raise OSError(errno.EUSERS, "too many clients")
        data = ctl.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(data)
        _check_owner(request.data_address, uid)
        data_socket, path = self._place.connect(ctl.fileno(), request.data_address)
        try:
            ctl.send(vde.pack_address(os.fsencode(path)))
        except OSError:
            self._place.release(path, data_socket)
            raise
        label = f"{request.description} (uid {uid}, pid {pid})".lstrip()
        client = ClientPort(self, self._fabric, label, (ctl, data_socket), path)
        self._clients.add(client)

    def gone(
        self, client: ClientPort, path: Path, sockets: tuple[socket.socket, ...]
    ) -> None:
        """Give back what a client had."""
        self._clients.discard(client)
        self._place.release(path, *sockets)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that all happens on."""
        return self._loop

    @property
    def thread(self) -> int:
        """The thread that the loop runs in."""
        return self._thread


def _check_owner(address: bytes, uid: int) -> None:
    """See that a client does not have us send its frames to somebody else's socket."""
    if address[0] == 0:
        return
    path = os.fsdecode(address)
    if not path.startswith("/"):
        raise OSError(errno.EINVAL, "a data socket's path is absolute", path)
    info = Path(path).stat()
    if info.st_uid != uid and uid not in {0, os.geteuid()}:
        raise PermissionError(errno.EPERM, "the data socket is somebody else's", path)


class _Handshake:
    """A client that has connected and not said yet what it wants."""

    def __init__(
        self, server: VdeServer, loop: asyncio.AbstractEventLoop, ctl: socket.socket
    ) -> None:
        self._server = server
        self._loop = loop
        self._ctl = ctl
        self._data = b""
        self._over = False
        self._timer = loop.call_later(_HANDSHAKE_SECONDS, self.end)
        loop.add_reader(ctl.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        if self._over:
            return
        try:
            more = self._ctl.recv(vde.MAX_REQUEST + 1 - len(self._data))
        except BlockingIOError:
            return
        except OSError:
            more = b""
        self._data += more
        try:
            request = vde.unpack_request(self._data) if more else None
        except ValueError:
            more, request = b"", None
        if request is not None or not more:
            self.end(request)

    def end(self, request: vde.Request | None = None) -> None:
        """Go on with a request, or hang up. Idempotent."""
        if not self._over:
            self._over = True
            self._timer.cancel()
            if not self._loop.is_closed():
                self._loop.remove_reader(self._ctl.fileno())
            self._server.shaken(self, self._ctl, request)

    def forget(self) -> None:
        """Do nothing any more, in a forked child."""
        self._over = True


class ClientPort(Port):
    """A VDE program's port.

    Args:
        server: Whose client it is.
        fabric: The switch's.
        label: Who is plugged in.
        sockets: For control, and for data.
        path: Name of the data socket.
    """

    _local = False

    def __init__(
        self,
        server: VdeServer,
        fabric: Fabric[Port],
        label: str,
        sockets: tuple[socket.socket, socket.socket],
        path: Path,
    ) -> None:
        self._server = server
        self._loop = server.loop
        self._sockets = sockets
        self._ctl, self._data = sockets
        self._path = path
        # Straight to the system calls.
        self._receive = self._data.recv
        self._transmit = self._data.send
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._writing = False
        self._said = 0
        self._over = False
        super().__init__(fabric, label, self._deliver, _LONGEST)
        self._loop.add_reader(self._ctl.fileno(), self._on_control)
        self._loop.add_reader(self._data.fileno(), self._on_readable)

    @override
    def disconnect(self) -> None:
        """Close its connection; it may come back. From any thread. Idempotent."""
        self._fabric.leave(self._member)
        if threading.get_ident() == self._server.thread or self._loop.is_closed():
            self.end()
        else:
            self._call_loop(self.end)

    def end(self) -> None:
        """Close everything; on the loop's thread. Idempotent, never raises."""
        if self._over:
            return
        self._over = True
        self._fabric.leave(self._member)
        if not self._loop.is_closed():
            self._loop.remove_reader(self._data.fileno())
            self._loop.remove_writer(self._data.fileno())
            self._loop.remove_reader(self._ctl.fileno())
        self._waiting.clear()
        self._server.gone(self, self._path, self._sockets)

    def forget(self) -> None:
        """Do nothing any more, in a forked child."""
        self._over = True
        self._fabric.leave(self._member)

    # Frames from the client

    def _on_readable(self) -> None:
        self._read(_BUDGET)

    def _read(self, most: int) -> None:
        receive, send = self._receive, self.send
        try:
            for _ in range(most):
                send(receive(_LONGEST + 1))
        except BlockingIOError:
            pass
        except OSError:
            self._lose()

    @override
    def _send_impossible(self, length: int) -> int:
        self._lost["too long"] += 1
        return length

    def _on_control(self) -> None:
        """Notice that the client has gone; it has hardly more to say."""
        if self._over:
            return
        try:
            data = self._ctl.recv(vde.MAX_REQUEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        # The rest of a description that came in pieces.
        self._said += len(data)
        if data and self._said <= vde.MAX_REQUEST:
            return
        self._read(_LAST_FRAMES)
        self.end()

    # Frames for the client; with the switch's lock, in any thread

    def _deliver(self, frame: bytes) -> None:
        length = len(frame)
        if length > _LONGEST:
            self.drops["too long"] += 1
            return
        if not self._waiting:
            try:
                self._transmit(frame)
            except BlockingIOError:
                self._call_loop(self._start_writing)
            except OSError as error:
                self._fail(error)
                return
            else:
                self._frames_out += 1
                self._bytes_out += length
                return
        room = _QUEUE_BYTES - self._waiting_bytes
        if len(self._waiting) >= _QUEUE_FRAMES or length > room:
            self.drops["queue full"] += 1
            return
        self._waiting.append(frame)
        self._waiting_bytes += length

    def _fail(self, error: OSError) -> None:
        cause = _DROPS.get(error.errno or 0)
        if cause is not None:
            self.drops[cause] += 1
        else:
            self._lose()

    def _lose(self) -> None:
        # Later: a port cannot be taken away while frames are handed out.
        self._call_loop(self.end)

    def _call_loop(self, callback: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(callback)

    def _start_writing(self) -> None:
        if not self._over and not self._writing:
            self._writing = True
            self._loop.add_writer(self._data.fileno(), self._on_writable)

    def _on_writable(self) -> None:
        with self._fabric.lock:
            for _ in range(_BUDGET):
                if not self._waiting:
                    break
                frame = self._waiting[0]
                try:
                    self._transmit(frame)
                except BlockingIOError:
                    return
                except OSError as error:
                    self._fail(error)
                else:
                    self._frames_out += 1
                    self._bytes_out += len(frame)
                self._waiting.popleft()
                self._waiting_bytes -= len(frame)
            if self._waiting:
                return
        self._writing = False
        self._loop.remove_writer(self._data.fileno())
