from __future__ import annotations

import itertools
import struct
from typing import Any

import pytest
from hypothesis import given, strategies as st

from aioioth.wire.seal import OVERHEAD, ReplayWindow, Sealer, parse_key

aeads = pytest.importorskip("cryptography.hazmat.primitives.ciphers.aead")

KEY = bytes(range(32))
MACS = bytes.fromhex("ffffffffffff 020000000001")
FRAME = MACS + bytes.fromhex("0800") + b"the payload of a frame"
NOW = 1_700_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Peers:
    """Sealers with a clock in common, and sessions that are told apart."""

    def __init__(self) -> None:
        self.clock = Clock()
        self._names = itertools.count(1)

    def add(
        self, key: bytes = KEY, clock: Clock | None = None, **limits: Any
    ) -> Sealer:
        def random(size: int) -> bytes:
            return next(self._names).to_bytes(size, "big")

        return Sealer(key, clock=clock or self.clock, random=random, **limits)


def sealed(sealer: Sealer, frame: bytes = FRAME) -> bytes:
    changed = sealer.outgoing(memoryview(frame))
    assert changed is not None
    return bytes(changed)


def opened(sealer: Sealer, frame: bytes) -> bytes | None:
    changed = sealer.incoming(memoryview(frame))
    return None if changed is None else bytes(changed)


def test_the_format() -> None:
    """Made of what the documentation says, with others' functions."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    sender = Peers().add()
    sealed(sender)
    wire = sealed(sender)
    session = bytes(15) + b"\1"
    clear = MACS + b"\x88\xb6" + b"\1" + session + struct.pack("!I", 1)
    key = HKDF(SHA256(), 32, salt=session, info=b"aioioth seal 1").derive(KEY)
    secret = struct.pack("!Q", int(NOW * 1000)) + FRAME[12:]
    nonce = bytes(11) + b"\1"
    assert wire == clear + aeads.AESGCM(key).encrypt(nonce, secret, clear)
    assert len(wire) == len(FRAME) + OVERHEAD
    assert OVERHEAD == 47


@pytest.mark.parametrize("size", [0, 1, 46, 1500, 9216, 65500])
def test_there_and_back(size: int) -> None:
    peers = Peers()
    one, two = peers.add(), peers.add()
    frame = FRAME[:14] + bytes(size)
    assert opened(two, sealed(one, frame)) == frame
    assert opened(one, sealed(two, frame)) == frame
    assert not one.drops
    assert not two.drops


def test_the_addresses_are_all_that_is_seen() -> None:
    wire = sealed(Peers().add())
    assert wire[:12] == MACS
    assert wire[12:14] == b"\x88\xb6"
    assert b"payload" not in wire
    assert b"\x08\x00" not in wire[14:15]


def test_each_bit_counts() -> None:
    peers = Peers()
    sender, receiver = peers.add(), peers.add()
    wire = sealed(sender)
    for bit in range(len(wire) * 8):
        changed = bytearray(wire)
        changed[bit // 8] ^= 1 << bit % 8
        assert opened(receiver, bytes(changed)) is None
    assert set(receiver.drops) == {"not sealed", "forged"}
    # EtherType and version are those that do not look like ours.
    assert receiver.drops["not sealed"] == 3 * 8
    assert opened(receiver, wire) == FRAME


def test_what_is_cut_off_or_grown() -> None:
    peers = Peers()
    wire, receiver = sealed(peers.add()), peers.add()
    for end in range(len(wire)):
        assert opened(receiver, wire[:end]) is None
    assert opened(receiver, wire + b"\0") is None
    assert opened(receiver, wire) == FRAME


def test_another_key() -> None:
    peers = Peers()
    receiver = peers.add(key=bytes(32))
    assert opened(receiver, sealed(peers.add())) is None
    assert receiver.drops == {"forged": 1}
    assert "0 peers" in repr(receiver)


def test_a_frame_is_accepted_once() -> None:
    peers = Peers()
    sender, receiver, other = peers.add(), peers.add(), peers.add()
    wire = sealed(sender)
    assert opened(receiver, wire) == FRAME
    assert opened(receiver, wire) is None
    assert opened(receiver, wire) is None
    assert receiver.drops == {"replayed": 2}
    assert opened(other, wire) == FRAME  # a broadcast is everybody's


def test_frames_may_overtake_each_other() -> None:
    peers = Peers()
    sender, receiver = peers.add(), peers.add()
    wires = [sealed(sender) for _ in range(100)]
    for wire in reversed(wires):
        assert opened(receiver, wire) == FRAME
    for wire in wires:
        assert opened(receiver, wire) is None
    assert receiver.drops == {"replayed": 100}


def test_a_frame_that_was_overtaken_by_too_many() -> None:
    peers = Peers()
    sender, receiver = peers.add(), peers.add()
    wires = [sealed(sender) for _ in range(1026)]
    assert opened(receiver, wires[0]) == FRAME
    assert opened(receiver, wires[1025]) == FRAME
    assert opened(receiver, wires[1]) is None
    assert opened(receiver, wires[2]) == FRAME


def test_what_we_sent_ourselves_and_comes_back() -> None:
    peers = Peers()
    sealer = peers.add(session_frames=2)
    wires = [sealed(sealer) for _ in range(4)]
    for wire in wires:
        assert opened(sealer, wire) is None
    assert sealer.drops == {"replayed": 4}


@pytest.mark.parametrize(
    ("late", "passes"),
    [(-30.1, False), (-30.0, True), (0, True), (30.0, True), (30.1, False)],
)
def test_the_time(late: float, passes: bool) -> None:
    peers = Peers()
    sender, receiver = peers.add(), peers.add()
    wire = sealed(sender)
    peers.clock.now += late
    assert opened(receiver, wire) == (FRAME if passes else None)
    if not passes:
        assert receiver.drops == {"stale": 1}
        assert "0 peers" in repr(receiver)
    # A stale one does not use up the place of its number.
    peers.clock.now = NOW
    assert (opened(receiver, wire) is None) == passes


def test_a_session_ends_before_its_numbers_do() -> None:
    peers = Peers()
    sender, receiver = peers.add(session_frames=3), peers.add()
    wires = [sealed(sender) for _ in range(7)]
    assert [wire[15:31][-1] for wire in wires] == [1, 1, 1, 3, 3, 3, 4]
    assert [wire[31:35][-1] for wire in wires] == [0, 1, 2, 0, 1, 2, 0]
    assert all(opened(receiver, wire) == FRAME for wire in wires)


def test_the_table_of_peers_is_bounded() -> None:
    peers = Peers()
    receiver = peers.add(max_sessions=2)
    one, two, three = peers.add(), peers.add(), peers.add()
    assert opened(receiver, sealed(one)) == FRAME
    peers.clock.now += 50
    assert opened(receiver, sealed(two)) == FRAME
    peers.clock.now += 10
    for _ in range(5):
        assert opened(receiver, sealed(three)) is None
    assert receiver.drops == {"too many peers": 5}
    # The first has been silent for so long that all it ever sent is stale.
    peers.clock.now += 0.1
    assert opened(receiver, sealed(three)) == FRAME
    assert "2 peers" in repr(receiver)
    # It is welcome again when there is room.
    assert opened(receiver, sealed(one)) is None
    peers.clock.now += 60
    assert opened(receiver, sealed(one)) == FRAME


def test_who_is_forgotten_cannot_be_replayed() -> None:
    """Whatever the sender's clock says: as far ahead as is accepted."""
    peers = Peers()
    ahead = Clock()
    ahead.now = NOW + 30
    receiver, sender = peers.add(max_sessions=1), peers.add(clock=ahead)
    wire = sealed(sender)
    assert opened(receiver, wire) == FRAME
    peers.clock.now += 60
    assert opened(receiver, sealed(peers.add())) is None
    assert opened(receiver, wire) is None
    peers.clock.now += 0.1
    assert opened(receiver, sealed(peers.add())) == FRAME
    assert opened(receiver, wire) is None
    assert receiver.drops == {"too many peers": 1, "replayed": 1, "stale": 1}


