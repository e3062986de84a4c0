"""pyroute2's netlink on a stack's own socket, on any event loop.

Source: rtnetlink(7), netlink(7); pyroute2 0.9.7.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pyroute2.netlink.exceptions import NetlinkError as PyrouteError
from typing_extensions import override

from aioioth._fork import forget_in_children
from aioioth.errors import NetlinkError

if TYPE_CHECKING:
    from collections.abc import Generator

    from aioioth.abc import Space

    class AsyncIPRoute:
        """pyroute2 has no types: what we touch ourselves has, the rest is `Any`."""

        local: Any
        msg_queue: Any
        request_proxy: Any
        socket: Any
        status: dict[str, Any]

        def __init__(self, **options: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...  # noqa: ANN401
        def close(self, code: int = errno.ECONNRESET) -> None: ...

else:
    # Not from `pyroute2`: that takes twice as long to import.
    from pyroute2.iproute.linux import AsyncIPRoute

__all__ = ["Netlink"]

# <linux/netlink.h>, <asm-generic/socket.h>, <linux/sock_diag.h>, Linux 6.1
_SOL_NETLINK = 270
_NETLINK_NO_ENOBUFS = 5
_NETLINK_EXT_ACK = 11
_SO_MEMINFO = 55
_SK_MEMINFO_DROPS = 8
_NLMSG_ERROR = 2
_HEADER = struct.Struct("=IHHII")
_ERROR = struct.Struct("=i16x")

# The system gives 416 KiB of it by default (net.core.rmem_max): some 300 answers.
_RECEIVE_BYTES = 1 << 20
_MESSAGE_BYTES = 1 << 16
# Requests are answered before send() returns, so the answers of a burst are in the
# receive buffer before the loop gets a chance to read them: read them in between.
_BURST = 64


class Netlink(AsyncIPRoute):
    """pyroute2's `AsyncIPRoute`, bound to one stack.

    All of pyroute2's rtnetlink calls work: ``await stack.netlink.link("set", ...)``,
    ``async for link in await stack.netlink.get_links()``. What differs from pyroute2's
    own class:

    * It works on uvloop too, which has no netlink endpoint.
    * A burst of requests does not overflow the socket. Should it overflow all the same
      (ENOBUFS), those who wait get that error, and the object goes on working.
    * ``tuntap`` links and probes are refused: pyroute2 would make them in the host's
      namespace. Interfaces of a stack come from its VNLs.

    Args:
        space: Where the socket is opened.
    """

    def __init__(self, space: Space) -> None:
        self._endpoint: _Endpoint | None = None
        # Not SOCK_RAW: pyroute2 wants a datagram socket; for netlink they are the same.
        sock = space.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        # An overflow shall not put the socket into an error, since libuv gives such a
        # descriptor up for good. The kernel's count of what it dropped tells as well.
        sock.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
        # Errors come with the kernel's own words, where it has any.
        sock.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        super().__init__(use_socket=sock, use_event_loop=asyncio.get_running_loop())
        self.request_proxy: Any = _Refusal()
        self._sock = sock
        self._sent = 0
        forget_in_children(self)

    def fileno(self) -> int:
        """Return the socket's descriptor, -1 when closed."""
        return self._sock.fileno()

    async def setup_endpoint(self) -> None:
        """Start reading; called by pyroute2 before each request."""
        if getattr(self.local, "transport", None) is None:
            if self._sock.fileno() == -1:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            assert self.socket is self._sock, "pyroute2 sets up its queues here"
            self.local.transport = self._endpoint = _Endpoint(self)
            self.local.protocol = None

    async def bind(self, groups: int | None = None, **_: object) -> None:
        """Subscribe to the kernel's announcements; read them with `get`.

        Unlike pyroute2's own, at any time: that one binds the socket's address, which
        the first request has done already.

        Args:
            groups: Bits ``RTMGRP_*``; None for pyroute2's usual ones.
        """
        await self.setup_endpoint()
        # Before there is an address the kernel takes this socket for the sender of what
        # it announces by itself, and leaves it out.
        if self._sock.getsockname()[0] == 0:
            self._sock.bind((0, 0))
        wanted = self.status["groups"] if groups is None else groups
        for bit in range(32):
            if wanted >> bit & 1:
                self.add_membership(bit + 1)

    def send(self, data: bytes, flags: int = 0) -> int:
        """Send a request, and make room for the answers of a burst."""
        self._sent += 1
        if self._sent % _BURST == 0 and self._endpoint is not None:
            self._endpoint.read()
        return self._sock.send(data, flags)

    def enqueue(self, data: bytes, addr: tuple[int, int]) -> None:
        """Hand a message to who waits for it.

        Args:
            data: What came.
            addr: From whom: the port, and the groups if it is an announcement.
        """
        # Announcements carry the number of the request that caused them, whosever.
        sequence = 0 if addr[1] else _HEADER.unpack_from(data)[3]
        # pyroute2 would keep answers to requests that were cancelled for ever.
        if sequence in self.msg_queue.queues:
            self.msg_queue.put_nowait(sequence, data)

    def lost(self) -> int:
        """Return how many messages did not fit into the receive buffer so far."""
        answer = self._sock.getsockopt(
            socket.SOL_SOCKET, _SO_MEMINFO, 4 * (_SK_MEMINFO_DROPS + 1)
        )
        return struct.unpack_from("=I", answer, 4 * _SK_MEMINFO_DROPS)[0]  # type: ignore[no-any-return]

    def fail_all(self, code: int) -> None:
        """Answer every request under way with an error."""
        for sequence in list(self.msg_queue.queues):
            length = _HEADER.size + _ERROR.size
            header = _HEADER.pack(length, _NLMSG_ERROR, 0, sequence, 0)
            self.msg_queue.put_nowait(sequence, header + _ERROR.pack(-code))

    @override
    def close(self, code: int = errno.ECONNRESET) -> None:
        """Close the socket; requests under way fail with ECONNRESET. Idempotent."""
        if self._sock.fileno() == -1:
            return
        if self._endpoint is not None:
            self.fail_all(code)
        super().close(code)  # removes the reader, through `_Endpoint.close`
        self._sock.close()

    def forget_in_child(self) -> None:
        """Close our copy after a fork, which would get the parent's answers."""
        self._sock.close()

    @contextmanager
    def translated(self, request: str) -> Generator[None]:
        """Raise aioioth's error, naming the request, for pyroute2's inside the block.

        Args:
            request: In iproute2's words: ``ip link set vde0 up``.

        Raises:
            NetlinkError: The kernel refused.
        """
        try:
            yield
        except PyrouteError as error:
            code = abs(error.code)
            text = error.args[1]
            detail = "" if text == os.strerror(code) else text
            raise NetlinkError(code, request, detail) from error
        except OSError as error:  # what pyroute2 raises for ENOBUFS and the like
            raise NetlinkError(error.errno or errno.EIO, request) from error


