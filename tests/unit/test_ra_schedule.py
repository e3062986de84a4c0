"""When a router advertises, on a clock that a test turns."""

from __future__ import annotations

from ipaddress import IPv6Address
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from aioioth.servers._ra_schedule import Schedule
from aioioth.wire.nd import ALL_NODES, RouterAdvertisement, RouterSolicitation

QUESTION = RouterSolicitation().pack()
HOST = IPv6Address("fe80::7")
NOBODY = IPv6Address("::")


def schedule(least: float = 200.0, most: float = 600.0) -> Schedule:
    return Schedule((least, most), lambda least, most: (least + most) / 2, 1000.0)


def started() -> Schedule:
    some = schedule()
    assert some.take(1000.0) == [ALL_NODES]
    return some


def test_the_first_ones_come_often() -> None:
    some = schedule()
    moments = []
    for _ in range(6):
        moments.append(some.deadline)
        assert some.take(moments[-1]) == [ALL_NODES]
        assert some.take(moments[-1]) == []
    assert moments == [1000, 1016, 1032, 1048, 1448, 1848]


def test_not_more_often_than_it_shall_be() -> None:
    some = schedule(2, 4)
    for _ in range(5):
        some.take(some.deadline)
    assert some.deadline == 1015


def test_a_host_is_answered_at_once_and_alone() -> None:
    some = started()
    some.solicited(QUESTION, HOST, 255, 1001.0)
    some.solicited(QUESTION, HOST, 255, 1001.0)
    assert some.deadline <= 1001.0
    assert some.take(1001.0) == [HOST]
    assert some.take(1001.0) == []
    assert some.deadline == 1016.0


@pytest.mark.parametrize("source", [NOBODY, IPv6Address("fd00::7")])
def test_who_has_no_link_local_address_hears_it_with_all(source: IPv6Address) -> None:
    some = started()
    for _ in range(100):
        some.solicited(QUESTION, source, 255, 1001.0)
    # All hosts are not told more often than every 3 s.
    assert some.take(1001.0) == []
    assert some.deadline == 1003.0
    assert some.take(1003.0) == [ALL_NODES]
    some.solicited(QUESTION, source, 255, 1010.0)
    assert some.take(1010.0) == [ALL_NODES]


def test_a_crowd_is_told_together() -> None:
    some = started()
    for number in range(1, 1001):
        some.solicited(QUESTION, IPv6Address(f"fe80::{number:x}"), 255, 1001.0)
    assert len(some.take(1001.0)) == 20
    assert some.deadline == 1003.0
    assert some.take(1003.0) == [ALL_NODES]
    # A second later there are ten again.
    for number in range(1, 101):
        some.solicited(QUESTION, IPv6Address(f"fe80::{number:x}"), 255, 1002.0)
    assert len(some.take(1002.0)) == 10


def test_who_was_told_with_all_is_not_told_again() -> None:
    some = started()
    some.solicited(QUESTION, HOST, 255, 1015.9)
    assert some.take(1016.0) == [ALL_NODES]
    assert some.take(1016.0) == []


@pytest.mark.parametrize(
    ("message", "source", "hop_limit"),
    [
        (QUESTION, "fe80::7", 254),
        (QUESTION, "ff02::1", 255),
        (QUESTION[:-1], "fe80::7", 255),
        (QUESTION + b"\1\0", "fe80::7", 255),
        (RouterSolicitation(bytes(6)).pack(), "::", 255),
        (RouterAdvertisement().pack(), "fe80::7", 255),
        (b"", "fe80::7", 255),
    ],
)
def test_what_is_no_question(message: bytes, source: str, hop_limit: int) -> None:
    some = started()
    with pytest.raises(ValueError):
        some.solicited(message, IPv6Address(source), hop_limit, 1001.0)
    assert some.deadline == 1016.0


@given(st.lists(st.tuples(st.binary(max_size=60), st.booleans(), st.floats(0, 5))))
def test_any_bytes(messages: list[tuple[bytes, bool, float]]) -> None:
    some, now = started(), 1000.0
    told: list[float] = []
    for data, is_right, wait in messages:
        now += wait
        try:
            some.solicited((QUESTION if is_right else b"\x85\0") + data, HOST, 255, now)
        except ValueError:
            continue
        hosts = some.take(now)
        assert hosts in ([HOST], [ALL_NODES], [])
        if hosts == [ALL_NODES]:
            told.append(now)
    assert all(b - a >= 3 for a, b in pairwise(told))
