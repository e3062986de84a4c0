from __future__ import annotations

import os
import socket
import struct

import pytest
from hypothesis import given, strategies as st

from aioioth.wire.offload import (
    HEADER_SIZE,
    VNET_HEADER,
    Offload,
    _checksum,
    complete,
    is_of_tunnel,
)

MACS = bytes.fromhex("020000000001 020000000002")
V4 = socket.inet_aton("10.0.0.1") + socket.inet_aton("10.0.0.2")
V6 = socket.inet_pton(socket.AF_INET6, "fd00::1") * 2
TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
FIN, SYN, PSH, ACK, CWR = 1, 2, 8, 16, 128


def packet(
    version: int,
    protocol: int,
    payload: bytes,
    *,
    tag: bytes = b"",
    flags: int = ACK,
    sequence: int = 0,
    identity: int = 0,
) -> bytearray:
    """Return a frame as a sender makes it that leaves the checksums to hardware."""
    if protocol == TCP:
        header = struct.pack("!HHIIBBHHH", 1, 2, sequence, 3, 0x80, flags, 4, 0, 0)
        header += bytes.fromhex("0101080a 00000001 00000002")
    else:
        header = struct.pack("!HHHH", 1, 2, 8 + len(payload), 0)
    length = len(header) + len(payload)
    if version == 4:
        ip = struct.pack(
            "!BBHHHBBH", 0x45, 0, 20 + length, identity, 0, 64, protocol, 0
        )
        return bytearray(MACS + tag + b"\x08\0" + ip + V4 + header + payload)
    ip = struct.pack("!IHBB", 6 << 28, length, protocol, 64)
    return bytearray(MACS + tag + b"\x86\xdd" + ip + V6 + header + payload)


def offload(version: int, protocol: int, size: int, tag: bytes = b"") -> Offload:
    kind = {(4, TCP): 1, (6, TCP): 4}.get((version, protocol), 5) if size else 0
    start = 14 + (20 if version == 4 else 40)
    place = 16 if protocol == TCP else 6
    header = struct.pack("=BBHHHH", 1, kind | 0x80 * (kind == 1), 0, size, start, place)
    return Offload.parse(header, len(tag))


def payload_of(frame: bytearray, version: int, protocol: int, tag: bytes) -> bytes:
    """Check everything in a frame that has a length or a checksum."""
    ip = 14 + len(tag)
    assert frame[:ip][12:-2] == tag
    if version == 4:
        assert int.from_bytes(frame[ip + 2 : ip + 4]) == len(frame) - ip
        assert ones_sum(frame[ip : ip + 20]) == 0xFFFF
        start, addresses = ip + 20, frame[ip + 12 : ip + 20]
    else:
        assert int.from_bytes(frame[ip + 4 : ip + 6]) == len(frame) - ip - 40
        start, addresses = ip + 40, frame[ip + 8 : ip + 40]
    pseudo = addresses + struct.pack("!II", len(frame) - start, protocol)
    assert ones_sum(pseudo + frame[start:]) == 0xFFFF
    if protocol == UDP:
        assert int.from_bytes(frame[start + 4 : start + 6]) == len(frame) - start
        return bytes(frame[start + 8 :])
    return bytes(frame[start + 32 :])


def ones_sum(data: bytes | bytearray) -> int:
    """Add up as RFC 1071 says it, word by word."""
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(bytes(data[at : at + 2]).ljust(2, b"\0"))
        total = (total & 0xFFFF) + (total >> 16)
    return total


@given(st.binary(min_size=1, max_size=300))
def test_checksums(data: bytes) -> None:
    checksum = _checksum(data)
    padded = data + bytes(len(data) & 1)
    assert ones_sum(padded + checksum.to_bytes(2)) in {0, 0xFFFF}


VERSIONS = pytest.mark.parametrize("version", [4, 6])
PROTOCOLS = pytest.mark.parametrize("protocol", [TCP, UDP])
TAGS = pytest.mark.parametrize(
    "tag", [b"", bytes.fromhex("81000005"), bytes.fromhex("88a80006 81000005")]
)


