from __future__ import annotations

import struct
from typing import NamedTuple

import pytest
from hypothesis import given, strategies as st

from aioioth.wire import pcapng

FRAME = bytes.fromhex("ffffffffffff 020000000001 88b5") + b"hello"
NOW = 1_700_000_000_123_456_789


class Packet(NamedTuple):
    data: bytes
    length: int
    time_ns: int
    flags: int


def blocks(data: bytes) -> list[tuple[int, bytes]]:
    """Take a file apart, checking each length twice."""
    found = []
    while data:
        kind, length = struct.unpack_from("<II", data)
        assert length % 4 == 0
        assert struct.unpack_from("<I", data, length - 4) == (length,)
        found.append((kind, data[8 : length - 4]))
        data = data[length:]
    return found


def options(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while True:
        code, length = struct.unpack_from("<HH", data)
        if code == 0:
            assert data[4:] == b""
            return found
        found[code] = data[4 : 4 + length]
        assert not any(data[4 + length : 4 + length + -length % 4])
        data = data[4 + length + -length % 4 :]


def parse_packet(body: bytes) -> Packet:
    interface, high, low, kept, length = struct.unpack_from("<IIIII", body)
    assert interface == 0
    rest = body[20 + kept :]
    assert not any(rest[: -kept % 4])
    (flags,) = struct.unpack("<I", options(rest[-kept % 4 :])[2])
    return Packet(body[20 : 20 + kept], length, high << 32 | low, flags)


def test_a_section() -> None:
    ((kind, body),) = blocks(pcapng.section())
    assert pcapng.section()[:4] == pcapng.MAGIC
    assert kind == 0x0A0D0D0A
    assert struct.unpack_from("<IHHq", body) == (0x1A2B3C4D, 1, 0, -1)
    assert options(body[16:]) == {4: b"aioioth"}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("memory://lan", b"memory://lan"),
        ("", b""),
        ("ünï", "ünï".encode()),
        ("x" * 100_000, b"x" * 1024),
        ("x" + "ü" * 1000, ("x" + "ü" * 511).encode()),
        ("a\udcffb", b"a?b"),
    ],
)
def test_an_interface(name: str, shown: bytes) -> None:
    ((kind, body),) = blocks(pcapng.interface(name, snaplen=4711))
    assert kind == 1
    assert struct.unpack_from("<HHI", body) == (1, 0, 4711)
    assert options(body[8:]) == {2: shown, 9: b"\x09"}


@given(
    st.binary(max_size=100),
    st.integers(0, (1 << 64) - 1),
    st.sampled_from([pcapng.INBOUND, pcapng.OUTBOUND]),
    st.integers(1, 120),
)
def test_a_packet(frame: bytes, time_ns: int, direction: int, snaplen: int) -> None:
    block = pcapng.packet(
        memoryview(frame), time_ns=time_ns, direction=direction, snaplen=snaplen
    )
    ((kind, body),) = blocks(block)
    assert kind == 6
    expected = Packet(frame[:snaplen], len(frame), time_ns, direction)
    assert parse_packet(body) == expected


@given(st.binary(max_size=12), st.integers(-4, 100))
def test_what_may_be_a_block(head: bytes, length: int) -> None:
    told = (
        len(head) == 8
        and length in {12, 16, 20}
        and head[4:] == bytes((length, 0, 0, 0))
    )
    if length <= 20:
        assert pcapng.is_block(head, length) == told
    assert pcapng.is_block(head[:4].ljust(4) + struct.pack("<i", length), length) == (
        length >= 12 and length % 4 == 0
    )


def test_what_is_a_block() -> None:
    for block in (
        pcapng.section(),
        pcapng.interface("x", snaplen=1),
        pcapng.packet(FRAME, time_ns=NOW, direction=1, snaplen=99),
    ):
        assert pcapng.is_block(block[:8], len(block))
        assert not pcapng.is_block(block[:8], len(block) - 4)
        assert not pcapng.is_block(block[:7], len(block))
