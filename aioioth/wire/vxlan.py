"""The VXLAN header, which stands before each frame in a UDP datagram.

Eight bytes: flags (0x08: there is a network identifier), 24 reserved bits, the VXLAN
network identifier (VNI) in 24 bits, and 8 reserved ones. vxvde uses the same header;
alone in a datagram it says goodbye there.

Source: RFC 7348 section 5; the behaviour of Debian's vde_plug 4.0.1 for vxvde.
"""

from __future__ import annotations

import struct

from aioioth.errors import ConfigurationError

__all__ = ["HEADER_SIZE", "MAX_VNI", "pack_header", "unpack_header"]

_HEADER = struct.Struct("!II")
_HAS_VNI = 0x08000000

HEADER_SIZE = _HEADER.size
MAX_VNI = (1 << 24) - 1


def pack_header(vni: int) -> bytes:
    """Return the header of a network.

    Raises:
        ConfigurationError: The identifier does not fit 24 bits.
    """
    if not 0 <= vni <= MAX_VNI:
        msg = f"a VXLAN network identifier is a number from 0 to {MAX_VNI}, not {vni}"
        raise ConfigurationError(msg)
    return _HEADER.pack(_HAS_VNI, vni << 8)


def unpack_header(datagram: bytes) -> int:
    """Return the network identifier of a datagram; reserved bits are ignored.

    Raises:
        ValueError: It is too short, or has no identifier.
    """
    if len(datagram) < HEADER_SIZE:
        msg = f"{len(datagram)} bytes are no VXLAN header; expected {HEADER_SIZE}"
        raise ValueError(msg)
    flags, vni = _HEADER.unpack_from(datagram)
    if not flags & _HAS_VNI:
        msg = f"a VXLAN header without an identifier: flags {flags >> 24:#04x}"
        raise ValueError(msg)
    return int(vni >> 8)
