"""Datagrams handed over as they come to a socket, on any event loop."""

from __future__ import annotations

import asyncio
import select
from typing import TYPE_CHECKING, Any, NamedTuple

from aioioth._fork import forget_in_children

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

# The largest there is: of IP, and of what a network interface takes.
_DATAGRAM_BYTES = 65_536
_ANCILLARY_BYTES = 256
# Somebody who sends as fast as he can shall not have the loop for himself.
_BATCH = 32


class Datagram(NamedTuple):
    """What came, and what is known about it.

    Attributes:
        data: Its bytes.
        source: The sender's socket address.
        ancillary: What recvmsg(2) tells besides: level, type and bytes of each.
    """

    data: bytes
    source: Any
    ancillary: Sequence[tuple[int, int, bytes]]


class Receiver:
    """Reads a socket on the running loop; owns it from the beginning.

    Args:
        sock: Non-blocking, of datagrams: UDP, raw, packet or netlink.
        take: Called with each datagram; must not raise.
    """

    def __init__(self, sock: socket.socket, take: Callable[[Datagram], None]) -> None:
        self._sock = sock
        self._take = take
        self._loop = asyncio.get_running_loop()
        # An interface that goes down leaves an error on its packet sockets, and libuv
        # gives such a descriptor up without a word. An epoll set has no errors.
        try:
            self._watched = select.epoll()
        except BaseException:
            sock.close()
            raise
        self._watched.register(sock, select.EPOLLIN)
        self._loop.add_reader(self._watched.fileno(), self._read)
        forget_in_children(self)

    @property
    def socket(self) -> socket.socket:
        """The socket, to send with; it stays the receiver's."""
        return self._sock

    def close(self) -> None:
        """Stop reading, and close the socket. Idempotent, never waits."""
        if self._watched.closed:
            return
        if not self._loop.is_closed():
            self._loop.remove_reader(self._watched.fileno())
        self._watched.close()
        self._sock.close()

    def forget_in_child(self) -> None:
        """Close our copies after a fork; the loop is the parent's."""
        self._watched.close()
        self._sock.close()

    def _read(self) -> None:
        for _ in range(_BATCH):
            if self._watched.closed:  # by `take`, or in a child of os.fork
                return
            try:
                data, ancillary, _, source = self._sock.recvmsg(
                    _DATAGRAM_BYTES, _ANCILLARY_BYTES
                )
            except BlockingIOError:
                return
            except OSError:
                continue  # told once each: the link is down, say
            self._take(Datagram(data, source, ancillary))
