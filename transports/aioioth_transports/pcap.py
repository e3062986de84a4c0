"""``pcap://IFACE``: the network behind an interface of the host, without libpcap.

What comes in through the interface comes to the stack, whomever it is for
(promiscuous), and what the stack sends goes out through it. The host itself is not
there: what it sends through the interface is not shown, and what the stack sends goes
to the wire, not up to the host. So for two stacks on one interface. Use ``macvtap://``
for several stacks on one link, and ``tap://`` to reach the host.

It takes root (CAP_NET_RAW).

Frames are as they were on the wire: VLAN tags that the kernel has put aside are put
back, checksums that were left to the hardware are computed, and what was joined to one
long frame (GRO, TSO) is cut again.

Source: packet(7); <linux/if_packet.h>, <linux/virtio_net.h>, Linux 6.1;
net/packet/af_packet.c.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections import Counter, deque
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, Self

from aioioth.errors import BrokenTransportError
from aioioth.vnl import parse_slash
from aioioth_transports._sockets import (
    PACKET_MR_PROMISC,
    SOL_PACKET,
    interface_index,
    interface_mtu,
    interface_name,
    join,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from typing_extensions import Buffer

PACKET_STATISTICS = 6
PACKET_AUXDATA = 8
PACKET_VNET_HDR = 15
PACKET_IGNORE_OUTGOING = 23
TP_STATUS_VLAN_VALID = 1 << 4
TP_STATUS_VLAN_TPID_VALID = 1 << 6
ETH_P_ALL = 3
ETH_P_IP = 0x0800
ETH_P_IPV6 = 0x86DD
ETH_P_8021Q = 0x8100
ETH_P_8021AD = 0x88A8
ARPHRD_ETHER = 1

_AUXDATA = struct.Struct("=IIIHHHH")
_STATISTICS = struct.Struct("=II")
_STATUS = struct.Struct("=I")
_TOLD_SIZE = socket.CMSG_SPACE(_AUXDATA.size)

# About 900 full-sized frames with the kernel's own overhead, if the system gives that
# much.
_QUEUE_BYTES = 1 << 21

VIRTIO_NET_HDR_F_NEEDS_CSUM = 1
VIRTIO_NET_HDR_GSO_TCPV4 = 1
VIRTIO_NET_HDR_GSO_TCPV6 = 4
VIRTIO_NET_HDR_GSO_UDP_L4 = 5
VIRTIO_NET_HDR_GSO_ECN = 0x80

_VNET_HDR = struct.Struct("=BBHHHH")
_NO_OFFLOAD = bytes(_VNET_HDR.size)

# What a protocol's frames are called when they are joined, and where its checksum is.
_JOINED: dict[int, tuple[int, ...]] = {
    socket.IPPROTO_TCP: (VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6),
    socket.IPPROTO_UDP: (VIRTIO_NET_HDR_GSO_UDP_L4,),
}
_MIN_HEADER: dict[int, int] = {socket.IPPROTO_TCP: 20, socket.IPPROTO_UDP: 8}
_CHECKSUM: dict[int, int] = {socket.IPPROTO_TCP: 16, socket.IPPROTO_UDP: 6}

_TCP_FIN_PSH, _TCP_CWR = 0x09, 0x80


class PcapTransport:
    """See `aioioth.abc.FrameTransport`.

    Args:
        address: Name of the interface.

    Raises:
        VnlError: It cannot be the name of one.
    """

    def __init__(self, address: str) -> None:
        parsed = parse_slash(address)
        self._name = interface_name(parsed, example="pcap://eth0")
        self._vnl = f"pcap://{address}"

    async def open(self, label: str) -> PcapPlug:
        """Listen on the interface; see `aioioth.abc.FrameTransport.open`.

        Raises:
            BrokenTransportError: It is not there, down, not Ethernet, or not permitted.
        """
        with ExitStack() as undo:
            try:
                sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
                undo.callback(sock.close)
                mtu = self._listen(sock)
                plug = PcapPlug(sock, mtu)
            except OSError as error:
                raise self._explain(error) from error
            undo.pop_all()
        return plug

    def _listen(self, sock: socket.socket) -> int:
        """Make it hear all that comes in; return the MTU."""
        sock.setblocking(False)
        sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _QUEUE_BYTES)
        mtu = interface_mtu(sock, self._name)
        join(sock, interface_index(sock, self._name), PACKET_MR_PROMISC)
        # Last: from here on frames come.
        sock.bind((self._name, ETH_P_ALL))
        if sock.getsockname()[3] != ARPHRD_ETHER:
            raise OSError(errno.EPROTOTYPE, os.strerror(errno.EPROTOTYPE))
        if down := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(down, os.strerror(down))
        return mtu

    def _explain(self, error: OSError) -> BrokenTransportError:
        name = self._name
        reason = {
            errno.EPERM: "capturing takes root, or CAP_NET_RAW (see 'setcap')",
            errno.ENODEV: f"there is no interface {name}: see 'ip link'",
            errno.ENETDOWN: f"{name} is down: 'ip link set {name} up'",
            errno.EPROTOTYPE: f"{name} is no Ethernet interface",
        }.get(error.errno or 0, f"{name}: {error.strerror or error}")
        return BrokenTransportError(self._vnl, reason, errno=error.errno)


class PcapPlug:
    """See `aioioth.abc.Plug`.

    Measured, a frame costs 2.2 us more than a bare `socket.recv_into`, for what the
    kernel tells besides.

    Args:
        sock: Packet socket with PACKET_VNET_HDR and PACKET_AUXDATA. Taken over.
        mtu: The interface's.
    """

    def __init__(self, sock: socket.socket, mtu: int) -> None:
        self.mtu = mtu
        self._sock = sock
        self._lost: Counter[str] = Counter()
        self._header = bytearray(_VNET_HDR.size)
        self._receive = sock.recvmsg_into
        self._send = sock.sendmsg
        # The rest of a long frame that was cut; the eventfd is readable while there is.
        self._rest: deque[bytearray] = deque()
        with ExitStack() as undo:
            self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            undo.callback(os.close, self._wake)
            # Both in one descriptor, which is never in error. The socket is when the
            # interface goes down, and libuv stops watching it then: see trouble_with.
            self._ready = select.epoll()
            undo.pop_all()
        self._ready.register(sock, select.EPOLLIN)
        self._ready.register(self._wake, select.EPOLLIN)

    @property
    def drops(self) -> Mapping[str, int]:
        """Frames that the kernel had no room for, or that could not be cut."""
        with suppress(OSError):  # closed
            # The kernel counts from 0 again after each look.
            size = _STATISTICS.size
            answer = self._sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, size)
            self._lost["queue full"] += _STATISTICS.unpack(answer)[1]
        return +self._lost

    def fileno(self) -> int:
        """See `aioioth.abc.Plug.fileno`; -1 when closed."""
        return -1 if self._ready.closed else self._ready.fileno()

    def hangup_fileno(self) -> int:
        """Return -1: `recv_into` tells."""
        return -1

    def room_fileno(self) -> int:
        """See `aioioth.abc.SignalsRoom.room_fileno`; -1 when closed."""
        return self._sock.fileno()

    def recv_into(self, buffer: memoryview, /) -> int:
        """See `aioioth.abc.Plug.recv_into`; ENETDOWN when the interface went down."""
        if self._rest:
            return self._next(buffer)
        header = self._header
        try:
            length, told, flags, _ = self._receive((header, buffer), _TOLD_SIZE)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # Joined in a way that PACKET_VNET_HDR has no word for.
            self._drop("offloaded")
        length -= _VNET_HDR.size
        status = _STATUS.unpack_from(told[0][2])[0]
        if flags & socket.MSG_TRUNC:
            self._drop("too long")
        if (
            status & TP_STATUS_VLAN_VALID
            or header[0] & VIRTIO_NET_HDR_F_NEEDS_CSUM
            or header[1]
        ):
            self._settle(bytearray(buffer[:length]), told[0][2])
            return self._next(buffer)
        return length

    def send(self, frame: Buffer, /) -> int:
        """See `aioioth.abc.Plug.send`."""
        return self._send((_NO_OFFLOAD, frame)) - _VNET_HDR.size

    def close(self) -> None:
        """See `aioioth.abc.Plug.close`."""
        if self._ready.closed:
            return
        _ = self.drops  # what was lost until now
        self._ready.close()
        os.close(self._wake)
        self._rest.clear()
        self._sock.close()

    def _settle(self, frame: bytearray, auxdata: bytes) -> None:
        """Queue what a frame was on the wire."""
        tag = _tag(auxdata)
        frame[12:12] = tag
        try:
            self._rest.extend(Offload.parse(self._header, len(tag)).undo(frame))
        except ValueError:
            self._drop("offloaded")
        os.eventfd_write(self._wake, 1)

    def _next(self, buffer: memoryview) -> int:
        frame = self._rest.popleft()
        if not self._rest:
            os.eventfd_read(self._wake)
        length = len(frame)
        buffer[:length] = frame
        return length

    def _drop(self, cause: str) -> NoReturn:
        """Count a lost frame; the next one wakes the loop in its next turn."""
        self._lost[cause] += 1
        raise BlockingIOError(errno.EAGAIN, cause) from None


def _tag(auxdata: bytes) -> bytes:
    """Return the VLAN tag that the kernel has put aside."""
    status, _, _, _, _, tci, tpid = _AUXDATA.unpack_from(auxdata)
    if not status & TP_STATUS_VLAN_VALID:
        return b""
    if not status & TP_STATUS_VLAN_TPID_VALID:
        tpid = ETH_P_8021Q
    return struct.pack("!HH", tpid, tci)


@dataclass(frozen=True)
class Offload:
    """What was left to the hardware, or done by it, for one frame.

    Attributes:
        partial: Whether the checksum has to be computed: what stands in its place is
            the pseudo header's.
        kind: VIRTIO_NET_HDR_GSO_*: 0, or of which kind the frames were that are joined.
        size: Payload of each of them.
        start: Where the TCP or UDP header begins, and the checksum's part of the frame.
        place: Where the checksum is in it.
    """

    partial: bool
    kind: int
    size: int
    start: int
    place: int

    @classmethod
    def parse(cls, header: Buffer, tag: int) -> Self:
        """Read a struct virtio_net_hdr.

        Args:
            header: In the machine's byte order.
            tag: Bytes that were inserted in the frame since.
        """
        flags, kind, _, size, start, offset = _VNET_HDR.unpack(header)
        return cls(
            bool(flags & VIRTIO_NET_HDR_F_NEEDS_CSUM),
            kind & ~VIRTIO_NET_HDR_GSO_ECN,
            size,
            start + tag,
            start + tag + offset,
        )

    def undo(self, frame: bytearray) -> list[bytearray]:
        """Return the frames that this one is on the wire.

        Raises:
            ValueError: It cannot be told.
        """
        if self.kind:
            return list(self._cut(frame))
        if self.partial:
            if not self.start <= self.place <= len(frame) - 2:
                raise ValueError(self)
            _put(frame, self.place, _checksum(frame[self.start :]))
        return [frame]

    def _cut(self, frame: bytearray) -> Iterator[bytearray]:
        ip, start, protocol = _find_headers(frame)
        if self.kind not in _JOINED[protocol] or (self.partial and start != self.start):
            raise ValueError(self)  # the frames of a tunnel, for example
        header = 8
        if protocol == socket.IPPROTO_TCP:
            header = (frame[start + 12] >> 4) * 4 if start + 12 < len(frame) else 0
        payload = start + header
        if header < _MIN_HEADER[protocol] or payload >= len(frame) or not self.size:
            raise ValueError(self)
        for number, at in enumerate(range(payload, len(frame), self.size)):
            cut = frame[:payload] + frame[at : at + self.size]
            _finish_ip(cut, ip, number)
            if protocol == socket.IPPROTO_TCP:
                last = at + self.size >= len(frame)
                _finish_tcp(cut, start, at - payload, last=last)
            else:
                _put(cut, start + 4, len(cut) - start)
            _finish_checksum(cut, ip, start, protocol)
            yield cut


def _find_headers(frame: bytearray) -> tuple[int, int, int]:
    """Return where the IP header is and what follows it, and which protocol that is.

    Raises:
        ValueError: It is neither TCP nor UDP.
    """
    at = 12
    while int.from_bytes(frame[at : at + 2]) in {ETH_P_8021Q, ETH_P_8021AD}:
        at += 4
    ethertype, ip = int.from_bytes(frame[at : at + 2]), at + 2
    if len(frame) < ip + 28:
        raise ValueError(ethertype)
    if ethertype == ETH_P_IP:
        protocol, start = frame[ip + 9], ip + max(20, (frame[ip] & 15) * 4)
    elif ethertype == ETH_P_IPV6:
        protocol, start = frame[ip + 6], ip + 40
    else:
        raise ValueError(ethertype)
    if protocol not in _JOINED:
        raise ValueError(protocol)
    return ip, start, protocol


def _finish_ip(cut: bytearray, ip: int, number: int) -> None:
    """Set the length, and what goes with it in IPv4 (RFC 791)."""
    if cut[ip] >> 4 == 6:
        _put(cut, ip + 4, len(cut) - ip - 40)
        return
    _put(cut, ip + 2, len(cut) - ip)
    _put(cut, ip + 4, int.from_bytes(cut[ip + 4 : ip + 6]) + number)
    _put(cut, ip + 10, 0)
    _put(cut, ip + 10, _checksum(cut[ip : ip + max(20, (cut[ip] & 15) * 4)]))


def _finish_tcp(cut: bytearray, start: int, before: int, *, last: bool) -> None:
    """Set the sequence number and the flags (RFC 9293, RFC 3168)."""
    sequence = int.from_bytes(cut[start + 4 : start + 8]) + before
    cut[start + 4 : start + 8] = (sequence & 0xFFFFFFFF).to_bytes(4)
    if not last:
        cut[start + 13] &= ~_TCP_FIN_PSH & 0xFF
    if before:
        cut[start + 13] &= ~_TCP_CWR & 0xFF


def _finish_checksum(cut: bytearray, ip: int, start: int, protocol: int) -> None:
    """Compute the checksum with the pseudo header (RFC 9293, 768 and 8200)."""
    place = start + _CHECKSUM[protocol]
    _put(cut, place, 0)
    addresses = cut[ip + 8 : ip + 40] if cut[ip] >> 4 == 6 else cut[ip + 12 : ip + 20]
    length = len(cut) - start
    pseudo = addresses + length.to_bytes(4) + protocol.to_bytes(4)
    _put(cut, place, _checksum(pseudo + cut[start:]))


def _put(frame: bytearray, at: int, number: int) -> None:
    frame[at : at + 2] = (number & 0xFFFF).to_bytes(2)


def _checksum(data: bytes | bytearray) -> int:
    """Return the Internet checksum (RFC 1071).

    2**16 is 1 modulo 2**16 - 1, so the sum with its carries is a remainder: measured,
    1500 bytes take 2 us.
    """
    return 0xFFFF - int.from_bytes(data + bytes(len(data) & 1)) % 0xFFFF
