"""From a TAP: the compiled step beside the codec that our switches have."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from aioioth.wire.offload import HEADER_SIZE, VNET_HEADER
from tests.unit.segments import (
    ACK,
    CWR,
    FIN,
    MACS,
    PSH,
    STAMPS,
    TCP,
    VERSIONS,
    is_valid,
    long_frame,
)
from tests.unit.steps import (
    ALONE,
    BUILT,
    DROPS,
    PYTHON,
    C,
    CompiledCutter,
    Ends,
    PythonCutter,
    compiled,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.steps import Cutter

VLAN, QINQ = bytes.fromhex("8100 0005"), bytes.fromhex("88a8 0007 8100 0005")


@pytest.fixture(params=[PYTHON, C])
def cutter(request: pytest.FixtureRequest, make_ends: Callable[[], Ends]) -> Cutter:
    if request.param == "python":
        return PythonCutter()
    return CompiledCutter(make_ends(), make_ends())


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
        assert sender.pending == 1  # whoever stops the pump counts it
        assert sender.clear() == 1


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
