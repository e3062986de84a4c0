"""The sockets of a DHCPv4 client: it has no address yet, and the kernel wants one.

Source: packet(7), udp(7), ip(7); <linux/if_packet.h>, <linux/filter.h>, Linux 6.1.
"""

from __future__ import annotations

import array
import socket
import struct
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from aioioth._receiver import Receiver
from aioioth.wire.dhcp4 import CLIENT_PORT, SERVER_PORT
from aioioth.wire.udpip import UdpDatagram

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioioth._autoconf.ground import Ground
    from aioioth._receiver import Datagram

    Instruction = tuple[int, int, int, int]

_ETH_P_IP, _ETH_P_ARP = 0x0800, 0x0806
_EVERYBODY = IPv4Address(0xFFFFFFFF)
_EVERYBODYS_MAC = b"\xff" * 6

_PACKET_OTHERHOST = 3  # also what has a VLAN's tag: it is on another network
_SOL_PACKET = 263
_PACKET_AUXDATA = 8
# The checksum is not there yet, or the hardware has looked at it already.
_TP_STATUS_CSUMNOTREADY, _TP_STATUS_CSUM_VALID = 1 << 3, 1 << 7
_AUXDATA = struct.Struct("=IIIHHHH")

_SO_ATTACH_FILTER = 26
_INSTRUCTION = struct.Struct("=HBBI")
_PROGRAM = struct.Struct("@HP")

# Classic BPF: load a byte or a half word at a place, or behind a header; compare.
_LDB, _LDH, _LDX_HEADER, _LDH_BEHIND = 0x30, 0x28, 0xB1, 0x48
_JEQ, _JSET, _RET = 0x15, 0x45, 0x06
_ALL = 0xFFFFFFFF

_NOTHING: tuple[Instruction, ...] = ((_RET, 0, 0, 0),)
# The kernel looks at what comes first: a busy interface costs us nothing.
_OUR_PORT: tuple[Instruction, ...] = (
    (_LDB, 0, 0, 9),  # the protocol
    (_JEQ, 0, 6, socket.IPPROTO_UDP),
    (_LDH, 0, 0, 6),  # of a fragment?
    (_JSET, 4, 0, 0x3FFF),
    (_LDX_HEADER, 0, 0, 0),
    (_LDH_BEHIND, 0, 0, 2),  # the destination port
    (_JEQ, 0, 1, CLIENT_PORT),
    (_RET, 0, 0, _ALL),
    (_RET, 0, 0, 0),
)


