from __future__ import annotations

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aioioth.learning import Entry, LearningTable

AGEING = 100.0
CAPACITY = 4


def make() -> LearningTable[bytes, str]:
    return LearningTable(ageing=AGEING, capacity=CAPACITY)


def keys(table: LearningTable[bytes, str], now: float) -> set[bytes]:
    return {entry.key for entry in table.entries(now)}


def test_nothing_is_known_at_first() -> None:
    table = make()
    assert table.find(b"a", 0.0) is None
    assert (len(table), list(table.entries(0.0))) == (0, [])


def test_an_address_that_moves() -> None:
    table = make()
    table.learn(b"a", "left", 1.0)
    assert table.find(b"a", 2.0) == "left"
    table.learn(b"a", "right", 3.0)
    assert table.find(b"a", 3.0) == "right"
    assert list(table.entries(5.0)) == [Entry(b"a", "right", 2.0)]


def test_an_address_is_forgotten_in_time() -> None:
    table = make()
    table.learn(b"a", "left", 1.0)
    assert table.find(b"a", 1.0 + AGEING - 0.5) == "left"
    assert table.find(b"a", 1.0 + AGEING) is None
    assert list(table.entries(1.0 + AGEING)) == []
    table.learn(b"a", "left", 2.0 + AGEING)
    assert table.find(b"a", 2.0 + AGEING) == "left"


def test_a_flood_of_addresses_does_not_push_out_the_fresh() -> None:
    table = make()
    for number in range(1000):
        table.learn(number.to_bytes(2), "flood", 1.0)
    assert len(table) == CAPACITY
    assert keys(table, 1.0) == {number.to_bytes(2) for number in range(CAPACITY)}
    table.learn(bytes(2), "moved", 1.0)  # what is known may move all the same
    assert table.find(bytes(2), 1.0) == "moved"


def test_a_flood_that_is_over_makes_room() -> None:
    table = make()
    for number in range(1000):
        table.learn(number.to_bytes(2), "flood", 1.0)
    table.learn(b"a", "left", 1.0 + AGEING)
    assert keys(table, 1.0 + AGEING) == {b"a"}
    assert len(table) == 1


def test_a_full_table_is_not_searched_for_each_frame() -> None:
    table = make()
    for number in range(CAPACITY):
        table.learn(number.to_bytes(2), "flood", float(number) / 4)
    table.learn(b"a", "left", AGEING - 0.5)
    # The first entry is stale now, but a search was made less than a second ago.
    table.learn(b"a", "left", AGEING)
    assert table.find(b"a", AGEING) is None
    table.learn(b"a", "left", AGEING + 0.5)
    assert table.find(b"a", AGEING + 0.5) == "left"


def test_forgetting_makes_room_at_once() -> None:
    table = make()
    for number in range(CAPACITY + 1):
        table.learn(number.to_bytes(2), "left" if number % 2 else "right", 1.0)
    table.forget("left")
    assert {entry.where for entry in table.entries(1.0)} == {"right"}
    table.learn(b"a", "left", 1.0)
    assert table.find(b"a", 1.0) == "left"
    table.forget("nobody")
    assert len(table) == CAPACITY // 2 + 1


def test_what_is_equal_is_the_same_place() -> None:
    table: LearningTable[tuple[bytes, int], tuple[str, int]] = LearningTable(ageing=1)
    table.learn((b"a", 1), ("10.0.0.1", 5), 0)
    table.learn((b"a", 2), ("10.0.0.1", 6), 0)
    table.forget(("10.0.0.1", 5))
    assert table.find((b"a", 1), 0) is None
    assert table.find((b"a", 2), 0) == ("10.0.0.1", 6)


def test_entries_are_of_the_moment() -> None:
    table = make()
    table.learn(b"a", "left", 1.0)
    entries = table.entries(1.0)
    table.learn(b"b", "left", 1.0)
    table.forget("left")
    assert [entry.key for entry in entries] == [b"a"]


@pytest.mark.parametrize(("ageing", "capacity"), [(0.0, 4), (10.0, 0)])
def test_a_table_that_learns_nothing(ageing: float, capacity: int) -> None:
    table: LearningTable[bytes, str] = LearningTable(ageing=ageing, capacity=capacity)
    table.learn(b"a", "left", 1.0)
    assert table.find(b"a", 1.0) is None
    assert list(table.entries(1.0)) == []


KEYS = st.integers(0, 7).map(lambda number: bytes([number]))
PLACES = st.sampled_from(["left", "right", "middle"])


class AgainstAModel(RuleBasedStateMachine):
    """The model never forgets, and knows by the times what has to be forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.table = make()
        self.now = 0.0
        self.model: dict[bytes, tuple[str, float]] = {}
        self.refused_at = float("-inf")

    def fresh(self) -> dict[bytes, tuple[str, float]]:
        return {
            key: (where, heard)
            for key, (where, heard) in self.model.items()
            if self.now - heard < AGEING
        }

    @rule(seconds=st.sampled_from([0.0, 0.25, 1.0, 40.0, 99.75, 100.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(key=KEYS, where=PLACES)
    def learn(self, key: bytes, where: str) -> None:
        fresh = self.fresh()
        self.table.learn(key, where, self.now)
        learned = self.table.find(key, self.now) == where
        if key in fresh or len(fresh) < CAPACITY:
            # Refused only if a stale one could have been found just now.
            assert learned or self.now - self.refused_at < 1.0
        else:
            assert not learned
        if learned:
            self.model[key] = where, self.now
        elif self.now - self.refused_at >= 1.0:
            self.refused_at = self.now

    @rule(where=PLACES)
    def forget(self, where: str) -> None:
        self.table.forget(where)
        self.model = {
            key: entry for key, entry in self.model.items() if entry[0] != where
        }

    @invariant()
    def the_same_is_known(self) -> None:
        fresh = self.fresh()
        entries = list(self.table.entries(self.now))
        assert len(entries) == len(fresh)
        for key, where, age in entries:
            assert fresh[key] == (where, self.now - age)
        for key in map(bytes, ([number] for number in range(8))):
            assert self.table.find(key, self.now) == fresh.get(key, (None,))[0]
        assert len(entries) <= len(self.table) <= CAPACITY


TestAgainstAModel = AgainstAModel.TestCase
TestAgainstAModel.settings = settings(stateful_step_count=40, max_examples=100)
