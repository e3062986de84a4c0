"""IPv4 and UDP headers, against the kernel's own and by hand."""

from __future__ import annotations

import socket
from contextlib import suppress
from ipaddress import IPv4Address

import pytest
from hypothesis import given, strategies as st

from aioioth.wire.arp import ArpPacket
from aioioth.wire.udpip import UdpDatagram

ADDRESSES = st.ip_addresses(v=4)
PORTS = st.integers(0, 65535)
DATAGRAMS = st.builds(
    UdpDatagram, ADDRESSES, PORTS, ADDRESSES, PORTS, st.binary(max_size=600)
)

SAMPLE = UdpDatagram(IPv4Address("10.0.0.1"), 67, IPv4Address("10.0.0.2"), 68, b"hello")


def fixed(packet: bytes) -> bytes:
    """Return a packet with a right checksum in its IPv4 header."""
    size = (packet[0] & 15) * 4
    head = bytearray(packet[:size])
    head[10:12] = bytes(2)
    total = sum(int.from_bytes(head[at : at + 2], "big") for at in range(0, size, 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    head[10:12] = (0xFFFF - total).to_bytes(2, "big")
    return bytes(head) + packet[size:]


def changed(packet: bytes, at: int, value: bytes) -> bytes:
    return fixed(packet[:at] + value + packet[at + len(value) :])


@given(DATAGRAMS)
def test_to_and_fro(datagram: UdpDatagram) -> None:
    assert UdpDatagram.parse(datagram.pack()) == datagram
    assert UdpDatagram.parse(datagram.pack() + b"padding") == datagram


def test_the_bytes() -> None:
    expected = (
        "45000021 00000000 401166ca 0a000001 0a000002"  # RFC 791
        "0043 0044 000d a778 68656c6c6f"  # RFC 768
    )
    assert SAMPLE.pack() == bytes.fromhex(expected)


def test_the_kernel_takes_it() -> None:
    """Through a raw socket, which checks nothing, to a UDP socket, which does."""
    here = IPv4Address("127.0.0.1")
    try:
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    except PermissionError:
        pytest.skip("raw sockets need root")
    with raw, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.bind((str(here), 0))
        port = sock.getsockname()[1]
        raw.sendto(UdpDatagram(here, 67, here, port, b"text").pack(), (str(here), 0))
        assert sock.recvfrom(100) == (b"text", (str(here), 67))


def test_options_in_the_header() -> None:
    packet = SAMPLE.pack()
    options = bytes([1, 1, 1, 0])
    longer = changed(packet[:20] + options + packet[20:], 0, b"\x46")
    longer = changed(longer, 2, len(longer).to_bytes(2, "big"))
    assert UdpDatagram.parse(longer) == SAMPLE


def test_no_checksum() -> None:
    packet = SAMPLE.pack()
    assert UdpDatagram.parse(packet[:26] + bytes(2) + packet[28:]) == SAMPLE


def test_a_checksum_that_is_not_computed_yet() -> None:
    packet = SAMPLE.pack()
    partial = packet[:26] + b"\x12\x34" + packet[28:]
    with pytest.raises(ValueError, match="UDP checksum"):
        UdpDatagram.parse(partial)
    assert UdpDatagram.parse(partial, checked=True) == SAMPLE


def test_a_checksum_of_zero_is_sent_as_all_ones() -> None:
    # What is left to make the sum all ones.
    for number in range(65536):
        datagram = UdpDatagram(
            SAMPLE.source, 67, SAMPLE.destination, 68, number.to_bytes(2, "big")
        )
        if datagram.pack()[26:28] == b"\xff\xff":
            break
    else:
        pytest.fail("no payload has that checksum")
    assert UdpDatagram.parse(datagram.pack()) == datagram


@pytest.mark.parametrize(
    ("at", "value", "complaint"),
    [
        (0, b"\x65", "version"),
        (0, b"\x44", "version or length"),
        (2, b"\x00\x10", "length"),
        (2, b"\xff\xff", "length"),
        (2, b"\x00\x1b", "too short for a UDP"),
        (6, b"\x20\x00", "fragment"),
        (6, b"\x00\x01", "fragment"),
        (9, b"\x06", "not UDP"),
        (24, b"\x00\x07", "UDP datagram of 7"),
        (24, b"\x00\x0e", "UDP datagram of 14"),
        (29, b"E", "UDP checksum"),
    ],
)
def test_what_is_refused(at: int, value: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        UdpDatagram.parse(changed(SAMPLE.pack(), at, value))


def test_a_damaged_header() -> None:
    packet = SAMPLE.pack()
    with pytest.raises(ValueError, match="checksum"):
        UdpDatagram.parse(packet[:8] + b"\x01" + packet[9:])


def test_too_much() -> None:
    with pytest.raises(ValueError, match="too many"):
        UdpDatagram(SAMPLE.source, 1, SAMPLE.source, 2, bytes(65508)).pack()


@given(st.binary(max_size=100) | DATAGRAMS.map(UdpDatagram.pack), st.data())
def test_anything_is_parsed_or_refused(data: bytes, draw: st.DataObject) -> None:
    if data:
        at = draw.draw(st.integers(0, len(data) - 1))
        data = data[:at] + draw.draw(st.binary(max_size=4)) + data[at + 1 :]
    for packet in {data, fixed(data.ljust(60, b"\0"))}:
        with suppress(ValueError):
            UdpDatagram.parse(packet, checked=True)


# ARP

MACS = st.binary(min_size=6, max_size=6)
OURS, THEIRS = b"\2\0\0\0\0\1", b"\2\0\0\0\0\2"
WANTED, OTHER = IPv4Address("10.0.0.5"), IPv4Address("10.0.0.6")


@given(st.builds(ArpPacket, st.integers(0, 65535), MACS, ADDRESSES, ADDRESSES))
def test_arp_to_and_fro(packet: ArpPacket) -> None:
    assert ArpPacket.parse(packet.pack() + bytes(18)) == packet


def test_the_bytes_of_a_probe() -> None:
    expected = (
        "0001 0800 06 04 0001 020000000001 00000000 000000000000 0a000005"  # RFC 826
    )
    assert ArpPacket.probe(OURS, WANTED).pack() == bytes.fromhex(expected)


@given(st.binary(max_size=40))
def test_any_arp_is_parsed_or_refused(data: bytes) -> None:
    with suppress(ValueError):
        ArpPacket.parse(data)


@pytest.mark.parametrize("at", [1, 3, 4, 5])
def test_arp_of_something_else(at: int) -> None:
    packet = bytearray(ArpPacket.probe(OURS, WANTED).pack())
    packet[at] ^= 0xFF
    with pytest.raises(ValueError, match="IPv4 on Ethernet"):
        ArpPacket.parse(packet)


@pytest.mark.parametrize(
    ("packet", "claims"),
    [
        (ArpPacket(2, THEIRS, WANTED, IPv4Address(0)), True),
        (ArpPacket(1, THEIRS, WANTED, OTHER), True),
        (ArpPacket.probe(THEIRS, WANTED), True),
        (ArpPacket.probe(OURS, WANTED), False),
        (ArpPacket.probe(THEIRS, OTHER), False),
        (ArpPacket(1, THEIRS, OTHER, WANTED), False),
        (ArpPacket(2, THEIRS, OTHER, WANTED), False),
    ],
)
def test_who_has_the_address(packet: ArpPacket, claims: bool) -> None:
    assert packet.claims(WANTED, OURS) is claims