class Sockets:
    """Sends and receives for one client; opens what is needed when it is needed.

    Args:
        ground: The interface.
        take: Called with each datagram to a DHCP client from a DHCP server's port, and
            the MAC address that it came from; must not raise.
        hear: Called with each ARP packet while `probe` is in use; must not raise.
    """

    def __init__(
        self,
        ground: Ground,
        take: Callable[[bytes, bytes], None],
        hear: Callable[[bytes], None],
    ) -> None:
        self._ground = ground
        self._take = take
        self._hear = hear
        self._packets: Receiver | None = None
        self._arp: Receiver | None = None
        self._udp: Receiver | None = None

    def listen(self, *, on: bool) -> None:
        """Hear what servers say, or do not any more.

        Raises:
            OSError: There is no socket to be had.
        """
        if on and self._packets is None:
            sock = self._packet_socket(_ETH_P_IP, _OUR_PORT)
            self._packets = Receiver(sock, self._on_packet)
        elif not on and self._packets is not None:
            self._packets.close()
            self._packets = None
            self._stop_udp()

    def hush(self) -> None:
        """Hear no ARP any more."""
        if self._arp is not None:
            self._arp.close()
            self._arp = None

    def close(self) -> None:
        """Close them all. Idempotent."""
        self.listen(on=False)
        self.hush()

    def broadcast(self, message: bytes, source: IPv4Address) -> None:
        """Send a message to every server on the link, and be ready for the answer.

        Args:
            message: Of DHCP.
            source: Our address; 0.0.0.0 if we have none.

        Raises:
            OSError: The interface is down, or gone.
        """
        self.listen(on=True)
        assert self._packets is not None
        packet = _to_server(message, source, _EVERYBODY)
        self._send(self._packets.socket, packet, _ETH_P_IP, _EVERYBODYS_MAC)

    def unicast(self, message: bytes, source: IPv4Address, server: IPv4Address) -> None:
        """Send a message from an address of ours to one server, by the kernel's UDP.

        Raises:
            OSError: It is no address of ours (any more), there is no way to the server,
                or the interface is down.
        """
        self.listen(on=True)
        self._stop_udp()
        sock = self._ground.socket(socket.AF_INET, socket.SOCK_DGRAM, 0)
        # The answers are the packet socket's: a refusal is sent to everybody, and does
        # not come to a socket that has one address. But if there were none, the kernel
        # would tell the server that its answers reach nobody.
        self._udp = Receiver(sock, lambda _: None)
        _attach(sock, _NOTHING)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        device = self._ground.dev.encode()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
        sock.bind((str(source), CLIENT_PORT))
        sock.sendto(message, (str(server), SERVER_PORT))

    def leave(
        self, message: bytes, source: IPv4Address, server: IPv4Address, mac: bytes
    ) -> None:
        """Send a last message to one server; nobody will be there to send it again.

        Args:
            message: Of DHCP.
            source: Our address.
            server: His.
            mac: Where his answers came from: the kernel would have to ask for it first,
                and there may be no time for that.

        Raises:
            OSError: The interface is down, or gone.
        """
        with self._packet_socket(_ETH_P_IP, _NOTHING) as sock:
            self._send(sock, _to_server(message, source, server), _ETH_P_IP, mac)

    def probe(self, packet: bytes) -> None:
        """Ask everybody on the link by ARP, and hear what they say from now on.

        Raises:
            OSError: There is no socket to be had, or the interface is down or gone.
        """
        if self._arp is None:
            sock = self._packet_socket(_ETH_P_ARP)
            self._arp = Receiver(sock, self._on_arp)
        self._send(self._arp.socket, packet, _ETH_P_ARP, _EVERYBODYS_MAC)

    def announce(self, packet: bytes) -> None:
        """Tell everybody on the link by ARP, and hear nothing.

        Raises:
            OSError: There is no socket to be had, or the interface is down or gone.
        """
        with self._packet_socket(_ETH_P_ARP, _NOTHING) as sock:
            self._send(sock, packet, _ETH_P_ARP, _EVERYBODYS_MAC)

    def _stop_udp(self) -> None:
        if self._udp is not None:
            self._udp.close()
            self._udp = None

    def _packet_socket(
        self, protocol: int, program: Sequence[Instruction] = ()
    ) -> socket.socket:
        # Nothing comes before it is bound: it has no protocol.
        sock = self._ground.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        try:
            if program:
                _attach(sock, program)
            sock.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
            sock.bind((self._ground.dev, protocol))
        except BaseException:
            sock.close()
            raise
        return sock

    def _send(
        self, sock: socket.socket, packet: bytes, protocol: int, mac: bytes
    ) -> None:
        sock.sendto(packet, (self._ground.dev, protocol, 0, 0, mac))

    def _on_packet(self, datagram: Datagram) -> None:
        _, _, how, _, mac = datagram.source
        if how == _PACKET_OTHERHOST:
            return
        try:
            found = UdpDatagram.parse(datagram.data, checked=_is_checked(datagram))
        except ValueError:
            return
        if found.source_port == SERVER_PORT:
            self._take(found.data, mac)

    def _on_arp(self, datagram: Datagram) -> None:
        if datagram.source[2] != _PACKET_OTHERHOST:
            self._hear(datagram.data)


def _to_server(message: bytes, source: IPv4Address, server: IPv4Address) -> bytes:
    return UdpDatagram(source, CLIENT_PORT, server, SERVER_PORT, message).pack()


def _is_checked(datagram: Datagram) -> bool:
    """Whether the kernel says that UDP's checksum is none of our business.

    What comes from this machine, over a bridge or a pump that leaves such work to be
    done, has only a part of it.
    """
    for level, kind, data in datagram.ancillary:
        if (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA):
            status: int = _AUXDATA.unpack_from(data)[0]
            return bool(status & (_TP_STATUS_CSUMNOTREADY | _TP_STATUS_CSUM_VALID))
    return False


def _attach(sock: socket.socket, program: Sequence[Instruction]) -> None:
    """Have the kernel run a program over each packet that comes to a socket."""
    code = array.array("B", b"".join(_INSTRUCTION.pack(*each) for each in program))
    where = _PROGRAM.pack(len(program), code.buffer_info()[0])
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, where)