def test_forgeries_make_no_peers() -> None:
    peers = Peers()
    receiver, stranger = peers.add(max_sessions=1), peers.add(key=bytes(32))
    for _ in range(100):
        stranger._begin_session()
        assert opened(receiver, sealed(stranger)) is None
    assert receiver.drops == {"forged": 100}
    assert opened(receiver, sealed(peers.add())) == FRAME


@given(st.lists(st.integers(0, 3000) | st.integers(0, (1 << 32) - 1), max_size=60))
def test_the_window(numbers: list[int]) -> None:
    window, seen = ReplayWindow(), set[int]()
    for number in numbers:
        new = window.is_new(number)
        expected = number not in seen and number > max(seen, default=-1) - 1024
        assert new == expected
        if new:
            window.add(number)
            seen.add(number)
        assert window._seen < 1 << 1024


@given(st.lists(st.binary(max_size=120)), st.binary(min_size=14, max_size=200))
def test_any_bytes(strange: list[bytes], frame: bytes) -> None:
    peers = Peers()
    sender, receiver = peers.add(), peers.add()
    for data in strange:
        assert opened(receiver, data) is None
        # With what is in the clear as it should be.
        assert opened(receiver, sealed(sender)[:35] + data) is None
        assert opened(receiver, sealed(sender, frame)) == frame
    assert sum(receiver.drops.values()) == 2 * len(strange)


@pytest.mark.parametrize("text", [KEY.hex(), KEY.hex().upper(), f" {KEY.hex()}\r\n"])
def test_the_key(text: str) -> None:
    assert parse_key(text.encode()) == KEY


@pytest.mark.parametrize(
    "text", ["", KEY.hex()[:-1], KEY.hex() + "0", KEY.hex() + " x", "x" * 64]
)
def test_no_key(text: str) -> None:
    assert parse_key(text.encode()) is None


def test_the_key_is_not_shown() -> None:
    sealer = Peers().add()
    assert KEY.hex() not in repr(sealer)
    assert str(KEY) not in repr(sealer)
