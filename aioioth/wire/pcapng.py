"""Capture files: blocks of the pcapng format.

A section begins with `section`, then `interface`, which is number 0; each frame after
that is a `packet`. A file may have several sections, one after the other.

Source: draft-ietf-opsawg-pcapng, sections 3 and 4. Everything is little-endian, which
the section's header says.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "INBOUND",
    "MAGIC",
    "MAX_SNAPLEN",
    "OUTBOUND",
    "interface",
    "is_block",
    "packet",
    "section",
]

# Bits 0 and 1 of epb_flags.
INBOUND, OUTBOUND = 1, 2

# What a file begins with: a section header's type, the same in both byte orders.
MAGIC = b"\n\r\r\n"

# The most that libpcap takes.
MAX_SNAPLEN = 262144

_INTERFACE, _PACKET = 1, 6
_BYTE_ORDER = 0x1A2B3C4D
_UNKNOWN_LENGTH = -1
_LINKTYPE_ETHERNET = 1
_NANOSECONDS = 9  # as a negative power of 10

_OPT_END = bytes(4)
_SHB_USERAPPL, _IF_NAME, _IF_TSRESOL, _EPB_FLAGS = 4, 2, 9, 2

# An option's value may be 65535 bytes; a name is for people.
_MAX_TEXT = 1024

_BLOCK = struct.Struct("<II")
_LENGTH = struct.Struct("<I")
_OPTION = struct.Struct("<HH")
_PACKET_HEAD = struct.Struct("<IIIIIII")
_PACKET_TAIL = struct.Struct("<HHI4sI")
_SMALLEST = 12


def section() -> bytes:
    """Return the block that begins a section: interfaces are numbered anew."""
    fixed = struct.pack("<IHHq", _BYTE_ORDER, 1, 0, _UNKNOWN_LENGTH)
    options = _option(_SHB_USERAPPL, b"aioioth")
    return _block(int.from_bytes(MAGIC, "little"), fixed + options + _OPT_END)


def interface(name: str, *, snaplen: int) -> bytes:
    """Return the block that describes an Ethernet interface, times in nanoseconds.

    Args:
        name: Shown to people; cut off if it is very long.
        snaplen: Bytes of a frame that are kept at most.
    """
    text = name.encode("utf-8", "replace")[:_MAX_TEXT]
    text = text.decode("utf-8", "ignore").encode()  # no half character at its end
    fixed = struct.pack("<HHI", _LINKTYPE_ETHERNET, 0, snaplen)
    options = _option(_IF_NAME, text) + _option(_IF_TSRESOL, bytes([_NANOSECONDS]))
    return _block(_INTERFACE, fixed + options + _OPT_END)


def packet(frame: Buffer, *, time_ns: int, direction: int, snaplen: int) -> bytes:
    """Return the block of a frame of interface 0.

    Args:
        frame: The whole frame.
        time_ns: Since 1970.
        direction: INBOUND or OUTBOUND.
        snaplen: What is longer is cut off.
    """
    data = memoryview(frame)
    kept = min(data.nbytes, snaplen)
    padding = -kept % 4
    length = _PACKET_HEAD.size + kept + padding + _PACKET_TAIL.size
    time_high, time_low = time_ns >> 32 & 0xFFFFFFFF, time_ns & 0xFFFFFFFF
    head = _PACKET_HEAD.pack(_PACKET, length, 0, time_high, time_low, kept, data.nbytes)
    tail = _PACKET_TAIL.pack(_EPB_FLAGS, 4, direction, _OPT_END, length)
    return b"".join((head, data[:kept], bytes(padding), tail))


def is_block(head: bytes, length: int) -> bool:
    """Whether a block of that length may begin with these 8 bytes."""
    if len(head) != _BLOCK.size or length < _SMALLEST or length % 4:
        return False
    told: int = _BLOCK.unpack(head)[1]
    return told == length


def _option(code: int, value: bytes) -> bytes:
    return _OPTION.pack(code, len(value)) + value + bytes(-len(value) % 4)


def _block(kind: int, body: bytes) -> bytes:
    length = _BLOCK.size + len(body) + _LENGTH.size
    return _BLOCK.pack(kind, length) + body + _LENGTH.pack(length)