@VERSIONS
@PROTOCOLS
@TAGS
@pytest.mark.parametrize("length", [1, 1000, 1001])
def test_a_partial_checksum_is_finished(
    version: int, protocol: int, tag: bytes, length: int
) -> None:
    payload = os.urandom(length)
    frame = packet(version, protocol, payload, tag=tag)
    ip = 14 + len(tag)
    start = ip + (20 if version == 4 else 40)
    # The pseudo header's sum stands there, not inverted.
    addresses = frame[ip + 12 : ip + 20] if version == 4 else frame[ip + 8 : ip + 40]
    pseudo = addresses + struct.pack("!II", len(frame) - start, protocol)
    place = start + (16 if protocol == TCP else 6)
    frame[place : place + 2] = ones_sum(pseudo).to_bytes(2)
    (done,) = offload(version, protocol, 0, tag).undo(frame)
    assert ones_sum(pseudo + done[start:]) == 0xFFFF


@VERSIONS
@PROTOCOLS
@TAGS
@pytest.mark.parametrize("length", [1, 1400, 1401, 60_000])
def test_a_long_frame_is_cut(
    version: int, protocol: int, tag: bytes, length: int
) -> None:
    payload = os.urandom(length)
    frame = packet(
        version,
        protocol,
        payload,
        tag=tag,
        flags=ACK | PSH | FIN | CWR,
        sequence=0xFFFFFF00,
        identity=0xFFFF,
    )
    cut = offload(version, protocol, 1400, tag).undo(frame)
    parts = [payload_of(each, version, protocol, tag) for each in cut]
    assert b"".join(parts) == payload
    assert {len(part) for part in parts[:-1]} <= {1400}
    ip = 14 + len(tag)
    for number, each in enumerate(cut):
        if version == 4:
            assert int.from_bytes(each[ip + 4 : ip + 6]) == (0xFFFF + number) & 0xFFFF
        if protocol == TCP:
            start = ip + (20 if version == 4 else 40)
            sequence = int.from_bytes(each[start + 4 : start + 8])
            assert sequence == (0xFFFFFF00 + 1400 * number) & 0xFFFFFFFF
            first, last = number == 0, number == len(cut) - 1
            wanted = ACK | (PSH | FIN) * last | CWR * first
            assert each[start + 13] == wanted


def test_what_needs_nothing_stays() -> None:
    frame = packet(4, TCP, b"hello")
    assert Offload.parse(bytes(10), 0).undo(frame) == [frame]


@pytest.mark.parametrize(
    "change",
    [
        {"kind": 3},  # joined UDP fragments, which no kernel makes any more
        {"size": 0},
        {"start": 60},  # inside a tunnel
        {"kind": 5},
    ],
)
def test_what_cannot_be_told(change: dict[str, int]) -> None:
    fields = {"partial": True, "kind": 1, "size": 100, "start": 34, "place": 50}
    with pytest.raises(ValueError):
        Offload(**(fields | change)).undo(packet(4, TCP, bytes(1000)))  # type: ignore[arg-type]


@VERSIONS
def test_a_frame_in_very_many_parts_is_refused(version: int) -> None:
    frame = bytes(packet(version, TCP, bytes(60_000)))
    kind, start = (1, 34) if version == 4 else (4, 54)

    def parts(size: int) -> int:
        header = VNET_HEADER.pack(1, kind, start + 32, size, start, 16)
        return len(complete(memoryview(header + frame)))

    assert parts(100) == 600
    with pytest.raises(ValueError):
        parts(1)


@given(
    st.binary(min_size=14, max_size=200),
    st.sampled_from([b"\x08\0\x45", b"\x86\xdd\x60", b"\x81\0\0\5", b""]),
    st.sampled_from([0, 6, 17]),
    st.binary(min_size=10, max_size=10),
)
def test_anything_gives_frames_or_a_value_error(
    data: bytes, kind: bytes, protocol: int, header: bytes
) -> None:
    frame = bytearray(data[:12] + kind + data[12:])
    for at in (23, 20):
        if len(frame) > at:
            frame[at] = protocol
    try:
        cut = Offload.parse(header, 0).undo(frame)
    except ValueError:
        return
    assert cut
    assert all(len(each) >= 14 for each in cut)