class _Refusal:
    """In place of pyroute2's proxy, which acts in the host's namespace."""

    @staticmethod
    def handle(message: Any) -> bytes:  # noqa: ANN401  (pyroute2 has no types)
        kind = message.get(("linkinfo", "kind"))
        if kind in {"tun", "tuntap"}:
            code = errno.EOPNOTSUPP
            raise NetlinkError(code, f"ip link add type {kind}", "use a VNL instead")
        return b""


class _Endpoint:
    """Reads a netlink socket on the event loop; what pyroute2 calls a transport."""

    def __init__(self, netlink: Netlink) -> None:
        self._netlink = netlink
        self._lost = netlink.lost()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(netlink.fileno(), self.read)

    def read(self) -> None:
        """Hand out all messages that are waiting."""
        netlink = self._netlink
        if netlink.fileno() == -1:
            return  # in a forked child that runs its parent's loop on
        while True:
            try:
                data, source = netlink._sock.recvfrom(_MESSAGE_BYTES)  # noqa: SLF001
            except BlockingIOError:
                break
            except OSError as error:
                netlink.fail_all(error.errno or errno.EIO)
                return
            netlink.enqueue(data, source)
        lost = netlink.lost()
        if lost != self._lost:
            # Some answers did not fit, and nobody knows whose.
            self._lost = lost
            netlink.fail_all(errno.ENOBUFS)

    def close(self) -> None:
        if not self._loop.is_closed():
            self._loop.remove_reader(self._netlink.fileno())

    def abort(self) -> None:
        """Do nothing: pyroute2 calls `close` right after."""
