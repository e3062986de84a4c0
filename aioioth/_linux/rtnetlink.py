"""Netlink messages, for the few questions that pyroute2 would be too much for.

Source: netlink(7), rtnetlink(7); <linux/netlink.h>, <linux/rtnetlink.h>, Linux 6.1.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x1
NLM_F_DUMP = 0x300

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")


def request(kind: int, body: bytes, flags: int = 0) -> bytes:
    """Return a message that asks something."""
    return (
        _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | flags, 1, 0) + body
    )


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Return type and body of each message in what was received at once.

    Raises:
        OSError: The kernel refused.
    """
    at = 0
    while at < len(data):
        size, kind, *_ = _HEADER.unpack_from(data, at)
        body = data[at + _HEADER.size : at + size]
        if kind == NLMSG_ERROR:
            code = -_ERROR.unpack_from(body)[0]
            raise OSError(code, os.strerror(code))
        yield kind, body
        at += _aligned(size)


def attributes(data: bytes) -> dict[int, bytes]:
    """Return the attributes that follow the fixed part of a body."""
    found = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        found[kind] = data[at + _ATTRIBUTE.size : at + size]
        at += max(_ATTRIBUTE.size, _aligned(size))
    return found


def _aligned(size: int) -> int:
    return (size + 3) & ~3
