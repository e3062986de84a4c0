"""What the compiled step does to frames, beside what pure Python does to them."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, Self

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from aioioth import _speedups
from aioioth._pump import BUFFER_SIZE, DEVICE_DROPS, PLUG_DROPS, Counters, Pump
from aioioth.wire.offload import HEADER_SIZE, VNET_HEADER, Offload
from tests.unit.test_merging import (
    ACK,
    FIN,
    PSH,
    STAMPS,
    V4,
    V6,
    Segment,
    Tap,
    Written,
    checksum,
    run_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import aioioth_speedups as compiled

    from aioioth._pump import End
else:
    try:
        import aioioth_speedups as compiled
    except ImportError:
        compiled = None

BUILT = pytest.mark.skipif(
    compiled is None,
    reason="the compiled step is not installed: pip install ./speedups",
)
PYTHON, C = pytest.param("python"), pytest.param("compiled", marks=BUILT)
VERSIONS = pytest.mark.parametrize("version", [4, 6])

MACS = bytes.fromhex("020000000001 020000000002")
TCP = socket.IPPROTO_TCP
CWR = 0x80
VLAN, QINQ = bytes.fromhex("8100 0005"), bytes.fromhex("88a8 0007 8100 0005")

DROPS = [errno.EIO, errno.EINVAL]
ALONE = bytes(HEADER_SIZE)


class Ends:
    """Both sockets of a pair, the near one for the code that is tested."""

    def __init__(self, undo: ExitStack, kind: int = socket.SOCK_DGRAM) -> None:
        self.near, self.far = socket.socketpair(socket.AF_UNIX, kind)
        for each in (self.near, self.far):
            undo.callback(each.close)
            each.setblocking(False)

    def fileno(self) -> int:
        return self.near.fileno()

    def feed(self, *messages: bytes) -> None:
        for each in messages:
            self.far.send(each)

    def drain(self) -> Iterator[bytes]:
        while True:
            try:
                message = self.far.recv(1 << 17)
            except BlockingIOError:
                return
            if not message:
                return
            yield message


@pytest.fixture
def make_ends() -> Iterator[Callable[..., Ends]]:
    with ExitStack() as undo:
        yield lambda *kind: Ends(undo, *kind)


# To a TAP


class Joiner(Protocol):
    """Writes frames to a TAP."""

    def send(self, *frames: bytes) -> list[Written]: ...


class Compiled:
    """The compiled one, between two sockets."""

    def __init__(self, network: Ends, tap: Ends) -> None:
        self.network, self.tap = network, tap
        self.receiver = compiled.Receiver(
            network.fileno(), tap.fileno(), DROPS, size=1618
        )
        self.drops: dict[int, int] = {}

    def send(self, *frames: bytes) -> list[Written]:
        self.network.feed(*frames)
        written: list[Written] = []
        state, moved = compiled.MORE, 0
        while state == compiled.MORE:
            state, count, _ = self.receiver.move(64)
            moved += count
            written += map(as_written, self.tap.drain())
        assert state == compiled.EMPTY
        self.drops = self.receiver.take_drops()
        assert moved + sum(self.drops.values()) == len(frames)
        return written


def as_written(data: bytes) -> Written:
    """Read what was written, and do what is left to whoever reads it."""
    flags, kind, headers, size, start, place = VNET_HEADER.unpack(data[:HEADER_SIZE])
    frame = bytearray(data[HEADER_SIZE:])
    if flags:
        assert (flags, place) == (1, 16)
        at = start + place
        frame[at : at + 2] = checksum(bytes(frame[start:])).to_bytes(2, "big")
    else:
        assert [kind, headers, size, start, place] == [0] * 5
    return Written(kind, headers, size, bytes(frame))


@pytest.fixture(params=[PYTHON, C])
def joiner(request: pytest.FixtureRequest, make_ends: Callable[[], Ends]) -> Joiner:
    if request.param == "python":
        return Tap()
    return Compiled(make_ends(), make_ends())


@pytest.fixture
def receiving(make_ends: Callable[[], Ends]) -> Compiled:
    return Compiled(make_ends(), make_ends())


@VERSIONS
def test_many_become_one(joiner: Joiner, version: int) -> None:
    segments = run_of(20, version=version)
    frames = [segment.frame() for segment in segments]
    [one] = joiner.send(*frames)
    assert one.is_valid()
    assert one.payload == b"".join(segment.payload for segment in segments)
    assert one.sequence == 1000
    assert one.kind == (1 if version == 4 else 4)
    assert (one.size, one.header_length) == (1448, len(frames[0]) - 1448)


@VERSIONS
def test_one_alone_stays_as_it_is(joiner: Joiner, version: int) -> None:
    frame = Segment(bytes(1448), version=version).frame()
    assert joiner.send(frame) == [Written(0, 0, 0, frame)]


@VERSIONS
def test_the_longest_packet(joiner: Joiner, version: int) -> None:
    segments = run_of(60, version=version)
    written = joiner.send(*(segment.frame() for segment in segments))
    assert len(written) == 2
    assert all(each.is_valid() for each in written)
    assert all(len(each.frame) <= 65535 + 14 for each in written)
    payload = b"".join(each.payload for each in written)
    assert payload == b"".join(segment.payload for segment in segments)


@VERSIONS
def test_a_push_ends_it_and_is_kept(joiner: Joiner, version: int) -> None:
    segments = run_of(5, version=version)
    segments[2] = replace(segments[2], flags=ACK | PSH)
    one, two = joiner.send(*(segment.frame() for segment in segments))
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
        {"payload": bytes(1450)},
        {"version": 6},
    ],
    ids=str,
)
def test_what_does_not_follow_is_not_appended(
    joiner: Joiner, change: dict[str, object]
) -> None:
    one, two = run_of(2)
    other = replace(two, **change)  # type: ignore[arg-type]
    written = joiner.send(one.frame(), other.frame())
    assert [each.frame for each in written] == [one.frame(), other.frame()]


def test_sequence_numbers_begin_anew(joiner: Joiner) -> None:
    segments = run_of(6, sequence=2**32 - 3 * 1448)
    written = joiner.send(*(segment.frame() for segment in segments))
    assert written[0].sequence == 2**32 - 3 * 1448
    assert all(each.is_valid() for each in written)


@pytest.mark.parametrize(
    "frame",
    [
        Segment(bytes(1448)).frame() + b"\0\0",
        b"\xff" * 12 + b"\x08\x06" + bytes(1000),
        Segment(bytes(1448)).frame().replace(b"\x40\x00\x40\x06", b"\x20\x00\x40\x06"),
        Segment(bytes(1448)).frame().replace(b"\x40\x00\x40\x06", b"\x40\x00\x40\x11"),
        Segment(bytes(1448)).frame().replace(b"\x08\x00\x45", b"\x08\x00\x46"),
        b"\xff" * 12 + b"\x81\x00\x00\x05" + Segment(bytes(1448)).frame()[12:],
    ],
)
def test_what_is_no_plain_segment(joiner: Joiner, frame: bytes) -> None:
    assert joiner.send(frame, frame) == [Written(0, 0, 0, frame)] * 2


@VERSIONS
@pytest.mark.parametrize("place", [30, 60, 200, 1000, -1])
@pytest.mark.parametrize("which", [0, 1, 4])
def test_what_was_damaged_is_not_mended(
    joiner: Joiner, version: int, place: int, which: int
) -> None:
    frames = [bytearray(each.frame()) for each in run_of(5, version=version)]
    frames[which][place] ^= 0x10
    written = joiner.send(*map(bytes, frames))
    assert not all(each.is_valid() for each in written)


@VERSIONS
def test_order_stays(joiner: Joiner, version: int) -> None:
    segments = run_of(4, version=version)
    frames = [segment.frame() for segment in segments]
    arp = b"\xff" * 12 + b"\x08\x06" + bytes(28)
    one, two, three = joiner.send(frames[0], frames[1], arp, frames[2], frames[3])
    assert two.frame == arp
    assert one.payload == segments[0].payload + segments[1].payload
    assert three.payload == segments[2].payload + segments[3].payload


@BUILT
@VERSIONS
def test_what_is_damaged_goes_on_alone(receiving: Compiled, version: int) -> None:
    frames = [bytearray(each.frame()) for each in run_of(9, version=version)]
    frames[4][-1] ^= 1
    before, bad, after = receiving.send(*map(bytes, frames))
    assert bad.frame == frames[4]
    assert before.is_valid()
    assert after.is_valid()
    assert [len(each.payload) // 1448 for each in (before, after)] == [4, 4]


@BUILT
def test_an_ip_header_is_looked_at_as_well(receiving: Compiled) -> None:
    frames = [bytearray(each.frame()) for each in run_of(3)]
    frames[1][24] ^= 1  # its checksum
    assert [each.frame for each in receiving.send(*map(bytes, frames))] == frames


@BUILT
@VERSIONS
@pytest.mark.parametrize("size", [1, 699, 1447])
def test_the_last_may_be_shorter(receiving: Compiled, version: int, size: int) -> None:
    segments = run_of(4, version=version)
    segments[2] = replace(segments[2], payload=bytes(size))
    segments[3] = replace(segments[3], sequence=1000 + 2 * 1448 + size)
    one, two = receiving.send(*(segment.frame() for segment in segments))
    assert one.is_valid()
    assert len(one.payload) == 2 * 1448 + size
    assert (two.payload, two.kind) == (segments[3].payload, 0)


@BUILT
def test_an_odd_number_of_bytes(receiving: Compiled) -> None:
    [one] = receiving.send(*(each.frame() for each in run_of(7, size=999)))
    assert one.is_valid()
    assert len(one.payload) == 7 * 999


@BUILT
def test_the_newest_window_is_told(receiving: Compiled) -> None:
    one, two = run_of(2)
    [written] = receiving.send(one.frame(), replace(two, window=600).frame())
    assert written.is_valid()
    assert written.frame[48:50] == (600).to_bytes(2, "big")


@BUILT
def test_frames_that_are_too_long(receiving: Compiled) -> None:
    written = receiving.send(bytes(1618), bytes(1619), bytes(20))
    assert [len(each.frame) for each in written] == [1618, 20]
    assert receiving.drops == {errno.EMSGSIZE: 1}
    assert not receiving.receiver.dropped


@BUILT
def test_a_budget(receiving: Compiled) -> None:
    receiving.network.feed(*[bytes(60)] * 40)
    assert receiving.receiver.move(30) == (compiled.MORE, 30, 1800)
    assert receiving.receiver.move(30) == (compiled.EMPTY, 10, 600)


@BUILT
def test_a_network_that_ends(make_ends: Callable[..., Ends]) -> None:
    network, tap = make_ends(socket.SOCK_SEQPACKET), make_ends()
    receiver = compiled.Receiver(network.fileno(), tap.fileno(), DROPS)
    network.feed(b"x" * 60)
    network.far.close()
    assert receiver.move(64) == (compiled.SOURCE_BROKEN, 1, 60)
    assert receiver.error == errno.ECONNRESET
    assert list(tap.drain()) == [ALONE + b"x" * 60]


@BUILT
def test_a_network_that_is_no_socket(make_ends: Callable[[], Ends]) -> None:
    with pytest.raises(OSError) as caught:
        compiled.Receiver(-1, make_ends().fileno(), DROPS)
    assert caught.value.errno == errno.EBADF


@BUILT
@pytest.mark.parametrize("count", [1, 5])
def test_a_tap_that_is_gone(make_ends: Callable[[], Ends], count: int) -> None:
    network = make_ends()
    with ExitStack() as undo:
        tap = Ends(undo)
        receiver = compiled.Receiver(network.fileno(), tap.fileno(), DROPS, 1518)
        forgiving = compiled.Receiver(
            network.fileno(), tap.fileno(), [errno.ECONNREFUSED], 1518
        )
        tap.far.close()
        frames = [each.frame() for each in run_of(count)]
        network.feed(*frames)
        assert forgiving.move(64) == (compiled.EMPTY, 0, 0)
        assert forgiving.dropped
        assert forgiving.take_drops() == {errno.ECONNREFUSED: count}
        network.feed(*frames)
        assert receiver.move(64) == (compiled.SINK_BROKEN, 0, 0)
        assert receiver.error == errno.ENOTCONN  # told once why


@BUILT
@given(frames=st.lists(st.binary(min_size=14, max_size=1600), max_size=20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_anything_comes_out_as_it_came_in(
    receiving: Compiled, frames: list[bytes]
) -> None:
    assert [each.frame for each in receiving.send(*frames)] == frames


SEGMENTS = st.builds(
    Segment,
    payload=st.sampled_from([1, 599, 600, 1448]).map(bytes),
    sequence=st.sampled_from([0, 1, 600, 1200, 1800, 2**32 - 600]),
    flags=st.sampled_from([ACK, ACK | PSH, ACK | FIN]),
    version=st.sampled_from([4, 6]),
)


@BUILT
@given(segments=st.lists(SEGMENTS, max_size=30))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_byte_arrives_in_order(
    receiving: Compiled, segments: list[Segment]
) -> None:
    written = receiving.send(*(segment.frame() for segment in segments))
    assert all(each.is_valid() for each in written)
    arrived = []
    for each in written:
        size = each.size or len(each.payload)
        arrived += [
            (
                each.transport,
                (each.sequence + at) % 2**32,
                len(each.payload[at:][:size]),
            )
            for at in range(0, len(each.payload), size)
        ]
    sent = [
        (34 if each.version == 4 else 54, each.sequence, len(each.payload))
        for each in segments
    ]
    assert arrived == sent


@BUILT
@given(
    segments=st.lists(SEGMENTS, min_size=2, max_size=8),
    changes=st.lists(
        st.tuples(st.integers(0, 7), st.integers(0, 120), st.binary(max_size=3)),
        max_size=4,
    ),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_headers_do_no_harm(
    receiving: Compiled,
    segments: list[Segment],
    changes: list[tuple[int, int, bytes]],
) -> None:
    frames = [bytearray(each.frame()) for each in segments]
    for which, place, what in changes:
        frame = frames[which % len(frames)]
        frame[place : place + len(what)] = what
    written = receiving.send(*map(bytes, frames))
    assert sum(len(each.frame) for each in written) <= sum(map(len, frames))


# From a TAP


def long_frame(
    version: int,
    payload: bytes,
    size: int,
    *,
    tag: bytes = b"",
    flags: int = ACK,
    sequence: int = 1000,
    options: bytes = STAMPS,
) -> bytes:
    """What a TAP gives that may leave cutting and checksums to us, header included."""
    offset = (20 + len(options)) // 4 << 4
    length = 20 + len(options) + len(payload)
    addresses = V4 if version == 4 else V6
    pseudo = 0xFFFF - checksum(addresses + struct.pack("!II", length, TCP))
    tcp = struct.pack("!HHIIBBHHH", 1, 2, sequence, 3, offset, flags, 4, pseudo, 0)
    tcp += options + payload
    if version == 4:
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0xFFFF, 0, 64, TCP, 0)
        ip = ip[:10] + checksum(ip + V4).to_bytes(2, "big") + V4
        frame = MACS + tag + b"\x08\0" + ip + tcp
    else:
        ip = struct.pack("!IHBB", 6 << 28, length, TCP, 64)
        frame = MACS + tag + b"\x86\xdd" + ip + V6 + tcp
    start = len(frame) - length
    kind = (1 if version == 4 else 4) | (0x80 if flags & CWR else 0)
    headers = start + 20 + len(options)
    if not size:
        kind = headers = 0
    return VNET_HEADER.pack(1, kind, headers, size, start, 16) + frame


class Cutter(Protocol):
    """Reads from a TAP."""

    def cut(self, *messages: bytes) -> list[bytes]: ...


class PythonCutter:
    """With the codec that our switches have."""

    def cut(self, *messages: bytes) -> list[bytes]:
        return [
            bytes(frame)
            for data in messages
            for frame in Offload.parse(data[:HEADER_SIZE], 0).undo(
                bytearray(data[HEADER_SIZE:])
            )
        ]


class CompiledCutter:
    """The compiled one, between two sockets."""

    def __init__(self, tap: Ends, network: Ends) -> None:
        self.tap, self.network = tap, network
        self.sender = compiled.Sender(tap.fileno(), network.fileno(), DROPS)
        self.pauses = 0

    def cut(self, *messages: bytes) -> list[bytes]:
        frames: list[bytes] = []
        moved = octets = 0
        for message in messages:
            self.tap.feed(message)
            state = compiled.MORE
            while state in {compiled.MORE, compiled.FULL}:
                state, count, size = self.sender.move(64)
                moved, octets = moved + count, octets + size
                assert (state == compiled.FULL) == bool(self.sender.pending)
                frames += self.network.drain()
                self.pauses += state == compiled.FULL
            assert state == compiled.EMPTY
        assert (moved, octets) == (len(frames), sum(map(len, frames)))
        return frames


@pytest.fixture(params=[PYTHON, C])
def cutter(request: pytest.FixtureRequest, make_ends: Callable[[], Ends]) -> Cutter:
    if request.param == "python":
        return PythonCutter()
    return CompiledCutter(make_ends(), make_ends())


@pytest.fixture
def sending(make_ends: Callable[[], Ends]) -> CompiledCutter:
    return CompiledCutter(make_ends(), make_ends())


def is_valid(frame: bytes, tag: bytes = b"") -> bool:
    return Written(
        0, 0, 0, frame[:12] + frame[12 + len(tag) :]
    ).is_valid() and frame.startswith(MACS + tag)


@VERSIONS
@pytest.mark.parametrize("tag", [b"", VLAN, QINQ], ids=["plain", "vlan", "qinq"])
@pytest.mark.parametrize("size", [88, 1447, 1448, 9000])
@pytest.mark.parametrize("length", [1449, 14480, 63001])
def test_one_becomes_many(
    cutter: Cutter, version: int, tag: bytes, size: int, length: int
) -> None:
    payload = os.urandom(length)
    frames = cutter.cut(
        long_frame(version, payload, size, tag=tag, flags=ACK | PSH | FIN | CWR)
    )
    assert all(is_valid(frame, tag) for frame in frames)
    ip = 14 + len(tag)
    tcp = ip + (20 if version == 4 else 40)
    assert b"".join(frame[tcp + 32 :] for frame in frames) == payload
    assert {len(frame) - tcp - 32 for frame in frames[:-1]} <= {size}
    for number, frame in enumerate(frames):
        sequence = int.from_bytes(frame[tcp + 4 : tcp + 8], "big")
        assert sequence == 1000 + number * size
        first, last = number == 0, number == len(frames) - 1
        wanted = ACK | (CWR if first else 0) | (PSH | FIN if last else 0)
        assert frame[tcp + 13] == wanted
        if version == 4:
            identification = int.from_bytes(frame[ip + 4 : ip + 6], "big")
            assert identification == (0xFFFF + number) % 2**16
        assert frame[tcp + 20 : tcp + 32] == STAMPS


@VERSIONS
def test_sequence_numbers_begin_anew_when_cut(cutter: Cutter, version: int) -> None:
    frames = cutter.cut(long_frame(version, bytes(3000), 1000, sequence=2**32 - 1000))
    assert all(is_valid(frame) for frame in frames)
    tcp = 34 if version == 4 else 54
    numbers = [int.from_bytes(frame[tcp + 4 : tcp + 8], "big") for frame in frames]
    assert numbers == [2**32 - 1000, 0, 1000]


@VERSIONS
@pytest.mark.parametrize("length", [0, 1, 700, 1448])
def test_a_checksum_is_finished(cutter: Cutter, version: int, length: int) -> None:
    [frame] = cutter.cut(long_frame(version, os.urandom(length), 0))
    assert is_valid(frame)


def test_what_is_complete_stays_as_it_is(cutter: Cutter) -> None:
    frames = [os.urandom(size) for size in (14, 60, 1514, 9014, 65554)]
    assert cutter.cut(*(ALONE + frame for frame in frames)) == frames


@BUILT
def test_no_checksum_of_udp_is_zero(sending: CompiledCutter) -> None:
    # What stands in the checksum's place has it become 0, which would mean none.
    message = (
        VNET_HEADER.pack(1, 0, 0, 0, 14, 6) + bytes(14 + 6) + b"\xff\xff" + bytes(8)
    )
    [frame] = sending.cut(message)
    assert frame[20:22] == b"\xff\xff"


@BUILT
def test_behind_an_extension_header(sending: CompiledCutter) -> None:
    plain = long_frame(6, os.urandom(4000), 1000)
    fields = list(VNET_HEADER.unpack(plain[:HEADER_SIZE]))
    fields[2] += 8
    fields[4] += 8
    frame = bytearray(plain[HEADER_SIZE:])
    frame[18:20] = (int.from_bytes(frame[18:20], "big") + 8).to_bytes(2, "big")
    frame[20] = 60  # destination options
    frame[54:54] = bytes((TCP, 0, 1, 4, 0, 0, 0, 0))
    frames = sending.cut(VNET_HEADER.pack(*fields) + frame)
    assert len(frames) == 4
    for each in frames:
        assert int.from_bytes(each[18:20], "big") == len(each) - 54
        assert is_valid(
            each[:18]
            + (len(each) - 62).to_bytes(2, "big")
            + bytes((TCP,))
            + each[21:54]
            + each[62:]
        )


@BUILT
@pytest.mark.parametrize(
    ("flags", "kind", "size", "start", "place", "frame"),
    [
        (1, 0, 0, 60, 16, bytes(60)),  # a checksum behind the end
        (1, 0, 0, 65535, 65535, bytes(60)),
        (1, 1, 1448, 34, 16, bytes(2000)),  # no IPv4
        (1, 4, 1448, 54, 16, bytes(2000)),
        (1, 1, 0, 34, 16, long_frame(4, bytes(2000), 9)[HEADER_SIZE:]),
        (1, 1, 1448, 36, 16, long_frame(4, bytes(2000), 9)[HEADER_SIZE:]),
        (1, 1, 1448, 34, 6, long_frame(4, bytes(2000), 9)[HEADER_SIZE:]),
        (1, 4, 1448, 54, 16, long_frame(4, bytes(2000), 9)[HEADER_SIZE:]),
        (1, 1, 1448, 54, 16, long_frame(6, bytes(2000), 9)[HEADER_SIZE:]),
        (1, 4, 1448, 65000, 16, long_frame(6, bytes(2000), 9)[HEADER_SIZE:]),
        (1, 4, 1448, 10, 16, long_frame(6, bytes(2000), 9)[HEADER_SIZE:]),
        (1, 1, 1448, 34, 16, long_frame(4, b"", 9)[HEADER_SIZE:]),
        (1, 3, 1448, 34, 6, long_frame(4, bytes(2000), 9)[HEADER_SIZE:]),
        (1, 5, 1448, 34, 6, long_frame(4, bytes(2000), 9)[HEADER_SIZE:]),
        (0, 1, 1448, 0, 0, MACS + VLAN * 500),
        (0, 1, 1448, 0, 0, MACS + b"\x08\0\x4f"),
    ],
)
def test_what_cannot_be_cut(
    sending: CompiledCutter,
    flags: int,
    kind: int,
    size: int,
    start: int,
    place: int,
    frame: bytes,
) -> None:
    message = VNET_HEADER.pack(flags, kind, 0, size, start, place) + frame
    assert sending.cut(message, ALONE + b"after it") == [b"after it"]
    assert sending.sender.take_drops() == {compiled.MALFORMED: 1}


@BUILT
@pytest.mark.parametrize("length", [1, 9, 10])
def test_what_is_no_frame(sending: CompiledCutter, length: int) -> None:
    assert sending.cut(bytes(length)) == []
    assert sending.sender.take_drops() == {compiled.MALFORMED: 1}


@BUILT
def test_many_tiny_parts(sending: CompiledCutter) -> None:
    frames = sending.cut(long_frame(4, bytes(60000), 1), ALONE + bytes(60))
    assert len(frames) == 60001
    assert sending.pauses > 20


@BUILT
@VERSIONS
def test_nothing_is_lost_when_the_socket_is_full(
    sending: CompiledCutter, version: int
) -> None:
    sending.network.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    payload = os.urandom(60000)
    frames = sending.cut(
        long_frame(version, payload, 1448), ALONE + b"last" * 20, long_frame(4, b"", 0)
    )
    tcp = 34 if version == 4 else 54
    assert b"".join(frame[tcp + 32 :] for frame in frames[:-2]) == payload
    assert all(is_valid(frame) for frame in frames[:-2])
    assert frames[-2] == b"last" * 20
    assert sending.pauses > 10


@BUILT
def test_what_waits_is_counted_and_can_be_forgotten(sending: CompiledCutter) -> None:
    sending.network.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    sending.tap.feed(long_frame(4, bytes(14480), 1448), ALONE + bytes(60))
    state, moved, _ = sending.sender.move(64)
    assert state == compiled.FULL
    assert sending.sender.pending == 11 - moved > 0
    # Nobody has read: nothing more goes.
    assert sending.sender.move(64) == (compiled.FULL, 0, 0)
    assert sending.sender.clear() == 11 - moved
    assert sending.sender.pending == 0
    assert len(list(sending.network.drain())) == moved
    assert sending.sender.move(64) == (compiled.EMPTY, 0, 0)


@BUILT
def test_frames_that_the_socket_does_not_take(sending: CompiledCutter) -> None:
    sending.network.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    frames = [b"x" * 60, b"y" * 9000, b"z" * 60]
    got = sending.cut(*(ALONE + frame for frame in frames))
    assert got == [frames[0], frames[2]]
    assert sending.sender.take_drops() == {errno.EMSGSIZE: 1}


@BUILT
def test_a_budget_of_single_frames(sending: CompiledCutter) -> None:
    sending.tap.feed(*[ALONE + bytes(60)] * 50)
    assert sending.sender.move(40) == (compiled.MORE, 40, 2400)
    assert sending.sender.move(40) == (compiled.EMPTY, 10, 600)


@BUILT
def test_a_socket_that_is_gone(make_ends: Callable[[], Ends]) -> None:
    tap = make_ends()
    with ExitStack() as undo:
        network = Ends(undo)
        forgiving = compiled.Sender(
            tap.fileno(), network.fileno(), [errno.ECONNREFUSED, errno.ENOTCONN]
        )
        sender = compiled.Sender(tap.fileno(), network.fileno(), DROPS)
        network.far.close()
        tap.feed(*[ALONE + bytes(60)] * 3)
        assert forgiving.move(64) == (compiled.EMPTY, 0, 0)
        drops = forgiving.take_drops()
        assert drops == {errno.ECONNREFUSED: 1, errno.ENOTCONN: 2}
        assert not forgiving.dropped
        tap.feed(ALONE + bytes(60))
        assert sender.move(64) == (compiled.SINK_BROKEN, 0, 0)
        assert sender.error == errno.ENOTCONN
        assert sender.pending == 0


@BUILT
def test_a_tap_that_breaks(make_ends: Callable[..., Ends]) -> None:
    tap, network = make_ends(socket.SOCK_SEQPACKET), make_ends()
    sender = compiled.Sender(tap.fileno(), network.fileno(), DROPS)
    tap.feed(ALONE + b"x" * 60)
    tap.far.close()
    assert sender.move(64) == (compiled.SOURCE_BROKEN, 1, 60)
    assert sender.error == errno.ECONNRESET
    assert list(network.drain()) == [b"x" * 60]


HEADERS = st.builds(
    VNET_HEADER.pack,
    st.sampled_from([0, 1, 255]),
    st.sampled_from([0, 1, 4, 5, 0x81, 255]),
    st.integers(0, 65535),
    st.sampled_from([0, 1, 100, 1448, 65535]),
    st.sampled_from([0, 14, 34, 38, 54, 58, 65535]),
    st.sampled_from([0, 6, 16, 65535]),
)


@BUILT
@given(
    header=HEADERS,
    version=st.sampled_from([4, 6]),
    tag=st.sampled_from([b"", VLAN]),
    length=st.integers(0, 4000),
    changes=st.lists(st.tuples(st.integers(0, 130), st.binary(max_size=3)), max_size=4),
    end=st.integers(0, 4200),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_anything_from_a_tap_does_no_harm(
    sending: CompiledCutter,
    header: bytes,
    version: int,
    tag: bytes,
    length: int,
    changes: list[tuple[int, bytes]],
    end: int,
) -> None:
    frame = bytearray(long_frame(version, bytes(length), 1448, tag=tag)[HEADER_SIZE:])
    for place, what in changes:
        frame[place : place + len(what)] = what
    frames = sending.cut(header + bytes(frame[:end]), ALONE + b"after it")
    assert frames[-1] == b"after it"
    assert all(len(each) <= len(frame) for each in frames[:-1])
    drops = sending.sender.take_drops()
    assert drops in ({}, {compiled.MALFORMED: 1})
    assert bool(drops) == (len(frames) == 1)


@BUILT
@given(
    version=st.sampled_from([4, 6]),
    length=st.integers(1, 6000),
    size=st.sampled_from([100, 1448, 65535]),
    tag=st.sampled_from([b"", VLAN]),
    flags=st.sampled_from([ACK, ACK | PSH, ACK | CWR]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_cut_alike(
    sending: CompiledCutter,
    version: int,
    length: int,
    size: int,
    tag: bytes,
    flags: int,
) -> None:
    message = long_frame(version, os.urandom(length), size, tag=tag, flags=flags)
    assert sending.cut(message) == PythonCutter().cut(message)


# Both


@BUILT
@pytest.mark.parametrize(
    ("drops", "error"),
    [
        (["EIO"], TypeError),
        (7, TypeError),
        ([0], ValueError),
        ([-1], ValueError),
        ([1 << 70], OverflowError),
        (range(1, 40), ValueError),
    ],
)
def test_causes_of_drops_are_errnos(
    make_ends: Callable[[], Ends], drops: list[int], error: type[Exception]
) -> None:
    network, tap = make_ends().fileno(), make_ends().fileno()
    with pytest.raises(error):
        compiled.Sender(tap, network, drops)
    with pytest.raises(error):
        compiled.Receiver(network, tap, drops)


@BUILT
@pytest.mark.parametrize("size", [-1, 0, 13, 65555])
def test_sizes_of_frames(make_ends: Callable[[], Ends], size: int) -> None:
    with pytest.raises(ValueError, match="a frame has 14 to 65554 bytes"):
        compiled.Receiver(make_ends().fileno(), make_ends().fileno(), DROPS, size)


@BUILT
@pytest.mark.parametrize("budget", [0, -1])
def test_budgets_are_positive(
    receiving: Compiled, sending: CompiledCutter, budget: int
) -> None:
    for mover in (receiving.receiver, sending.sender):
        with pytest.raises(ValueError, match="1 or more"):
            mover.move(budget)
        with pytest.raises(TypeError):
            mover.move("64")  # type: ignore[arg-type]


# With a pump


class Pumping:
    """Two pumps with the compiled step, as a link makes them, and what they say."""

    def __init__(self, device: Ends, network: Ends) -> None:
        self.device, self.network = device, network
        self.sent, self.received = Counters(), Counters()
        self.broken: list[tuple[End, OSError]] = []
        self.sending = self._pump(device.near, network.near, PLUG_DROPS, self.sent)
        self.sending.use(
            _speedups.make_sender(device.fileno(), network.fileno(), PLUG_DROPS)
        )
        self.receiving = self._pump(
            network.near, device.near, DEVICE_DROPS, self.received
        )
        self.receiving.use(
            _speedups.make_receiver(
                network.fileno(), device.fileno(), DEVICE_DROPS, 1500
            )
        )

    def _pump(
        self, source: End, sink: End, causes: dict[int, str], counters: Counters
    ) -> Pump:
        return Pump(
            asyncio.get_running_loop(),
            source,
            sink,
            causes,
            counters,
            memoryview(bytearray(BUFFER_SIZE)),
            lambda end, error: self.broken.append((end, error)),
        )

    def __enter__(self) -> Self:
        self.sending.start()
        self.receiving.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.sending.stop()
        self.receiving.stop()


@pytest.fixture
async def pumping(make_ends: Callable[[], Ends], _loop_is_content: None) -> Pumping:
    return Pumping(make_ends(), make_ends())


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@BUILT
def test_both_sides_mean_the_same() -> None:
    assert (_speedups.FULL, _speedups.SOURCE_BROKEN, _speedups.SINK_BROKEN) == (
        compiled.FULL,
        compiled.SOURCE_BROKEN,
        compiled.SINK_BROKEN,
    )
    assert max(compiled.EMPTY, compiled.MORE) < _speedups.FULL


@BUILT
def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIOIOTH_SPEEDUPS", raising=False)
    assert _speedups.are_there()
    monkeypatch.setenv("AIOIOTH_SPEEDUPS", "0")
    assert not _speedups.are_there()


@BUILT
async def test_a_pump_moves_and_counts(pumping: Pumping) -> None:
    with pumping as it:
        it.device.feed(long_frame(4, bytes(3000), 1000), ALONE + b"x" * 60)
        it.network.feed(*(each.frame() for each in run_of(5)))
        await turns()
        assert len(list(it.network.drain())) == 4
        assert len(list(it.device.drain())) == 1
        assert it.sent == Counters(frames=4, bytes=3 * 1066 + 60)
        assert it.received == Counters(frames=5, bytes=5 * 1514)
    assert it.broken == []


@BUILT
async def test_a_pump_waits_for_room(pumping: Pumping) -> None:
    pumping.network.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    payload = os.urandom(40000)
    with pumping as it:
        it.device.feed(long_frame(4, payload, 1448), *[ALONE + b"x" * 60] * 3)
        await turns()
        assert it.sent.pauses == 1
        frames = list(it.network.drain())
        # What comes meanwhile is not read: it stays in the stack's queue.
        before = it.sent.frames
        it.sending.flush()
        assert it.sent.frames == before
        async with asyncio.timeout(10):
            while len(frames) < 28 + 3:
                await asyncio.sleep(0)
                frames += it.network.drain()
        assert b"".join(frame[66:] for frame in frames[:28]) == payload
        assert frames[28:] == [b"x" * 60] * 3
        await turns()
        assert it.sent.frames == 31
        assert it.sent.drops == {}


@BUILT
async def test_what_is_held_is_lost_with_the_network(pumping: Pumping) -> None:
    pumping.network.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    with pumping as it:
        it.device.feed(long_frame(4, bytes(14480), 1448))
        await turns()
        sent = it.sent.frames
    assert it.sent.drops == {"no carrier": 10 - sent}
    it.sending.stop()
    assert it.sent.drops == {"no carrier": 10 - sent}


@BUILT
async def test_a_pump_names_drops(pumping: Pumping) -> None:
    with pumping as it:
        it.device.feed(b"short", VNET_HEADER.pack(0, 9, 0, 0, 0, 0) + bytes(60))
        it.network.feed(bytes(1519), bytes(1518))
        await turns()
    assert it.sent == Counters(drops={"malformed": 2})
    assert it.received == Counters(frames=1, bytes=1518, drops={"too long": 1})


@BUILT
@pytest.mark.parametrize("paused", [False, True])
async def test_a_pump_tells_that_its_sink_is_broken(
    make_ends: Callable[..., Ends], *, paused: bool
) -> None:
    it = Pumping(make_ends(), make_ends(socket.SOCK_SEQPACKET))
    it.network.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    with it:
        it.receiving.stop()
        if paused:
            it.device.feed(long_frame(4, bytes(14480), 1448))
            await turns()
        assert it.sent.pauses == paused
        it.network.far.close()
        it.device.feed(ALONE + bytes(60))
        await turns()
        [(end, error)] = it.broken
        assert end is it.network.near
        assert error.errno in {errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN}
        await turns()
    assert len(it.broken) == 1


@BUILT
async def test_a_pump_tells_that_its_source_is_broken(
    make_ends: Callable[..., Ends],
) -> None:
    with Pumping(make_ends(), make_ends(socket.SOCK_SEQPACKET)) as it:
        it.network.feed(b"x" * 60)
        it.network.far.close()
        await turns()
        [(end, error)] = it.broken
        assert end is it.network.near
        assert error.errno == errno.ECONNRESET
        assert it.received == Counters(frames=1, bytes=60)


@BUILT
async def test_a_pump_that_forgets(pumping: Pumping) -> None:
    with pumping as it:
        it.device.feed(ALONE + bytes(60))
        it.sending.forget()
        await turns()
        assert list(it.network.drain()) == []
        asyncio.get_running_loop().remove_reader(it.device.near)  # as the parent does
