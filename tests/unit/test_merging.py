"""Frames that are joined for a TAP: in Python, and compiled where the same holds."""

from __future__ import annotations

import errno
import struct
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from aioioth._merging import Merger
from aioioth.wire.offload import HEADER_SIZE
from tests.unit.segments import (
    ACK,
    FIN,
    PSH,
    STAMPS,
    VERSIONS,
    Segment,
    Written,
    parts_in,
    parts_of,
    run_of,
)
from tests.unit.steps import PYTHON, C, Compiled, Tap

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.steps import Ends, Joiner

# Both


@pytest.fixture(params=[PYTHON, C])
def joiner(request: pytest.FixtureRequest, make_ends: Callable[[], Ends]) -> Joiner:
    if request.param == "python":
        return Tap()
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
@pytest.mark.parametrize("count", [60, 100])
def test_the_longest_packet(joiner: Joiner, version: int, count: int) -> None:
    segments = run_of(count, version=version)
    written = joiner.send(*(segment.frame() for segment in segments))
    assert len(written) == -(-count // 45)
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
@pytest.mark.parametrize("place", [19, 25, 30, 60, 200, 1000, -1])
@pytest.mark.parametrize("which", [0, 1, 4])
def test_what_was_damaged_is_not_mended(
    joiner: Joiner, version: int, place: int, which: int
) -> None:
    frames = [bytearray(each.frame()) for each in run_of(5, version=version)]
    frames[which][place] ^= 0x10
    written = joiner.send(*map(bytes, frames))
    assert Written(0, 0, 0, bytes(frames[which])) in written
    assert [each for each in written if each.kind and not each.is_valid()] == []


@VERSIONS
def test_order_stays(joiner: Joiner, version: int) -> None:
    segments = run_of(4, version=version)
    frames = [segment.frame() for segment in segments]
    arp = b"\xff" * 12 + b"\x08\x06" + bytes(28)
    one, two, three = joiner.send(frames[0], frames[1], arp, frames[2], frames[3])
    assert two.frame == arp
    assert one.payload == segments[0].payload + segments[1].payload
    assert three.payload == segments[2].payload + segments[3].payload


@given(frames=st.lists(st.binary(min_size=14, max_size=1600), max_size=20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_anything_comes_out_as_it_came_in(joiner: Joiner, frames: list[bytes]) -> None:
    assert [each.frame for each in joiner.send(*frames)] == frames


# Python's own


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


def test_a_shorter_one_is_not_appended() -> None:
    one, two = run_of(2)
    frames = [one.frame(), replace(two, payload=bytes(1446)).frame()]
    assert [each.frame for each in Tap().send(*frames)] == frames


def test_one_of_an_odd_length_stays_as_it_is() -> None:
    frame = Segment(bytes(1447)).frame()
    assert Tap().send(frame, frame) == [Written(0, 0, 0, frame)] * 2


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


@VERSIONS
@pytest.mark.parametrize("place", [200, 1000, -1])
@pytest.mark.parametrize("which", [0, 1, 4])
def test_the_damaged_are_written_one_by_one(
    version: int, place: int, which: int
) -> None:
    frames = [bytearray(each.frame()) for each in run_of(5, version=version)]
    frames[which][place] ^= 0x10
    assert [each.frame for each in Tap().send(*map(bytes, frames))] == frames


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
    tap.answer = BlockingIOError(errno.EAGAIN, "full")  # a packet socket's way
    assert tap.send(*frames) == []
    assert tap.merger.error.errno == errno.ENOBUFS
    tap.answer, tap.full = None, False
    assert len(tap.send(*frames)) == 1


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
    assert parts_of(written) == parts_in(segments)