@VERSIONS
@PROTOCOLS
@pytest.mark.parametrize("size", [0, 1000])
@pytest.mark.parametrize("length", [1, 1400, 1401])
def test_behind_a_header(version: int, protocol: int, size: int, length: int) -> None:
    frame = packet(version, protocol, os.urandom(length))
    start = 14 + (20 if version == 4 else 40)
    kind = {(4, TCP): 1, (6, TCP): 4}.get((version, protocol), 5) if size else 0
    place = 16 if protocol == TCP else 6
    header = struct.pack("=BBHHHH", 1, kind, 0, size, start, place)
    done = complete(memoryview(header + frame))
    assert done == offload(version, protocol, size).undo(bytearray(frame))
    assert done != [frame]


@given(
    st.binary(min_size=14, max_size=200),
    st.binary(min_size=HEADER_SIZE, max_size=HEADER_SIZE),
)
def test_anything_behind_anything(data: bytes, header: bytes) -> None:
    try:
        done = complete(memoryview(header + data))
    except ValueError:
        return
    assert done
    assert all(len(each) >= 14 for each in done)


def test_behind_no_header_it_stays() -> None:
    frame = bytes(packet(4, TCP, b"hello"))
    assert complete(memoryview(bytes(HEADER_SIZE) + frame)) == [frame]
    # The hardware has found the checksum right (VIRTIO_NET_HDR_F_DATA_VALID).
    assert complete(memoryview(b"\2" + bytes(HEADER_SIZE - 1) + frame)) == [frame]


@pytest.mark.parametrize("version", [4, 6])
def test_a_checksum_is_never_none(version: int) -> None:
    """0 would say in UDP that there is none, and IPv6 refuses it."""
    frame = packet(version, UDP, b"\0\0")
    start, addresses = (34, V4) if version == 4 else (54, V6)
    pseudo = ones_sum(addresses + struct.pack("!II", len(frame) - start, UDP))
    frame[start + 6 : start + 8] = pseudo.to_bytes(2)
    frame[-2:] = (0xFFFF - ones_sum(frame[start:])).to_bytes(2)
    assert ones_sum(frame[start:]) == 0xFFFF
    header = struct.pack("=BBHHHH", 1, 0, 0, 0, start, 6)
    [done] = Offload.parse(header, 0).undo(bytearray(frame))
    assert done[start + 6 : start + 8] == b"\xff\xff"
    assert complete(memoryview(header + frame)) == [done]


# Up to the TCP header: VXLAN over IPv4 and IPv6, and IP in IP.
TUNNELS = [
    MACS + b"\x08\0\x45" + bytes(69),
    MACS + b"\x86\xdd\x60" + bytes(89),
    MACS + b"\x08\0\x45" + bytes(39),
    MACS + b"\x81\0\0\5\x08\0\x45" + bytes(69),
]


@pytest.mark.parametrize("tunnel", TUNNELS)
def test_a_tunnels(tunnel: bytes) -> None:
    def header(flags: int, kind: int = 0) -> bytes:
        return struct.pack("=BBHHHH", flags, kind, 0, 0, len(tunnel), 16)

    assert is_of_tunnel(memoryview(header(1) + tunnel + bytes(20)))
    assert not is_of_tunnel(memoryview(header(0) + tunnel + bytes(20)))
    assert not is_of_tunnel(memoryview(header(1, kind=1) + tunnel + bytes(20)))


@pytest.mark.parametrize("tag", [b"", b"\x81\0\0\5", b"\x88\xa8\0\5\x81\0\0\5"])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_no_tunnels(tag: bytes, version: int, protocol: int) -> None:
    start = 14 + len(tag) + (20 if version == 4 else 40)
    header = struct.pack("=BBHHHH", 1, 0, 0, 0, start, 6)
    frame = packet(version, protocol, bytes(10), tag=tag)
    assert not is_of_tunnel(memoryview(header + frame))


@given(st.binary(min_size=HEADER_SIZE, max_size=100))
def test_whether_it_is_a_tunnels_can_be_told_of_anything(frame: bytes) -> None:
    assert is_of_tunnel(memoryview(frame)) in {False, True}
