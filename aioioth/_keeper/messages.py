"""What a program and its keeper say to each other.

One message is one packet on a UNIX SEQPACKET socket. Native byte order: both ends are
on the same machine. Descriptors travel beside the bytes (SCM_RIGHTS).

    request   version u8, operation u8, sequence u16, body
    reply     version u8, 0, sequence u16, errno i32, body

Descriptors for the program come before their reply, in a message of their own (PARCEL).
The keeper closes its copies in between, so that nobody has one but the program once it
has the reply: it may close a socket and expect its port to be free.

The namespace that a request is about is always its first descriptor, so the keeper
remembers nothing and another one can take over at any message.

This module is imported by the helper, which runs without site-packages: it may import
nothing but the standard library, and little of that.
"""

from __future__ import annotations

import array
import os
import socket
import struct

TYPE_CHECKING = False  # typing would take its time
if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION = 1

# Operations. In brackets: descriptors sent -> descriptors returned.
USER_NAMESPACE = 1  # body empty [-> user namespace, or none when there is none]
NETWORK_NAMESPACE = 2  # body: sysctl lines to write in it [-> network namespace]
SOCKET = 3  # body: family, type, protocol, count as i32 [namespace -> sockets]
TAP = 4  # body: interface name [namespace -> TAP]
SYSCTL = 5  # body: sysctl lines [namespace ->]
CHANNEL = 6  # body empty; no reply [one end of a new SEQPACKET pair ->]
ORDERS = 7  # body: see `orders` [namespaces ->]
MEETING = 8  # body: name of the socket [see `meeting.start` ->]
CLOSE = 9  # body empty [what to close ->]
OPEN_SYSCTL = 10  # body: its name [namespace -> the file, to read]

NO_ANSWER = 0  # sequence number of a request that is not answered

MAX_MESSAGE = 8192
MAX_DESCRIPTORS = 8

ORDER = "order"  # how the step of a refused one begins; its number and text follow

PARCEL = b"+"  # shorter than any reply

_ANCILLARY = socket.CMSG_SPACE(4 * MAX_DESCRIPTORS)

_REQUEST = struct.Struct("=BBH")
_REPLY = struct.Struct("=BBHi")
_SOCKET = struct.Struct("=iiii")


def pack_request(operation: int, sequence: int, body: bytes = b"") -> bytes:
    """Return the bytes of a request."""
    return _REQUEST.pack(VERSION, operation, sequence) + body


def unpack_request(message: bytes) -> tuple[int, int, int, bytes]:
    """Return version, operation, sequence and body of a request."""
    version, operation, sequence = _REQUEST.unpack_from(message)
    return version, operation, sequence, message[_REQUEST.size :]


def pack_reply(sequence: int, errno: int = 0, body: bytes = b"") -> bytes:
    """Return the bytes of a reply; ``body`` of a failure says what was tried."""
    return _REPLY.pack(VERSION, 0, sequence, errno) + body


def unpack_reply(message: bytes) -> tuple[int, int, int, bytes]:
    """Return version, sequence, errno and body of a reply."""
    version, _, sequence, errno = _REPLY.unpack_from(message)
    return version, sequence, errno, message[_REPLY.size :]


def pack_socket(family: int, kind: int, protocol: int, count: int = 1) -> bytes:
    """Return the body of a SOCKET request."""
    return _SOCKET.pack(family, kind, protocol, count)


def unpack_socket(body: bytes) -> tuple[int, int, int, int]:
    """Return family, type, protocol and count of a SOCKET request."""
    family, kind, protocol, count = _SOCKET.unpack(body)
    return family, kind, protocol, count


def send(channel: socket.socket, message: bytes, descriptors: Sequence[int]) -> None:
    """Send a message; the descriptors stay ours."""
    # The module's own socket.send_fds takes a microsecond more, and each socket two.
    packed = array.array("i", descriptors)
    channel.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)])


def receive_reply(channel: socket.socket) -> tuple[bytes, list[int]]:
    """Wait for a reply and its descriptors, which the caller then owns."""
    message, descriptors = receive(channel)
    if message == PARCEL:
        try:
            message, _ = receive(channel)
        except BaseException:
            close_all(descriptors)
            raise
    return message, descriptors


def close_all(descriptors: Sequence[int]) -> None:
    """Close descriptors that are ours."""
    for descriptor in descriptors:
        os.close(descriptor)


def receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    """Return the next message and its descriptors, which the caller then owns.

    ``socket.recv_fds`` would not do: it leaves descriptors inheritable (Python 3.11
    to 3.13 ignore its flags).
    """
    message, ancillary, _, _ = channel.recvmsg(
        MAX_MESSAGE, _ANCILLARY, socket.MSG_CMSG_CLOEXEC
    )
    descriptors: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors += memoryview(data)[: len(data) // 4 * 4].cast("i")
    return message, descriptors
