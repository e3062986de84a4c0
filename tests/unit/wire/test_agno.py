from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, strategies as st

from aioioth.wire.agno import AgnoCipher, find_key

ciphers = pytest.importorskip("cryptography.hazmat.primitives.ciphers")

KEY = bytes(range(16))
NOW = 1_700_000_000
MACS = bytes.fromhex("ffffffffffff 020000000001")
FRAME = MACS + bytes.fromhex("0800") + b"the payload of a frame"


class Clock:
    def __init__(self) -> None:
        self.now: float = NOW

    def __call__(self) -> float:
        return self.now


def a_cipher(
    clock: Clock | None = None, key: bytes = KEY, **options: Any
) -> AgnoCipher:
    return AgnoCipher(
        key, clock=clock or Clock(), random=lambda size: b"rand"[:size], **options
    )


def sealed(cipher: AgnoCipher, frame: bytes) -> bytes:
    changed = cipher.outgoing(memoryview(frame))
    assert changed is not None
    return bytes(changed)


def opened(cipher: AgnoCipher, frame: bytes) -> bytes | None:
    changed = cipher.incoming(memoryview(frame))
    return None if changed is None else bytes(changed)


def as_the_format_says(
    frame: bytes, *, kind: int = 0xA6DE, when: int = NOW, padding: int | None = None
) -> bytes:
    """Encrypt with one context for each part, as the reference describes it."""
    aes = ciphers.algorithms.AES(KEY)
    payload = frame[14:]
    filled = payload + bytes(-len(payload) % 16)
    if padding is None:
        padding = len(filled) - len(payload)
    own = int.from_bytes(frame[12:14], "big")
    header = struct.pack("!HBB4sI4s", own, padding, 0, b"agno", when, b"rand")
    ecb = ciphers.Cipher(aes, ciphers.modes.ECB()).encryptor()
    cbc = ciphers.Cipher(aes, ciphers.modes.CBC(header)).encryptor()
    encrypted = ecb.update(header) + cbc.update(filled)
    return frame[:12] + kind.to_bytes(2, "big") + bytes(encrypted)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 31, 32, 46, 1500, 9216])
def test_the_format(size: int) -> None:
    sender, receiver = a_cipher(), a_cipher()
    for number in range(3):  # the contexts go on from frame to frame
        frame = FRAME[:14] + bytes([number]) * size
        wire = as_the_format_says(frame)
        assert sealed(sender, frame) == wire
        assert len(wire) <= len(frame) + 31
        assert opened(receiver, wire) == frame
    assert not receiver.drops


def test_nothing_of_the_payload_is_seen() -> None:
    wire = sealed(a_cipher(), FRAME)
    assert wire[:12] == MACS
    assert wire[12:14] == b"\xa6\xde"
    assert b"payload" not in wire
    assert len(wire) == 14 + 16 + 32


@pytest.mark.parametrize(
    ("ethertype", "shown"),
    [(0x1234, 0x1234), ("copy", 0x0800), (0x86DD, 0x86DD), ("rand", 0x7861)],
)
def test_the_ethertype(ethertype: Any, shown: int) -> None:
    wire = sealed(a_cipher(ethertype=ethertype), FRAME)
    assert int.from_bytes(wire[12:14], "big") == shown
    # Whatever the receiver would use itself.
    assert opened(a_cipher(), wire) == FRAME


