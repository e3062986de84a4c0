"""Orders to the kernel about interfaces, carried out one after the other.

A list of orders goes to the keeper in one message, and stops at the first one that the
kernel refuses. So an interface with its addresses and routes costs one round trip, and
waiting for the routing lock is the keeper's business and not the event loop's.

    order    where u8, what u8, size u16, payload, padded to 4 bytes

``where`` is the number of a descriptor that was sent along: the network namespace to do
it in. In a netlink message, a descriptor is named by its number too (``PLACE``).

This module is imported by the helper, too: see `messages`.

Source: netlink(7), rtnetlink(7).
"""

from __future__ import annotations

import errno
import os
import struct
import time

TYPE_CHECKING = False  # typing would take its time
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Iterator, Sequence

    Order = tuple[int, int, bytes]

# What to do with the payload.
REQUEST = 0  # a netlink message, to be acknowledged
UNLESS_THERE = 1  # the same; all right if that exists already
UNTIL_RUNNING = 2  # a request for a link: wait until frames can go out
UNTIL_LOCAL = 3  # a request for a route: wait until it is one to the namespace itself

# <linux/netlink.h>, <linux/if_link.h>, <linux/rtnetlink.h>, Linux 6.1
_NLMSG_ERROR = 2
_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_CAPPED_WITH_TEXT = 0x300  # NLM_F_CAPPED, NLM_F_ACK_TLVS
_NLMSGERR_ATTR_MSG = 1
_IFLA_OPERSTATE = 16
_IFLA_NET_NS_FD = 28
_IF_OPER_UP = 6
_RTN_LOCAL = 2
_IFINFOMSG_BYTES = 16

_ORDER = struct.Struct("=BBH")
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")
_DESCRIPTOR = struct.Struct("=HHI")
_PLACE = 0x7FFF0000

# The kernel's workers take microseconds, on a busy machine some milliseconds. What is
# waited for makes a first packet sure to arrive; it is no failure without.
_PATIENCE_SECONDS = 1.0
_LOOK_SECONDS = 0.0002


class RefusedError(OSError):
    """The kernel refused an order.

    Attributes:
        number: Which of them.
        text: The kernel's words; empty if it said nothing.
    """

    def __init__(self, code: int, number: int, text: str) -> None:
        super().__init__(code, os.strerror(code))
        self.number = number
        self.text = text


def pack(orders: Iterable[Order]) -> bytes:
    """Return orders as bytes."""
    return b"".join(
        _ORDER.pack(where, what, len(payload)) + payload + bytes(-len(payload) & 3)
        for where, what, payload in orders
    )


def unpack(data: bytes) -> Iterator[Order]:
    """Return the orders that `pack` has packed."""
    at = 0
    while at < len(data):
        where, what, size = _ORDER.unpack_from(data, at)
        at += _ORDER.size
        yield where, what, data[at : at + size]
        at += (size + 3) & ~3


def perform(
    orders: Iterable[Order],
    open_socket: Callable[[int], socket.socket],
    descriptors: Sequence[int],
) -> None:
    """Carry orders out; may wait for the kernel.

    Args:
        orders: What to do.
        open_socket: Opens a NETLINK_ROUTE socket in the namespace of that number.
        descriptors: What the numbers in messages stand for.

    Raises:
        RefusedError: The kernel refused one; those before it are done.
    """
    sockets: dict[int, socket.socket] = {}
    try:
        for number, (where, what, payload) in enumerate(orders):
            try:
                if where not in sockets:
                    sockets[where] = _prepared(open_socket(where))
                _perform(sockets[where], what, payload, descriptors)
            except RefusedError:
                raise
            except OSError as error:
                text = error.args[1] if isinstance(error, _KernelError) else ""
                raise RefusedError(error.errno or errno.EIO, number, text) from None
    finally:
        for sock in sockets.values():
            sock.close()


class _KernelError(OSError):
    """What an answer says, with the kernel's own words or none."""


def _prepared(sock: socket.socket) -> socket.socket:
    sock.setblocking(True)
    sock.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
    sock.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
    return sock


def _perform(
    sock: socket.socket, what: int, payload: bytes, descriptors: Sequence[int]
) -> None:
    if what == UNTIL_RUNNING:
        _wait(lambda: _is_running(sock, payload))
    elif what == UNTIL_LOCAL:
        _wait(lambda: _is_local(sock, payload))
    else:
        _ask(sock, _with_descriptors(payload, descriptors), may_exist=what != REQUEST)


def _ask(sock: socket.socket, message: bytes, *, may_exist: bool) -> None:
    sock.send(message)
    _, kind, flags, *_ = _HEADER.unpack_from(answer := sock.recv(8192))
    assert kind == _NLMSG_ERROR, "requests have NLM_F_ACK"
    (code,) = _ERROR.unpack_from(answer, _HEADER.size)
    if code and not (may_exist and -code == errno.EEXIST):
        text = ""
        if flags & _CAPPED_WITH_TEXT == _CAPPED_WITH_TEXT:
            text = _find_text(answer[2 * _HEADER.size + _ERROR.size :])
        raise _KernelError(-code, text)


def _find_text(attributes: bytes) -> str:
    found = _find(attributes, _NLMSGERR_ATTR_MSG)
    return found.rstrip(b"\0").decode(errors="replace")


def _find(attributes: bytes, wanted: int) -> bytes:
    at = 0
    while at + _ATTRIBUTE.size <= len(attributes):
        size, kind = _ATTRIBUTE.unpack_from(attributes, at)
        if kind == wanted:
            return attributes[at + _ATTRIBUTE.size : at + size]
        at += max(4, (size + 3) & ~3)
    return b""


def _with_descriptors(message: bytes, descriptors: Sequence[int]) -> bytes:
    for number, descriptor in enumerate(descriptors):
        place = _DESCRIPTOR.pack(8, _IFLA_NET_NS_FD, _PLACE | number)
        message = message.replace(
            place, _DESCRIPTOR.pack(8, _IFLA_NET_NS_FD, descriptor)
        )
    return message


def _wait(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not is_so() and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)


def _is_running(sock: socket.socket, message: bytes) -> bool:
    """Whether the kernel has nothing left to do after a link came up.

    The flag IFF_RUNNING is there too early, while this is still unknown; and a bridge's
    port that is disabled then would be enabled by what is left to do.
    """
    sock.send(message)
    answer = sock.recv(8192)
    attributes = answer[_HEADER.size + _IFINFOMSG_BYTES :]
    is_link = _HEADER.unpack_from(answer)[1] != _NLMSG_ERROR
    return is_link and _find(attributes, _IFLA_OPERSTATE) == bytes([_IF_OPER_UP])


def _is_local(sock: socket.socket, message: bytes) -> bool:
    sock.send(message)
    answer = sock.recv(8192)
    kind = _HEADER.unpack_from(answer)[1]
    # struct rtmsg; there may be no route at all yet.
    return kind != _NLMSG_ERROR and answer[_HEADER.size + 7] == _RTN_LOCAL
