from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, strategies as st

from aioioth._merging import Merger
from aioioth.wire.offload import HEADER_SIZE

V4 = socket.inet_aton("10.0.0.1") + socket.inet_aton("10.0.0.2")
V6 = socket.inet_pton(socket.AF_INET6, "fd00::1") + socket.inet_pton(
    socket.AF_INET6, "fd00::2"
)
ACK, PSH, FIN = 16, 8, 1
STAMPS = bytes.fromhex("0101080a 00000001 00000002")


def checksum(data: bytes) -> int:
    """As RFC 1071 writes it, word by word."""
    total = 0
    for at in range(0, len(data) + len(data) % 2, 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


@dataclass(frozen=True)
class Segment:
    payload: bytes
    sequence: int = 1000
    flags: int = ACK
    version: int = 4
    source: int = 5000
    window: int = 500
    identification: int = 7
    options: bytes = STAMPS

    def frame(self) -> bytes:
        offset = (20 + len(self.options)) // 4 << 4
        fields = (self.source, 7, self.sequence, 77, offset, self.flags, self.window)
        tcp = struct.pack("!HHIIBBHHH", *fields, 0, 0) + self.options + self.payload
        addresses = V4 if self.version == 4 else V6
        pseudo = addresses + struct.pack("!II", len(tcp), 6)
        tcp = tcp[:16] + checksum(pseudo + tcp).to_bytes(2, "big") + tcp[18:]
        if self.version == 6:
            ip = struct.pack("!IHBB", 6 << 28, len(tcp), 6, 64) + V6
            return bytes(12) + b"\x86\xdd" + ip + tcp
        length = 20 + len(tcp)
        ip = struct.pack(
            "!BBHHHBBH", 0x45, 0, length, self.identification, 0x4000, 64, 6, 0
        )
        ip += V4
        ip = ip[:10] + checksum(ip).to_bytes(2, "big") + ip[12:]
        return bytes(12) + b"\x08\x00" + ip + tcp


@dataclass(frozen=True)
class Written:
    """One write to the TAP."""

    kind: int
    header_length: int
    size: int
    frame: bytes
    needs: int = 0

    @property
    def transport(self) -> int:
        return 34 if self.frame[12:14] == b"\x08\x00" else 54

    @property
    def payload(self) -> bytes:
        start = self.transport + (self.frame[self.transport + 12] >> 4) * 4
        return self.frame[start:]

    @property
    def sequence(self) -> int:
        return int.from_bytes(
            self.frame[self.transport + 4 : self.transport + 8], "big"
        )

    @property
    def flags(self) -> int:
        return self.frame[self.transport + 13]

    @property
    def window(self) -> bytes:
        return self.frame[self.transport + 14 : self.transport + 16]

    def is_valid(self) -> bool:
        """Whether lengths and checksums are right, all bytes of them read."""
        tcp = self.frame[self.transport :]
        if self.transport == 34:
            right = int.from_bytes(self.frame[16:18], "big") == len(self.frame) - 14
            right = right and checksum(self.frame[14:34]) == 0
            addresses = self.frame[26:34]
        else:
            right = int.from_bytes(self.frame[18:20], "big") == len(tcp)
            addresses = self.frame[22:54]
        pseudo = addresses + struct.pack("!II", len(tcp), 6)
        if self.needs:  # the kernel sums up the rest
            return right and checksum(pseudo) == 0xFFFF - int.from_bytes(
                tcp[16:18], "big"
            )
        return right and not checksum(pseudo + tcp)


class Tap:
    """What was written, and the merger in front of it."""

    def __init__(self) -> None:
        self.written: list[Written] = []
        self.answer: OSError | None = None
        self.full = False
        self.merger = Merger(self._write)

    def _write(self, data: memoryview) -> int | None:
        if self.answer is not None:
            raise self.answer
        if self.full:
            return None
        flags, kind, header_length, size, *rest = struct.unpack(
            "=BBHHHH", data[:HEADER_SIZE]
        )
        written = Written(kind, header_length, size, bytes(data[HEADER_SIZE:]), flags)
        assert (flags, rest) == ((1, [written.transport, 16]) if kind else (0, [0, 0]))
        self.written.append(written)
        return len(data)

    def send(self, *frames: bytes) -> list[Written]:
        for frame in frames:
            self.merger.send(memoryview(frame))
        self.merger.finish()
        written, self.written = self.written, []
        return written


def run_of(count: int, size: int = 1448, **fields: int) -> list[Segment]:
    """Segments that follow one another."""
    first = Segment(b"", **fields)  # type: ignore[arg-type]
    return [
        replace(
            first,
            payload=os.urandom(size),
            sequence=(first.sequence + number * size) % 2**32,
            identification=number,
        )
        for number in range(count)
    ]


VERSIONS = pytest.mark.parametrize("version", [4, 6])


@VERSIONS
def test_many_become_one(version: int) -> None:
    segments = run_of(20, version=version)
    frames = [segment.frame() for segment in segments]
    [one] = Tap().send(*frames)
    assert one.is_valid()
    assert one.payload == b"".join(segment.payload for segment in segments)
    assert one.sequence == 1000
    assert one.kind == (1 if version == 4 else 4)
    assert (one.size, one.header_length) == (1448, len(frames[0]) - 1448)


def test_what_has_a_header_ends_a_run_and_passes_as_it_is() -> None:
    written: list[bytes] = []

    def write(data: memoryview) -> int:
        written.append(bytes(data))
        return len(data)

    merger = Merger(write)
    frames = [segment.frame() for segment in run_of(4)]
    partial = struct.pack("=BBHHHH", 1, 1, 66, 1448, 34, 16) + frames[0]
    checked = b"\2" + bytes(HEADER_SIZE - 1) + frames[0]
    for frame in frames[:2]:
        merger.send_whole(memoryview(bytes(HEADER_SIZE) + frame))
    assert written == []
    assert merger.send_whole(memoryview(partial)) == len(partial)
    assert [len(each) for each in written] == [10 + 66 + 2 * 1448, len(partial)]
    assert merger.send_whole(memoryview(checked)) == len(checked)
    merger.send_whole(memoryview(bytes(HEADER_SIZE) + frames[2]))
    merger.finish()
    assert written[1:] == [partial, checked, bytes(HEADER_SIZE) + frames[2]]


@VERSIONS
def test_one_alone_stays_as_it_is(version: int) -> None:
    frame = Segment(bytes(1448), version=version).frame()
    assert Tap().send(frame) == [Written(0, 0, 0, frame)]


@VERSIONS
def test_the_longest_packet(version: int) -> None:
    segments = run_of(100, version=version)
    written = Tap().send(*(segment.frame() for segment in segments))
    assert len(written) == 3
    assert all(each.is_valid() for each in written)
    assert all(len(each.frame) <= 65535 + 14 for each in written)
    payload = b"".join(each.payload for each in written)
    assert payload == b"".join(segment.payload for segment in segments)


@VERSIONS
def test_a_push_ends_it_and_is_kept(version: int) -> None:
    segments = run_of(5, version=version)
    segments[2] = replace(segments[2], flags=ACK | PSH)
    one, two = Tap().send(*(segment.frame() for segment in segments))
    assert one.flags == ACK | PSH
    assert two.flags == ACK
    assert one.is_valid()
    assert two.is_valid()
    assert [len(one.payload), len(two.payload)] == [3 * 1448, 2 * 1448]


@pytest.mark.parametrize(
    "change",
    [
        {"source": 5001},
        {"sequence": 5000},
        {"flags": ACK | FIN},
        {"options": STAMPS[:-1] + b"\x03"},
        {"options": b""},
        {"payload": bytes(1446)},
        {"version": 6},
    ],
    ids=str,
)
def test_what_does_not_follow_is_not_appended(change: dict[str, object]) -> None:
    one, two = run_of(2)
    other = replace(two, **change)  # type: ignore[arg-type]
    written = Tap().send(one.frame(), other.frame())
    assert [each.frame for each in written] == [one.frame(), other.frame()]


@VERSIONS
def test_the_last_window_is_told(version: int) -> None:
    one, two, three = run_of(3, version=version)
    [written] = Tap().send(
        one.frame(),
        replace(two, window=600).frame(),
        replace(three, window=550).frame(),
    )
    assert written.is_valid()
    assert written.window == (550).to_bytes(2, "big")


def test_sequence_numbers_begin_anew() -> None:
    segments = run_of(6, sequence=2**32 - 3 * 1448)
    written = Tap().send(*(segment.frame() for segment in segments))
    assert [each.sequence for each in written] == [2**32 - 3 * 1448, 0]
    assert all(each.is_valid() for each in written)


@pytest.mark.parametrize(
    "frame",
    [
        Segment(bytes(1447)).frame(),
        Segment(bytes(1448)).frame() + b"\0\0",
        b"\xff" * 12 + b"\x08\x06" + bytes(1000),
        Segment(bytes(1448)).frame().replace(b"\x40\x00\x40\x06", b"\x20\x00\x40\x06"),
        Segment(bytes(1448)).frame().replace(b"\x40\x00\x40\x06", b"\x40\x00\x40\x11"),
        Segment(bytes(1448)).frame().replace(b"\x08\x00\x45", b"\x08\x00\x46"),
        b"\xff" * 12 + b"\x81\x00\x00\x05" + Segment(bytes(1448)).frame()[12:],
    ],
)
def test_what_is_no_plain_segment(frame: bytes) -> None:
    assert Tap().send(frame, frame) == [Written(0, 0, 0, frame)] * 2


@VERSIONS
@pytest.mark.parametrize("place", [19, 25, 30, 60, 200, 1000, -1])
@pytest.mark.parametrize("which", [0, 1, 4])
def test_what_was_damaged_is_not_mended(version: int, place: int, which: int) -> None:
    segments = run_of(5, version=version)
    frames = [bytearray(each.frame()) for each in segments]
    frames[which][place] ^= 0x10
    written = Tap().send(*map(bytes, frames))
    assert Written(0, 0, 0, bytes(frames[which])) in written
    assert [each for each in written if each.kind and not each.is_valid()] == []
    if place > 60 or place == -1:
        assert [each.frame for each in written] == frames


@VERSIONS
def test_what_cannot_be_written_of_the_damaged_is_told(version: int) -> None:
    tap = Tap()
    frames = [bytearray(each.frame()) for each in run_of(3, version=version)]
    frames[1][-1] ^= 1
    tap.full = True
    assert tap.send(*map(bytes, frames)) == []
    assert tap.merger.error.errno == errno.ENOBUFS
    assert (tap.merger.lost, tap.merger.lost_bytes) == (3, 3 * len(frames[0]))


@VERSIONS
def test_lengths_do_not_matter(version: int) -> None:
    for size in 600, 1446, 1448, 4000, 8948:
        segments = run_of(9, size, version=version)
        written = Tap().send(*(each.frame() for each in segments))
        assert len(written) < len(segments)
        assert all(each.is_valid() for each in written)
        assert [each.size for each in written if each.kind]


@VERSIONS
def test_order_stays(version: int) -> None:
    segments = run_of(4, version=version)
    frames = [segment.frame() for segment in segments]
    arp = b"\xff" * 12 + b"\x08\x06" + bytes(28)
    one, two, three = Tap().send(frames[0], frames[1], arp, frames[2], frames[3])
    assert two.frame == arp
    assert one.payload == segments[0].payload + segments[1].payload
    assert three.payload == segments[2].payload + segments[3].payload


def test_what_cannot_be_written_is_told() -> None:
    tap = Tap()
    frames = [segment.frame() for segment in run_of(3)]
    tap.answer = OSError(errno.EIO, "down")
    assert tap.send(*frames) == []
    assert tap.merger.error.errno == errno.EIO
    assert (tap.merger.lost, tap.merger.lost_bytes) == (3, 3 * len(frames[0]))
    with pytest.raises(OSError, match="down"):
        tap.merger.send(memoryview(bytes(100)))
    tap.answer, tap.full = None, True
    assert tap.send(*frames) == []
    assert tap.merger.error.errno == errno.ENOBUFS
    tap.full = False
    assert len(tap.send(*frames)) == 1


@given(st.lists(st.binary(min_size=14, max_size=1600), max_size=20))
def test_anything_comes_out_as_it_came_in(frames: list[bytes]) -> None:
    assert [each.frame for each in Tap().send(*frames)] == frames


@given(
    st.lists(
        st.builds(
            Segment,
            payload=st.sampled_from([600, 601, 1000, 1448]).map(bytes),
            sequence=st.sampled_from([0, 600, 1000, 1200, 1600, 2**32 - 600]),
            flags=st.sampled_from([ACK, ACK | PSH, ACK | FIN]),
            version=st.sampled_from([4, 6]),
        ),
        max_size=30,
    )
)
def test_every_byte_arrives_in_order(segments: list[Segment]) -> None:
    written = Tap().send(*(segment.frame() for segment in segments))
    assert all(each.is_valid() for each in written)
    arrived = []
    for each in written:
        size = each.size or len(each.payload)
        arrived += [
            (each.transport, (each.sequence + at) % 2**32, size)
            for at in range(0, len(each.payload), size)
        ]
    sent = [
        (34 if each.version == 4 else 54, each.sequence, len(each.payload))
        for each in segments
    ]
    assert arrived == sent