@given(st.binary(min_size=2, max_size=2))
def test_a_random_ethertype_is_none_of_a_length(drawn: bytes) -> None:
    cipher = AgnoCipher(
        KEY, clock=Clock(), random=lambda size: drawn * (size // 2), ethertype="rand"
    )
    wire = sealed(cipher, FRAME)
    assert int.from_bytes(wire[12:14], "big") >= 0x600


@pytest.mark.parametrize(
    ("age", "passes"), [(-2, False), (-1, True), (0, True), (2, True), (3, False)]
)
def test_the_time(age: int, passes: bool) -> None:
    clock = Clock()
    receiver = a_cipher(clock)
    clock.now = NOW + age + 0.5
    wire = sealed(a_cipher(), FRAME)
    assert opened(receiver, wire) == (FRAME if passes else None)
    assert receiver.drops == ({} if passes else {"stale": 1})


def test_the_time_goes_round() -> None:
    clock = Clock()
    clock.now = (1 << 32) + 0.5
    wire = as_the_format_says(FRAME, when=(1 << 32) - 1)
    assert opened(a_cipher(clock), wire) == FRAME


def test_another_key() -> None:
    receiver = a_cipher(key=bytes(16))
    assert opened(receiver, sealed(a_cipher(), FRAME)) is None
    assert receiver.drops == {"undecipherable": 1}


@pytest.mark.parametrize("frame", [b"", MACS, FRAME, FRAME[:29], b"x" * 1514])
def test_what_is_not_encrypted(frame: bytes) -> None:
    receiver = a_cipher()
    assert opened(receiver, frame) is None
    assert receiver.drops == {"undecipherable": 1}


@pytest.mark.parametrize("padding", [16, 33, 255])
def test_more_padding_than_there_can_be(padding: int) -> None:
    receiver = a_cipher()
    assert opened(receiver, as_the_format_says(FRAME, padding=padding)) is None
    assert opened(receiver, as_the_format_says(FRAME[:14], padding=1)) is None
    assert receiver.drops == {"malformed": 2}


def test_a_short_frame_that_the_network_made_longer() -> None:
    wire = as_the_format_says(FRAME[:14] + b"tiny")
    assert opened(a_cipher(), wire.ljust(60, b"\0")) == FRAME[:14] + b"tiny"


def test_a_frame_that_was_cut_off_does_not_spoil_the_next() -> None:
    receiver = a_cipher()
    wire = as_the_format_says(FRAME[:14] + b"x" * 100)
    cut = opened(receiver, wire[:-20])
    assert cut is not None
    assert FRAME[:14] + b"x" * 16 == cut[:30]
    assert opened(receiver, as_the_format_says(FRAME)) == FRAME


@given(st.lists(st.binary(max_size=100)), st.binary(min_size=14, max_size=200))
def test_any_bytes(strange: list[bytes], frame: bytes) -> None:
    receiver, sender = a_cipher(), a_cipher()
    for data in strange:
        assert opened(receiver, data) is None
        # A receiver in whose network somebody sends garbage still understands.
        assert opened(receiver, sealed(sender, frame)) == frame
        assert sealed(sender, frame) == as_the_format_says(frame)
    assert sum(receiver.drops.values()) == len(strange)


@given(st.binary(max_size=64), st.integers(0, 255))
def test_any_bytes_behind_a_good_header(body: bytes, padding: int) -> None:
    receiver = a_cipher()
    wire = as_the_format_says(FRAME, padding=padding)[:30] + body
    frame = opened(receiver, wire)
    whole = len(body) // 16 * 16
    if padding < 16 and padding <= whole:
        assert frame is not None
        assert len(frame) == 14 + whole - padding
    else:
        assert frame is None


@pytest.mark.parametrize(
    "text",
    [
        b"000102030405060708090a0b0c0d0e0f",
        b"000102030405060708090A0B0C0D0E0F\n",
        b"00:01:02:03 04:05:06:07\n08:09:0a:0b 0c:0d:0e:0f\n",
        b"000102030405060708090a0b0c0d0e0fffff",
        b"\xff\0zz000102030405060708090a0b0c0d0e0f",
    ],
)
def test_the_key(text: bytes) -> None:
    assert find_key(text) == KEY


@pytest.mark.parametrize("text", [b"", b"00010203", b"g" * 64, b"0" * 31])
def test_no_key(text: bytes) -> None:
    assert find_key(text) is None


def test_the_key_is_not_shown() -> None:
    assert repr(a_cipher()) == "<AgnoCipher>"
