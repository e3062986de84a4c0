"""The VDE control protocol, version 3.

A client connects to ``DIRECTORY/ctl`` (UNIX stream), sends a request that names its
data socket (UNIX datagram), and is answered with the name of the switch's. From then on
each datagram is one frame, and end of file on the stream means that the other side is
gone. Integers are in native byte order: both sides are on one machine.

Source: the behaviour of Debian's vde_switch 2.3.2 and vde_plug 4.0.1.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from aioioth.errors import ConfigurationError

__all__ = [
    "MAX_PORT",
    "MAX_REQUEST",
    "REPLY_SIZE",
    "SUN_PATH_SIZE",
    "Request",
    "may_be_address",
    "pack_address",
    "pack_request",
    "unpack_address",
    "unpack_request",
]

_MAGIC = 0xFEEDFACE
_VERSION = 3
_NEW_CONTROL = 0
_NEW_PORT0 = 1
_ADDRESS = struct.Struct("=H108s")  # sockaddr_un
_REQUEST = struct.Struct(f"=III{_ADDRESS.size}s")
_BEGINNING = struct.pack("=II", _MAGIC, _VERSION)
# The switch reads the whole request into 256 bytes.
_MAX_DESCRIPTION = 127

MAX_REQUEST = 256
REPLY_SIZE = _ADDRESS.size
MAX_PORT = (1 << 24) - 1
SUN_PATH_SIZE = 108


def pack_address(path: bytes) -> bytes:
    """Return the ``sockaddr_un`` of a path, or of an abstract name (leading NUL).

    Raises:
        ConfigurationError: The path has more than 107 bytes.
    """
    if len(path) > SUN_PATH_SIZE or (len(path) == SUN_PATH_SIZE and path[0]):
        msg = f"a socket's path may have {SUN_PATH_SIZE - 1} bytes: {path!r}"
        raise ConfigurationError(msg)
    return _ADDRESS.pack(socket.AF_UNIX, path)


def may_be_address(beginning: bytes) -> bool:
    """Tell whether what came so far can become an answer."""
    return beginning[:2] == _ADDRESS.pack(socket.AF_UNIX, b"")[: len(beginning[:2])]


def unpack_address(data: bytes) -> bytes:
    """Return the path in a ``sockaddr_un``; an abstract name keeps all its NULs.

    Raises:
        ValueError: It is no UNIX address of 110 bytes.
    """
    if len(data) != _ADDRESS.size:
        msg = f"an address of {len(data)} bytes; expected {_ADDRESS.size}"
        raise ValueError(msg)
    family, path = _ADDRESS.unpack(data)
    if family != socket.AF_UNIX:
        msg = f"an address of family {family}; expected {socket.AF_UNIX}"
        raise ValueError(msg)
    return bytes(path) if path[0] == 0 else bytes(path).split(b"\0")[0]


def pack_request(data_address: bytes, *, port: int | None, description: str) -> bytes:
    """Return a request to be connected to a port.

    Args:
        data_address: Path or abstract name of the client's data socket.
        port: Number of the port; None for any free one, 0 for the management port.
        description: Shown by the switch's ``port/print``; cut off at 127 bytes.
    """
    kind = _NEW_PORT0 if port == 0 else _NEW_CONTROL | (port or 0) << 8
    head = _REQUEST.pack(_MAGIC, _VERSION, kind, pack_address(data_address))
    return head + description.encode()[:_MAX_DESCRIPTION]


@dataclass(frozen=True)
class Request:
    """What a client asks for.

    Attributes:
        data_address: Path or abstract name (leading NUL) of the client's data socket.
        port: Number of the port; None for any free one, 0 for the management port.
        description: Who says to be there; printable.
    """

    data_address: bytes
    port: int | None
    description: str


def unpack_request(data: bytes) -> Request | None:
    """Return the request that the first bytes of a client are.

    It does not tell its length: what has arrived of the description, with what comes
    before, is all of it.

    Returns:
        The request; None if there have to be more bytes.

    Raises:
        ValueError: It is no request of version 3, or none that makes sense.
    """
    if data[:8] != _BEGINNING[: len(data)]:
        msg = "no request of version 3"
        raise ValueError(msg)
    if len(data) > MAX_REQUEST:
        msg = f"more than {MAX_REQUEST} bytes"
        raise ValueError(msg)
    if len(data) < _REQUEST.size:
        return None
    _, _, kind, address = _REQUEST.unpack_from(data)
    if kind & 0xFF not in {_NEW_CONTROL, _NEW_PORT0}:
        msg = f"an unknown kind of request, {kind & 0xFF}"
        raise ValueError(msg)
    port = 0 if kind & 0xFF == _NEW_PORT0 else (kind >> 8) or None
    text = data[_REQUEST.size :].partition(b"\0")[0][:_MAX_DESCRIPTION]
    description = "".join(
        char if char.isprintable() else "?" for char in text.decode(errors="replace")
    )
    return Request(unpack_address(address), port, description)
