from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from aioioth.wire.ethernet import EthernetHeader, Summary, summarize

A, B = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
EVERYBODY = b"\xff" * 6


def ethernet(ethertype: str, payload: str) -> bytes:
    return B + A + bytes.fromhex(ethertype) + bytes.fromhex(payload)


def ipv4(protocol: int, payload: str) -> bytes:
    length = 20 + len(bytes.fromhex(payload))
    header = f"45000000 00000000 40{protocol:02x}0000 0a000001 0a000002"
    packet = bytearray(bytes.fromhex(header + payload))
    packet[2:4] = length.to_bytes(2, "big")
    return ethernet("0800", packet.hex())


def ipv6(protocol: int, payload: str) -> bytes:
    length = len(bytes.fromhex(payload))
    addresses = "fd00" + "00" * 13 + "01" + "fd00" + "00" * 13 + "02"
    return ethernet(
        "86dd", f"60000000 {length:04x} {protocol:02x} ff {addresses} {payload}"
    )


def tcp(flags: int, payload: str = "") -> str:
    return f"a112 0007 00000001 00000000 50{flags:02x} ffff 0000 0000 {payload}"


def test_header_bytes() -> None:
    header = EthernetHeader(EVERYBODY, A, 0x0806)
    assert header.pack() == bytes.fromhex("ffffffffffff 020000000001 0806")
    assert EthernetHeader.parse(header.pack() + b"payload") == header


@given(
    st.binary(min_size=6, max_size=6),
    st.binary(min_size=6, max_size=6),
    st.integers(0, 0xFFFF),
    st.binary(),
)
def test_a_header_survives_the_wire(
    destination: bytes, source: bytes, ethertype: int, payload: bytes
) -> None:
    header = EthernetHeader(destination, source, ethertype)
    assert EthernetHeader.parse(memoryview(header.pack() + payload)) == header


@pytest.mark.parametrize("length", [0, 1, 13])
def test_too_short_for_a_header(length: int) -> None:
    with pytest.raises(ValueError, match=f"frame of {length} bytes is shorter"):
        EthernetHeader.parse(bytes(length))


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (ipv4(6, tcp(0x02)), "TCP 41234 > 7 SYN"),
        (ipv4(6, tcp(0x12)), "TCP 41234 > 7 SYN ACK"),
        (ipv4(6, tcp(0x18, "68656c6c6f")), "TCP 41234 > 7 PSH ACK, 5 bytes"),
        (ipv4(6, tcp(0x11)), "TCP 41234 > 7 FIN ACK"),
        (ipv4(6, tcp(0x04)), "TCP 41234 > 7 RST"),
        (ipv4(17, "a112 0035 000d 0000 68656c6c6f"), "UDP 41234 > 53, 5 bytes"),
        (ipv4(1, "08000000 00000000"), "ICMP echo request"),
        (ipv4(1, "00000000 00000000"), "ICMP echo reply"),
        (ipv4(1, "03000000 00000000"), "ICMP unreachable"),
        (ipv4(1, "0b000000 00000000"), "ICMP type 11"),
        (ipv4(89, "00000000"), "IP protocol 89, 4 bytes"),
    ],
)
def test_ipv4_in_a_line(frame: bytes, text: str) -> None:
    assert summarize(frame) == Summary("10.0.0.1", "10.0.0.2", text)


def test_the_padding_of_a_short_frame_is_no_data() -> None:
    frame = ipv4(6, tcp(0x10)).ljust(60, b"\0")
    assert summarize(frame).text == "TCP 41234 > 7 ACK"


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (ipv6(6, tcp(0x02)), "TCP 41234 > 7 SYN"),
        (ipv6(17, "a112 0035 000d 0000 68656c6c6f"), "UDP 41234 > 53, 5 bytes"),
        (ipv6(58, "80000000"), "ICMP echo request"),
        (ipv6(58, "81000000"), "ICMP echo reply"),
        (ipv6(58, "85000000"), "ICMP router solicitation"),
        (ipv6(58, "86000000"), "ICMP router advertisement"),
        (ipv6(58, "87000000"), "ICMP neighbour solicitation"),
        (ipv6(58, "88000000"), "ICMP neighbour advertisement"),
        (ipv6(0, "3a00050200000000 8f000000"), "ICMP multicast listener report"),
    ],
)
def test_ipv6_in_a_line(frame: bytes, text: str) -> None:
    assert summarize(frame) == Summary("fd00::1", "fd00::2", text)


@pytest.mark.parametrize(
    ("operation", "text"),
    [("0001", "ARP who has 10.0.0.2?"), ("0002", "ARP 10.0.0.1 is here")],
)
def test_arp_in_a_line(operation: str, text: str) -> None:
    frame = ethernet(
        "0806",
        f"0001 0800 06 04 {operation} 020000000001 0a000001 000000000000 0a000002",
    )
    assert summarize(frame) == Summary("10.0.0.1", "10.0.0.2", text)


def test_what_is_not_known_says_what_the_header_says() -> None:
    assert summarize(ethernet("88b5", "00112233")) == Summary(
        "02:00:00:00:00:01", "02:00:00:00:00:02", "EtherType 0x88b5, 18 bytes"
    )


@pytest.mark.parametrize("frame", [ipv4(6, tcp(0x02)), ipv6(6, tcp(0x02))])
def test_what_is_cut_short_says_what_the_header_says(frame: bytes) -> None:
    for length in range(14, len(frame) - 6):
        text = f"EtherType 0x{frame[12:14].hex()}, {length} bytes"
        assert summarize(frame[:length]) == Summary(
            "02:00:00:00:00:01", "02:00:00:00:00:02", text
        )


def test_too_short_for_a_frame() -> None:
    text = "13 bytes, too short for a frame"
    assert summarize(bytes(13)) == Summary("?", "?", text)


@given(st.binary(max_size=100))
def test_any_bytes_have_a_summary(data: bytes) -> None:
    assert summarize(data).text


@given(
    st.sampled_from([b"\x08\x00", b"\x08\x06", b"\x86\xdd"]),
    st.sampled_from([b"", b"\x45", b"\x4f", b"\x60"]),
    st.sampled_from([0, 1, 6, 17, 58]),
    st.binary(max_size=80),
)
def test_any_packet_has_a_summary(
    ethertype: bytes, first: bytes, protocol: int, rest: bytes
) -> None:
    packet = bytearray(first + rest)
    for offset in (6, 9):  # where IPv6 and IPv4 name what is inside
        if len(packet) > offset:
            packet[offset] = protocol
    summary = summarize(B + A + ethertype + packet)
    assert summary.text
    assert summary.source != "?"
