from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies as st

import aioioth
from aioioth._rotation import Rotation
from aioioth.errors import ConfigurationError
from aioioth.hashes import hash_address
from aioioth.otip import OneTimeAddresses, otip_address

if TYPE_CHECKING:
    import ipaddress

BASE = "fd00::/64"


def rotation(
    period: int = 32, offset: int = 0, before: float = 32, after: float = 32
) -> Rotation:
    return Rotation("srv.lab", BASE, "secret", period, offset, before, after)


def number(count: int) -> ipaddress.IPv6Address:
    return hash_address("srv.lab", BASE, password="secret", time=count)


def test_where_a_server_is() -> None:
    assert otip_address("srv.lab", BASE, "secret", 3200.0) == number(100)
    assert otip_address("srv.lab", BASE, "secret", 3231.9) == number(100)
    assert otip_address("srv.lab", BASE, "secret", 3232) == number(101)
    assert otip_address("srv.lab", BASE, "secret", 3231, offset=1) == number(101)
    assert otip_address("srv.lab", BASE, "secret", 3200, period=100) == number(32)
    assert otip_address("srv.lab", BASE, "other", 3200.0) != number(100)


def test_where_it_is_just_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 3200.0)
    assert otip_address("srv.lab", BASE, "secret") == number(100)


def test_this_one_the_last_one_and_the_next_one() -> None:
    assert rotation().wanted(3200.0) == [number(99), number(100), number(101)]
    assert rotation().wanted(3231.9) == [number(99), number(100), number(101)]
    assert rotation().wanted(3232.0) == [number(100), number(101), number(102)]
    assert rotation().next_change(3200.0) == 3232.0
    assert rotation().next_change(3231.0) == 3232.0
    assert rotation().next_change(3232.0) == 3264.0


def test_other_times_before_and_after() -> None:
    # Period 100 is from 3200 to 3232: it is there from 3195 to 3242.
    some = rotation(before=5, after=10)
    assert some.wanted(3194.9) == [number(99)]
    assert some.wanted(3195.0) == [number(99), number(100)]
    assert some.wanted(3209.9) == [number(99), number(100)]
    assert some.wanted(3210.0) == [number(100)]
    assert some.wanted(3241.9) == [number(100), number(101)]
    assert some.wanted(3242.0) == [number(101)]
    changes = [3190.0]
    while changes[-1] < 3240:
        changes.append(some.next_change(changes[-1]))
    assert changes == [3190.0, 3195.0, 3210.0, 3227.0, 3242.0]


def test_one_at_a_time() -> None:
    only = rotation(before=0, after=0)
    assert only.wanted(3231.9) == [number(100)]
    assert only.wanted(3232.0) == [number(101)]


@given(
    st.integers(1, 1000),
    st.integers(-1000, 1000),
    st.integers(0, 32),
    st.integers(0, 32),
    st.integers(1_000_000, 2_000_000_000),
)
def test_a_change_is_one(
    period: int, offset: int, before: int, after: int, now: int
) -> None:
    # In quarters of seconds, so that there is nothing to be rounded.
    some = rotation(period, offset, before * period / 4, after * period / 4)
    wanted = some.wanted(now)
    assert some.current(now) in wanted
    assert len(wanted) == len(set(wanted)) <= 18
    change = some.next_change(now)
    assert now < change <= now + period
    assert some.wanted(change) != wanted
    assert some.wanted(math.nextafter(change, 0) - 0.001) == wanted or (
        change - now < 0.001
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"password": ""}, "password is empty"),
        ({"password": b""}, "password is empty"),
        ({"period": 0}, "period=0"),
        ({"before": -1}, "before=-1"),
        ({"after": 257}, "0 to 256 seconds"),
        ({"name": ""}, "needs a name"),
        ({"base": "10.0.0.0/8"}, "no IPv6"),
    ],
)
def test_refusals(options: dict[str, Any], said: str) -> None:
    arguments = {"name": "srv.lab", "base": BASE, "password": "secret", **options}
    with pytest.raises(ConfigurationError, match=said):
        OneTimeAddresses(aioioth.Stack(), **arguments)
