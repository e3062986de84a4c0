from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from aioioth.wire.vdestream import (
    GREETING,
    OFFLOADED,
    QEMU,
    VDESTREAM,
    Decoder,
    Framing,
)

both = pytest.mark.parametrize("framing", [VDESTREAM, QEMU], ids=["u16", "u32"])
FRAMES = [bytes([number]) * length for number, length in enumerate((14, 60, 255, 256))]


def test_the_bytes() -> None:
    assert VDESTREAM.pack(b"x" * 258) == b"\x01\x02" + b"x" * 258
    assert QEMU.pack(memoryview(b"x" * 258)) == b"\0\0\x01\x02" + b"x" * 258


@both
def test_the_longest_frame(framing: Framing) -> None:
    frame = bytes(framing.longest)
    assert framing.mtu + 18 <= framing.longest
    assert Decoder(framing).feed(framing.pack(frame)) == [frame]
    with pytest.raises(ValueError, match=f"a frame of {framing.longest + 1} bytes"):
        framing.pack(frame + b"x")


def test_frames_with_a_virtio_header() -> None:
    frames = [bytes([number]) * length for number, length in enumerate((24, 65535, 25))]
    stream = b"".join(map(OFFLOADED.pack, frames))
    decoder = Decoder(OFFLOADED)
    assert decoder.feed(OFFLOADED.pack(bytes(23)) + stream) == frames
    assert (decoder.short, decoder.broken) == (1, None)
    # In pieces that no frame fits into, as TLS has them.
    decoder = Decoder(OFFLOADED)
    pieces = [stream[at : at + 16384] for at in range(0, len(stream), 16384)]
    assert [frame for piece in pieces for frame in decoder.feed(piece)] == frames
    with pytest.raises(ValueError, match="a frame of 65536 bytes"):
        OFFLOADED.pack(bytes(65536))


def test_a_greeting_is_no_frame() -> None:
    decoder = Decoder(VDESTREAM)
    assert decoder.feed(GREETING + VDESTREAM.pack(FRAMES[0])) == FRAMES[:1]
    assert decoder.short == 1


@both
def test_split_at_every_offset(framing: Framing) -> None:
    stream = b"".join(map(framing.pack, FRAMES))
    for at in range(len(stream) + 1):
        decoder = Decoder(framing)
        assert decoder.feed(stream[:at]) + decoder.feed(stream[at:]) == FRAMES


@both
def test_byte_by_byte(framing: Framing) -> None:
    decoder = Decoder(framing)
    stream = b"".join(map(framing.pack, FRAMES))
    got = [frame for byte in stream for frame in decoder.feed(bytes([byte]))]
    assert got == FRAMES


@both
def test_nothing_is_skipped_and_what_is_short_is_counted(framing: Framing) -> None:
    decoder = Decoder(framing)
    parts = [b"", b"x" * 13, FRAMES[0], b"", b"x"]
    assert decoder.feed(b"".join(map(framing.pack, parts))) == FRAMES[:1]
    assert decoder.short == 2
    assert decoder.broken is None


@both
def test_a_length_too_long_is_the_end(framing: Framing) -> None:
    decoder = Decoder(framing)
    too_long = framing.header.pack(framing.longest + 1)
    stream = framing.pack(FRAMES[0]) + too_long + framing.pack(FRAMES[1])
    assert decoder.feed(stream) == FRAMES[:1]
    assert decoder.broken is not None
    assert f"{framing.longest + 1} bytes" in decoder.broken
    assert decoder.feed(framing.pack(FRAMES[1])) == []


@both
@pytest.mark.parametrize("at", range(5))
def test_a_length_too_long_in_two_pieces(framing: Framing, at: int) -> None:
    decoder = Decoder(framing)
    stream = framing.header.pack(framing.longest + 1) + bytes(20)
    assert decoder.feed(stream[:at]) + decoder.feed(stream[at:]) == []
    assert decoder.broken is not None
    assert decoder.feed(framing.pack(FRAMES[0])) == []


@both
@given(frames=st.lists(st.binary(min_size=14, max_size=300)), data=st.data())
def test_any_frames_in_any_pieces(
    framing: Framing, frames: list[bytes], data: st.DataObject
) -> None:
    decoder = Decoder(framing)
    rest = b"".join(map(framing.pack, frames))
    got: list[bytes] = []
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        got += decoder.feed(rest[:size])
        rest = rest[size:]
    assert got == frames


@both
@given(pieces=st.lists(st.binary(max_size=400)))
def test_any_bytes_give_frames_or_the_end(
    framing: Framing, pieces: list[bytes]
) -> None:
    decoder = Decoder(framing)
    for piece in pieces:
        for frame in decoder.feed(piece):
            assert 14 <= len(frame) <= framing.longest
        assert len(decoder._rest) < framing.header.size + framing.longest
        assert decoder.broken is None or not decoder._rest
