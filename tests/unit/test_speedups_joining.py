"""To a TAP, compiled; what is the same in Python is in test_merging.py."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.unit.segments import (
    ACK,
    FIN,
    PSH,
    VERSIONS,
    Segment,
    parts_in,
    parts_of,
    run_of,
)
from tests.unit.steps import ALONE, BUILT, DROPS, Compiled, Ends, compiled

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = BUILT


@VERSIONS
def test_what_is_damaged_goes_on_alone(receiving: Compiled, version: int) -> None:
    frames = [bytearray(each.frame()) for each in run_of(9, version=version)]
    frames[4][-1] ^= 1
    before, bad, after = receiving.send(*map(bytes, frames))
    assert bad.frame == frames[4]
    assert before.is_valid()
    assert after.is_valid()
    assert [len(each.payload) // 1448 for each in (before, after)] == [4, 4]


def test_an_ip_header_is_looked_at_as_well(receiving: Compiled) -> None:
    frames = [bytearray(each.frame()) for each in run_of(3)]
    frames[1][24] ^= 1  # its checksum
    assert [each.frame for each in receiving.send(*map(bytes, frames))] == frames


def test_sequence_numbers_begin_anew(receiving: Compiled) -> None:
    segments = run_of(6, sequence=2**32 - 3 * 1448)
    written = receiving.send(*(segment.frame() for segment in segments))
    assert written[0].sequence == 2**32 - 3 * 1448
    assert parts_of(written) == parts_in(segments)
    assert all(each.is_valid() for each in written)


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


def test_an_odd_number_of_bytes(receiving: Compiled) -> None:
    [one] = receiving.send(*(each.frame() for each in run_of(7, size=999)))
    assert one.is_valid()
    assert len(one.payload) == 7 * 999


def test_the_newest_window_is_told(receiving: Compiled) -> None:
    one, two = run_of(2)
    [written] = receiving.send(one.frame(), replace(two, window=600).frame())
    assert written.is_valid()
    assert written.frame[48:50] == (600).to_bytes(2, "big")


def test_frames_that_are_too_long(receiving: Compiled) -> None:
    written = receiving.send(bytes(1618), bytes(1619), bytes(20))
    assert [len(each.frame) for each in written] == [1618, 20]
    assert receiving.drops == {errno.EMSGSIZE: 1}
    assert not receiving.receiver.dropped


def test_a_budget(receiving: Compiled) -> None:
    receiving.network.feed(*[bytes(60)] * 40)
    assert receiving.receiver.move(30) == (compiled.MORE, 30, 1800)
    assert receiving.receiver.move(30) == (compiled.EMPTY, 10, 600)


def test_a_network_that_ends(make_ends: Callable[..., Ends]) -> None:
    network, tap = make_ends(socket.SOCK_SEQPACKET), make_ends()
    receiver = compiled.Receiver(network.fileno(), tap.fileno(), DROPS)
    network.feed(b"x" * 60)
    network.far.close()
    assert receiver.move(64) == (compiled.SOURCE_BROKEN, 1, 60)
    assert receiver.error == errno.ECONNRESET
    assert list(tap.drain()) == [ALONE + b"x" * 60]


def test_a_network_that_is_no_socket(make_ends: Callable[[], Ends]) -> None:
    with pytest.raises(OSError) as caught:
        compiled.Receiver(-1, make_ends().fileno(), DROPS)
    assert caught.value.errno == errno.EBADF


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


SEGMENTS = st.builds(
    Segment,
    payload=st.sampled_from([1, 599, 600, 1448]).map(bytes),
    sequence=st.sampled_from([0, 1, 600, 1200, 1800, 2**32 - 600]),
    flags=st.sampled_from([ACK, ACK | PSH, ACK | FIN]),
    version=st.sampled_from([4, 6]),
)


@given(segments=st.lists(SEGMENTS, max_size=30))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_byte_arrives_in_order(
    receiving: Compiled, segments: list[Segment]
) -> None:
    written = receiving.send(*(segment.frame() for segment in segments))
    assert all(each.is_valid() for each in written)
    assert parts_of(written) == parts_in(segments)


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
