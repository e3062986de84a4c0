from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from aioioth.wire.vlan import SERVICE_TAG, VlanTranslator

MACS = bytes.fromhex("ffffffffffff 020000000001")
REST = bytes.fromhex("0800") + b"payload"
PLAIN = MACS + REST


def tagged(control: int, kind: int = 0x8100, rest: bytes = REST) -> bytes:
    return MACS + kind.to_bytes(2, "big") + control.to_bytes(2, "big") + rest


def out(translator: VlanTranslator, frame: bytes) -> bytes | None:
    changed = translator.outgoing(memoryview(frame))
    return None if changed is None else bytes(changed)


def into(translator: VlanTranslator, frame: bytes) -> bytes | None:
    changed = translator.incoming(memoryview(frame))
    return None if changed is None else bytes(changed)


# What a VLAN is inside, and outside. The upper four bits are priority and the like.
PRIORITY = 0xB000
PASSING = [
    (VlanTranslator(inside_untagged=4), PLAIN, tagged(4)),
    (VlanTranslator(inside_untagged=4094), PLAIN, tagged(4094)),
    (VlanTranslator(), PLAIN, PLAIN),
    (VlanTranslator(), tagged(0), tagged(0)),
    (VlanTranslator(outside_untagged=7), tagged(7), PLAIN),
    (VlanTranslator(inside_untagged=4, outside_untagged=4), PLAIN, tagged(4)),
    (VlanTranslator(inside_untagged=4, outside_untagged=4), tagged(4), PLAIN),
    (VlanTranslator(tagged={5: 5}), tagged(5), tagged(5)),
    (VlanTranslator(tagged={5: 6}), tagged(5), tagged(6)),
    (VlanTranslator(tagged={5: 6, 6: 5}), tagged(6), tagged(5)),
    (VlanTranslator(tagged={5: 6}), tagged(PRIORITY | 5), tagged(PRIORITY | 6)),
    (VlanTranslator(trunk=True), tagged(PRIORITY | 9), tagged(PRIORITY | 9)),
    (VlanTranslator(trunk=True, tagged={1: 1}), tagged(1), tagged(1)),
    (
        VlanTranslator(inside_untagged=5, tag_type=SERVICE_TAG),
        tagged(4),
        tagged(5, SERVICE_TAG, tagged(4)[12:]),
    ),
    (
        VlanTranslator(tagged={5: 6}, tag_type=SERVICE_TAG),
        tagged(5, SERVICE_TAG),
        tagged(6, SERVICE_TAG),
    ),
]


@pytest.mark.parametrize(("translator", "inside", "outside"), PASSING)
def test_what_passes(translator: VlanTranslator, inside: bytes, outside: bytes) -> None:
    assert out(translator, inside) == outside
    assert into(translator, outside) == inside
    assert not translator.drops


# The frames of a table that go one way only are dropped on the other.
LEAVING = [
    (VlanTranslator(inside_untagged=4), tagged(9)),
    (VlanTranslator(inside_untagged=4), tagged(4)),
    (VlanTranslator(outside_untagged=7), PLAIN),
    (VlanTranslator(), tagged(9)),
    (VlanTranslator(tagged={5: 6}), tagged(6)),
    (VlanTranslator(trunk=True), tagged(1)),
    (VlanTranslator(trunk=True), tagged(4095)),
    (VlanTranslator(tagged={5: 6}, trunk=True), tagged(6)),
    (VlanTranslator(inside_untagged=4, trunk=True), tagged(4)),
]


@pytest.mark.parametrize(("translator", "frame"), LEAVING)
def test_what_does_not_leave(translator: VlanTranslator, frame: bytes) -> None:
    assert out(translator, frame) is None
    assert not translator.drops  # whoever sends counts it


ENTERING = [
    (VlanTranslator(inside_untagged=4), PLAIN),
    (VlanTranslator(inside_untagged=4), tagged(5)),
    (VlanTranslator(inside_untagged=4), tagged(4, SERVICE_TAG)),
    (VlanTranslator(inside_untagged=4, tag_type=SERVICE_TAG), tagged(4)),
    (VlanTranslator(outside_untagged=7), tagged(7)),
    (VlanTranslator(), tagged(9)),
    (VlanTranslator(tagged={5: 6}), tagged(5)),
    (VlanTranslator(tagged={5: 6}, trunk=True), tagged(5)),
    (VlanTranslator(trunk=True), tagged(4095)),
]


@pytest.mark.parametrize(("translator", "frame"), ENTERING)
def test_what_does_not_enter(translator: VlanTranslator, frame: bytes) -> None:
    assert into(translator, frame) is None
    assert translator.drops == {"other VLAN": 1}


def test_nobody_chooses_a_vlan_with_a_second_tag() -> None:
    twice = tagged(4, rest=tagged(9)[12:])
    four = VlanTranslator(inside_untagged=4, tagged={9: 9})
    assert into(four, twice) is None
    assert four.drops == {"other VLAN": 1}
    seven = VlanTranslator(outside_untagged=4, tagged={9: 9})
    assert out(seven, twice) is None
    # One of another type is not ours to judge.
    other = tagged(4, rest=tagged(9, SERVICE_TAG)[12:])
    assert into(four, other) == tagged(9, SERVICE_TAG)


def test_a_priority_without_a_vlan_is_kept_with_the_vlan() -> None:
    four = VlanTranslator(inside_untagged=4)
    assert out(four, tagged(PRIORITY)) == tagged(PRIORITY | 4)
    seven = VlanTranslator(outside_untagged=7)
    assert into(seven, tagged(PRIORITY)) == tagged(PRIORITY | 7)


@pytest.mark.parametrize(
    "frame", [b"", MACS, PLAIN[:13], tagged(4)[:14], tagged(4)[:17]]
)
def test_what_is_cut_off(frame: bytes) -> None:
    four = VlanTranslator(inside_untagged=4)
    assert into(four, frame) is None
    assert four.drops == {"malformed": 1}
    assert out(four, frame) is None


def test_the_shortest_frame_behind_a_tag() -> None:
    four = VlanTranslator(inside_untagged=4)
    assert into(four, tagged(4)[:18]) == PLAIN[:14]


vlans = st.integers(0, 4094)
translators = st.builds(
    VlanTranslator,
    inside_untagged=st.sampled_from([0, 1, 4]),
    outside_untagged=st.sampled_from([0, 1, 5]),
    tagged=st.sampled_from([{}, {6: 6}, {6: 7}, {6: 7, 7: 6}, {4094: 8}]),
    trunk=st.booleans(),
    tag_type=st.sampled_from([0x8100, 0x88A8]),
)
frames = st.binary(max_size=80) | st.builds(
    tagged,
    st.integers(0, 0xFFFF) | vlans,
    st.sampled_from([0x8100, 0x88A8]),
    st.binary(max_size=30),
)


@given(translators, frames)
def test_what_enters_can_leave(translator: VlanTranslator, frame: bytes) -> None:
    inside = into(translator, frame)
    assert sum(translator.drops.values()) == (inside is None)
    if inside is not None:
        assert len(inside) >= 14
        again = out(translator, inside)
        assert again is not None
        # Nothing is lost but the priority of a frame that lost its tag.
        assert into(translator, again) == inside


@given(translators, frames.filter(lambda frame: len(frame) >= 14))
def test_what_leaves_can_enter(translator: VlanTranslator, frame: bytes) -> None:
    outside = out(translator, frame)
    if outside is not None:
        inside = into(translator, outside)
        assert inside is not None
        assert inside[:12] == frame[:12]
        assert out(translator, inside) == outside or len(outside) < len(frame)
