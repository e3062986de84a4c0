"""ARP for IPv4 on Ethernet: asking whether anybody has an address, and telling who.

Source: RFC 826; RFC 5227 sections 2.1 (probes) and 2.3 (announcements).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["ArpPacket"]

_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ETHERNET, _IPV4 = 1, 0x0800
_REQUEST = 1
_NOBODY = IPv4Address(0)


@dataclass(frozen=True)
class ArpPacket:
    """Who says, or asks, who has an address.

    Attributes:
        operation: 1 for a question, 2 for an answer.
        sender_mac: 6 bytes.
        sender: His address; 0.0.0.0 in a probe.
        target: Whom he asks for, or answers.
    """

    operation: int
    sender_mac: bytes
    sender: IPv4Address
    target: IPv4Address

    @classmethod
    def probe(cls, mac: bytes, address: IPv4Address) -> Self:
        """Return the question whether anybody has an address that we want."""
        return cls(_REQUEST, mac, _NOBODY, address)

    @classmethod
    def announcement(cls, mac: bytes, address: IPv4Address) -> Self:
        """Return the question for our own address, so that all learn who has it."""
        return cls(_REQUEST, mac, address, address)

    @classmethod
    def parse(cls, packet: Buffer) -> Self:
        """Read a packet, which may be padded at its end.

        Raises:
            ValueError: It is none of IPv4 on Ethernet.
        """
        data = bytes(packet)
        if len(data) < _ARP.size:
            msg = f"{len(data)} bytes are too short for an ARP packet"
            raise ValueError(msg)
        kind, what, size, length, operation, *told = _ARP.unpack_from(data)
        if (kind, what, size, length) != (_ETHERNET, _IPV4, 6, 4):
            msg = "ARP of something else than IPv4 on Ethernet"
            raise ValueError(msg)
        mac, sender, _, target = told
        return cls(operation, mac, IPv4Address(sender), IPv4Address(target))

    def pack(self) -> bytes:
        """Return the packet's 28 bytes."""
        return _ARP.pack(
            _ETHERNET,
            _IPV4,
            6,
            4,
            self.operation,
            self.sender_mac,
            self.sender.packed,
            bytes(6),
            self.target.packed,
        )

    def claims(self, address: IPv4Address, mac: bytes) -> bool:
        """Tell whether somebody else has an address, or is about to take it.

        Args:
            address: That we want.
            mac: Ours: our own packets may come back to us.
        """
        if self.sender_mac == mac:
            return False
        probes = self.operation == _REQUEST and self.sender == _NOBODY
        return self.sender == address or (probes and self.target == address)
