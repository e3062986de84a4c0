"""A program of its own: opens a network with libvdeplug and passes its frames on.

Usage: python -I -S _vdeplug_helper.py DATA VNL LABEL

Standard input is a stream socket: there we say ``+`` when the network is open, or ``-``
and why not, its end is ours. DATA is the number of a datagram socket, each datagram a
frame. A network that is stuck keeps nobody waiting but this program, and that ends one
second after its standard input at the latest.

Source: libvdeplug.h, of libvdeplug 4.0.1.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_LIBRARY = "libvdeplug.so.2"
_INTERFACE_VERSION = 1  # LIBVDEPLUG_INTERFACE_VERSION
_FRAME_SIZE = 9216 + 14 + 4  # VDE_ETHBUFSIZE
_SHORTEST = 14
_GRACE_SECONDS = 1.0
_AT_ONCE = 64
_MAX_TEXT = 2000

_NOW = {errno.EAGAIN, errno.EINTR}


def main() -> int:
    """Open, say so, and pass frames on until one of the sides has gone."""
    number, vnl, label = sys.argv[1:]
    with socket.socket(fileno=0) as control, socket.socket(fileno=int(number)) as data:
        data.setblocking(False)
        os.dup2(2, 1)  # standard output belongs to the program that started us
        threading.Thread(target=_end_with, args=(control,), daemon=True).start()
        try:
            library = _load()
        except OSError as error:
            return _refuse(control, errno.ENOSYS, f"{error}")
        with _captured() as text:
            network = library.vde_open_real(
                os.fsencode(vnl), os.fsencode(label), _INTERFACE_VERSION, None
            )
            code = ctypes.get_errno()
        if network is None:
            return _refuse(control, code, text[0])
        os.write(2, text[0].encode())
        control.sendall(b"+")
        try:
            _Bridge(library, network, control, data).run()
        finally:
            library.vde_close(network)
    return 0


def _end_with(control: socket.socket) -> None:
    """End this program when the one that started it has, even if it is stuck in C."""
    waiting = select.poll()
    waiting.register(control, select.POLLIN)
    waiting.poll()
    time.sleep(_GRACE_SECONDS)
    os._exit(1)


def _load() -> Any:  # noqa: ANN401  (ctypes)
    library = ctypes.CDLL(_LIBRARY, use_errno=True)
    opening = library.vde_open_real
    opening.argtypes = [
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_void_p,
    ]
    opening.restype = ctypes.c_void_p
    for name in ("vde_recv", "vde_send"):
        function = getattr(library, name)
        function.argtypes = [
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_int,
        ]
        function.restype = ctypes.c_ssize_t
    for name in ("vde_datafd", "vde_ctlfd", "vde_close"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    return library


def _refuse(control: socket.socket, code: int, text: str) -> int:
    reason = os.strerror(code) if code else "it does not say why"
    words = "; ".join(filter(None, [reason, *map(str.strip, text.splitlines())]))
    control.sendall(b"-%d %s" % (code, words[:_MAX_TEXT].encode()))
    return 1


@contextmanager
def _captured() -> Iterator[list[str]]:
    """Keep what is written to standard error and output meanwhile."""
    text = [""]
    kept, file = os.dup(2), os.memfd_create("aioioth")
    try:
        for each in (1, 2):
            os.dup2(file, each)
        yield text
    finally:
        for each in (1, 2):
            os.dup2(kept, each)
        size = min(os.fstat(file).st_size, _MAX_TEXT)
        text[0] = os.pread(file, size, 0).decode(errors="replace")
        os.close(kept)
        os.close(file)


class _Bridge:
    """Passes frames on, both ways."""

    def __init__(
        self,
        library: Any,  # noqa: ANN401  (ctypes)
        network: int,
        control: socket.socket,
        data: socket.socket,
    ) -> None:
        self._library, self._network, self._data = library, network, data
        self._buffer = (ctypes.c_char * (_FRAME_SIZE + 1))()
        self._view = memoryview(self._buffer).cast("B")
        self._held: bytes | None = None
        self._network_fd: int = library.vde_datafd(network)
        self._ends = {control.fileno(), library.vde_ctlfd(network)}
        self._poll = select.poll()
        for each in self._ends - {-1}:
            self._poll.register(each, select.POLLIN)
        self._poll.register(data, select.POLLIN)
        self._poll.register(self._network_fd, select.POLLIN)

    def run(self) -> None:
        """Do it until one of the sides has gone."""
        while True:
            for descriptor, events in self._poll.poll():
                if descriptor in self._ends:
                    return
                if descriptor == self._network_fd:
                    if not self._from_network(events):
                        return
                elif not self._to_network(events):
                    return

    def _from_network(self, events: int) -> bool:
        """Pass one on: the next call might have to wait. False if it has ended."""
        if not events & select.POLLIN:
            return False
        length = self._library.vde_recv(self._network, self._buffer, _FRAME_SIZE, 0)
        if length == 0:
            return False
        if length < 0:
            return ctypes.get_errno() in _NOW
        if length >= _SHORTEST:  # 1 is no frame, but some news of the library's own
            try:
                self._data.send(self._view[:length])
            except BlockingIOError:
                # We wait for the program to read, and go on the other way meanwhile.
                self._held = bytes(self._view[:length])
                self._poll.unregister(self._network_fd)
                self._poll.modify(self._data, select.POLLIN | select.POLLOUT)
            except OSError:
                return False
        return True

    def _to_network(self, events: int) -> bool:
        try:
            if events & select.POLLOUT and self._held is not None:
                self._data.send(self._held)
                self._held = None
                self._poll.register(self._network_fd, select.POLLIN)
                self._poll.modify(self._data, select.POLLIN)
            for _ in range(_AT_ONCE):
                length = self._data.recv_into(self._view)
                if length <= _FRAME_SIZE:
                    # What the network does not take is lost, as frames are.
                    self._library.vde_send(self._network, self._buffer, length, 0)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True


if __name__ == "__main__":
    sys.exit(main())
