"""``stream://...[offload]``: virtio headers on the stream, whoever carries offloads."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import struct
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from aioioth import abc
from aioioth.errors import BrokenTransportError, HandshakeTimeoutError, VnlError
from aioioth.nested import TakesTransform
from aioioth.networks import find_network
from aioioth.wire.offload import HEADER_SIZE, VNET_HEADER
from aioioth.wire.vdestream import GREETING, OFFLOADED, VDESTREAM, is_sound
from aioioth_transports import _offloaded, stream
from aioioth_transports.stream import StreamTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from aioioth_transports._framed import StreamPlug

FRAME = b"\xff" * 6 + bytes.fromhex("020000000001 88b5") + b"hello"
EMPTY = bytes(HEADER_SIZE)
PATIENCE = 10
BUFFER = memoryview(bytearray(65564))
LONGEST = 65535

pytestmark = pytest.mark.usefixtures("_loop_is_content")

both_kinds = pytest.mark.parametrize("kind", ["stream", "seal"])


def checksum(data: bytes) -> int:
    """Add up as RFC 1071 says it."""
    total: int = sum(
        struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2))
    )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def segment(payload: bytes) -> bytes:
    """Return a frame with a TCP segment over IPv4, its checksum left to be computed."""
    length = 20 + len(payload)
    addresses = bytes([10, 0, 0, 1, 10, 0, 0, 2])
    pseudo = checksum(addresses + struct.pack("!HH", 6, length))
    tcp = struct.pack("!HHIIBBHHH", 7, 8, 1, 1, 5 << 4, 16, 999, pseudo, 0)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 1, 0, 64, 6, 0) + addresses
    ip = ip[:10] + (0xFFFF - checksum(ip)).to_bytes(2) + ip[12:]
    return FRAME[:12] + b"\x08\0" + ip + tcp + payload


def joined(payload: bytes, size: int) -> bytes:
    """Return a long frame behind a header that says what it is made of."""
    return VNET_HEADER.pack(1, 1, 54, size, 34, 16) + segment(payload)


def is_right(frame: bytes) -> bool:
    """Whether the checksums of a frame of TCP over IPv4 are right."""
    tcp = frame[34:]
    pseudo = frame[26:34] + struct.pack("!HH", 6, len(tcp))
    return checksum(frame[14:34]) == 0xFFFF == checksum(pseudo + tcp)


@asynccontextmanager
async def opened(vnl: str) -> AsyncIterator[abc.Plug]:
    plug = await find_network(vnl).transport.open("me")
    try:
        yield plug
    finally:
        plug.close()


def carry(plug: abc.Plug, deliver: Callable[..., bool] = lambda _: False) -> None:
    assert isinstance(plug, abc.CarriesOffloads)
    assert plug.carry_offloads(deliver)


async def readable(plug: abc.Plug) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(plug.fileno(), ready.set)
    try:
        async with asyncio.timeout(PATIENCE):
            await ready.wait()
    finally:
        loop.remove_reader(plug.fileno())


async def frame_from(plug: abc.Plug) -> bytes:
    """Return the next frame, never asking where the descriptor does not say so."""
    while True:
        await readable(plug)
        with suppress(BlockingIOError):
            length = plug.recv_into(BUFFER)
            assert length is not None
            return bytes(BUFFER[:length])


async def sent(plug: abc.Plug, frame: bytes) -> None:
    """Send until it is on its way: the other side may not have greeted yet."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                assert plug.send(memoryview(frame)) == len(frame)
            except OSError as error:
                if error.errno != errno.ENETUNREACH:
                    raise
                await asyncio.sleep(0.001)
            else:
                return


def key_in(directory: Path) -> Path:
    """Write a key for seal://."""
    pytest.importorskip("cryptography")
    key = directory / "key"
    key.write_text("11" * 32)
    key.chmod(0o600)
    return key


@asynccontextmanager
async def both_ends(
    tmp_path: Path, kind: str = "stream"
) -> AsyncIterator[tuple[abc.Plug, abc.Plug]]:
    around = "{}"
    if kind == "seal":
        around = f"seal://{key_in(tmp_path)}{{{{{{}}}}}}"
    vnl = f"stream://{tmp_path}/s"
    async with opened(around.format(f"{vnl}[listen/offload]")) as left:
        async with opened(around.format(f"{vnl}[offload]")) as right:
            yield left, right


# What there is to write


def test_where_it_does_not_go() -> None:
    with pytest.raises(VnlError, match="standard input has no options"):
        StreamTransport("-[offload]")


# Frames


@both_kinds
@pytest.mark.parametrize("carriers", ["", "left", "right", "both"])
async def test_all_ends_go_together(tmp_path: Path, kind: str, carriers: str) -> None:
    payload = os.urandom(60_000)
    async with both_ends(tmp_path, kind) as (left, right):
        assert isinstance(left, TakesTransform)  # a plug, and more
        assert left.mtu == right.mtu == 65507 - (47 if kind == "seal" else 0)
        carrying = []
        for name, plug in ("left", left), ("right", right):
            if carriers in {name, "both"}:
                carry(plug)
                carrying.append(plug)
        for source, sink in (left, right), (right, left):
            whole = source in carrying, sink in carrying
            for frame in FRAME[:14], FRAME, FRAME + os.urandom(65_000):
                await sent(source, EMPTY + frame if whole[0] else frame)
                wanted = EMPTY + frame if whole[1] else frame
                assert await frame_from(sink) == wanted
            if not whole[0]:
                continue
            long, single = joined(payload, 1460), segment(payload[:100])
            partial = VNET_HEADER.pack(1, 0, 0, 0, 34, 16) + single
            await sent(source, long)
            await sent(source, partial)
            await sent(source, EMPTY + FRAME)
            if whole[1]:
                assert await frame_from(sink) == long
                assert await frame_from(sink) == partial
                assert await frame_from(sink) == EMPTY + FRAME
            else:
                parts = [await frame_from(sink) for _ in range(42)]
                assert b"".join(part[54:] for part in parts) == payload
                assert all(map(is_right, parts))
                last = await frame_from(sink)
                assert last[54:] == payload[:100]
                assert is_right(last)
                assert await frame_from(sink) == FRAME
        for plug in left, right:
            assert isinstance(plug, abc.CountsDrops)
            assert not any(plug.drops.values())


@both_kinds
async def test_what_is_too_long_is_cut_before_it_goes(
    tmp_path: Path, kind: str
) -> None:
    payload = os.urandom(65_495)  # the longest IP packet: with its headers 65559 bytes
    async with both_ends(tmp_path, kind) as (left, right):
        carry(left)
        carry(right)
        await sent(left, EMPTY + FRAME)
        await sent(left, joined(payload, 1460))
        await sent(left, EMPTY + FRAME)
        assert await frame_from(right) == EMPTY + FRAME
        parts = [await frame_from(right) for _ in range(45)]
        assert {part[:HEADER_SIZE] for part in parts} == {EMPTY}
        assert b"".join(part[64:] for part in parts) == payload
        assert all(is_right(part[HEADER_SIZE:]) for part in parts)
        assert await frame_from(right) == EMPTY + FRAME


@both_kinds
async def test_what_cannot_be_sent(tmp_path: Path, kind: str) -> None:
    async with both_ends(tmp_path, kind) as (left, right):
        longest = left.mtu + 18
        await sent(right, FRAME)
        assert await frame_from(left) == FRAME
        await sent(right, bytes(longest))
        assert await frame_from(left) == bytes(longest)
        with pytest.raises(OSError) as caught:
            right.send(bytes(longest + 1))
        assert caught.value.errno == errno.EMSGSIZE
        carry(right)
        for frame in (
            EMPTY + bytes(longest + 1),
            VNET_HEADER.pack(1, 1, 0, 0, 34, 16) + bytes(65_540),  # not to be cut
            joined(bytes(65_495), 65_490),  # nor short enough then
        ):
            with pytest.raises(OSError) as caught:
                right.send(frame)
            assert caught.value.errno == errno.EMSGSIZE
        await sent(right, EMPTY + FRAME)
        assert await frame_from(left) == FRAME


async def test_the_inside_of_a_tunnel_is_completed(tmp_path: Path) -> None:
    """Only the kernel it comes from knows that its checksum is to be computed."""
    inner = segment(b"inside")
    outer = struct.pack("!BBHHHBBHII", 0x45, 0, 36 + len(inner), 1, 0, 64, 17, 0, 1, 2)
    frame = FRAME[:12] + b"\x08\0" + outer + bytes(16) + inner
    async with both_ends(tmp_path) as (left, right):
        carry(left)
        carry(right)
        await sent(left, VNET_HEADER.pack(1, 0, 0, 0, 50 + 34, 16) + frame)
        got = await frame_from(right)
        assert got[:HEADER_SIZE] == EMPTY
        assert is_right(got[HEADER_SIZE + 50 :])


async def test_frames_go_to_the_stack_at_once_and_in_order(tmp_path: Path) -> None:
    taken: list[bytes] = []
    room = 3

    def deliver(frame: bytes) -> bool:
        if len(taken) == room:
            return False
        taken.append(bytes(frame))
        return True

    frames = [joined(bytes([n]) * 5000, 1000) for n in range(6)]
    async with both_ends(tmp_path) as (left, right):
        carry(left, deliver)
        carry(right)
        await sent(right, EMPTY + FRAME + bytes(1000))
        assert await frame_from(left) == EMPTY + FRAME + bytes(1000)
        for frame in frames:
            await sent(right, frame)
        assert [await frame_from(left) for _ in frames[room:]] == frames[room:]
        assert taken == frames[:room]


async def test_a_full_way_is_refused_and_opens_again(tmp_path: Path) -> None:
    """With long frames too: what waits is bounded, and nothing is lost."""
    frame = joined(bytes(60_000), 1460)
    async with both_ends(tmp_path) as (left, right):
        carry(left)
        carry(right)
        await sent(right, EMPTY + FRAME)
        total = 0
        with pytest.raises(BlockingIOError):
            while True:
                for _ in range(8):
                    right.send(frame)
                    total += 1
                # Until reading has stopped over there, and the socket is full.
                await asyncio.sleep(0)
        assert isinstance(left, _offloaded.OffloadedPlug)
        assert isinstance(right, _offloaded.OffloadedPlug)
        for _ in range(5):
            await asyncio.sleep(0)
        assert (
            len(left._inbox) < 1 + (1 << 20) / len(frame) + (1 << 17) / len(frame) + 2
        )
        assert await frame_from(left) == EMPTY + FRAME
        for _ in range(total):
            assert await frame_from(left) == frame
        room = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_writer(right.room_fileno(), room.set)
        async with asyncio.timeout(PATIENCE):
            await room.wait()
        loop.remove_writer(right.room_fileno())
        await sent(right, EMPTY + FRAME)
        assert await frame_from(left) == EMPTY + FRAME
        assert not left.drops


# Whoever has not the option


@contextmanager
def connected(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(os.fspath(path))
        yield sock


async def test_a_client_without_the_option(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with opened(f"stream://{tmp_path}/s[listen/offload]") as left:
        async with opened(f"stream://{tmp_path}/s") as right:
            right.send(FRAME)
            with pytest.raises(BrokenTransportError):
                await frame_from(right)
        with pytest.raises(BlockingIOError):
            left.recv_into(BUFFER)
        async with opened(f"stream://{tmp_path}/s[offload]") as right:
            await sent(right, FRAME)
            assert await frame_from(left) == FRAME
    theirs, ours = sorted(record.getMessage() for record in caplog.records)
    assert theirs.startswith(f"stream://{tmp_path}/s: the other end has the option")
    assert ours.startswith(f"stream://{tmp_path}/s[listen/offload]: the peer is gone: ")
    assert "the other end has not the option offload: give it to both" in ours


async def test_a_listener_without_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stream, "HANDSHAKE_SECONDS", 0.1)
    async with opened(f"stream://{tmp_path}/s[listen]") as left:
        with pytest.raises(HandshakeTimeoutError, match="offload has to be given at"):
            await StreamTransport(f"{tmp_path}/s[offload]").open("me")
        assert "the other end has the option offload" in caplog.text
        assert isinstance(left, abc.CountsDrops)
        assert left.drops == {"malformed": 1}
        async with opened(f"stream://{tmp_path}/s") as right:
            right.send(FRAME)
            assert await frame_from(left) == FRAME


@asynccontextmanager
async def called(
    tmp_path: Path,
) -> AsyncIterator[tuple[asyncio.Task[StreamPlug], socket.socket]]:
    """Somebody with the option who calls, and the socket that he is at the end of."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(tmp_path / "s"))
        server.listen()
        opening = asyncio.create_task(
            StreamTransport(f"{tmp_path}/s[offload]").open("me")
        )
        peer, _ = await asyncio.to_thread(server.accept)
        with peer:
            yield opening, peer


async def test_a_listener_that_speaks_first(tmp_path: Path) -> None:
    async with called(tmp_path) as (opening, peer):
        peer.sendall(VDESTREAM.pack(FRAME))
        with pytest.raises(BrokenTransportError, match="has not the option offload"):
            await opening


async def test_a_peer_that_goes_instead_of_greeting(tmp_path: Path) -> None:
    async with called(tmp_path) as (opening, peer):
        peer.close()
        with pytest.raises(BrokenTransportError):
            await opening


async def test_a_silent_client_is_hung_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_offloaded, "GREETING_SECONDS", 0.05)
    async with opened(f"stream://{tmp_path}/s[listen/offload]"):
        with connected(tmp_path / "s") as silent:
            said = await asyncio.to_thread(silent.recv, 100)
            assert said == GREETING
            assert await asyncio.to_thread(silent.recv, 100) == b""


async def test_a_greeting_in_pieces_and_frames_behind_it(tmp_path: Path) -> None:
    async with opened(f"stream://{tmp_path}/s[listen/offload]") as left:
        with connected(tmp_path / "s") as peer:
            assert await asyncio.to_thread(peer.recv, 100) == GREETING
            for byte in GREETING[:-1]:
                peer.sendall(bytes([byte]))
                await asyncio.sleep(0.001)
                with pytest.raises(OSError) as caught:
                    left.send(FRAME)
                assert caught.value.errno == errno.ENETUNREACH
            peer.sendall(GREETING[-1:] + OFFLOADED.pack(EMPTY + FRAME) * 2)
            assert await frame_from(left) == FRAME
            assert await frame_from(left) == FRAME
            left.send(FRAME)
            got = await asyncio.to_thread(peer.recv, 100)
            assert got == OFFLOADED.pack(EMPTY + FRAME)


async def test_closed_before_the_greeting(tmp_path: Path) -> None:
    async with opened(f"stream://{tmp_path}/s[listen/offload]") as left:
        with connected(tmp_path / "s") as peer:
            assert await asyncio.to_thread(peer.recv, 100) == GREETING
            left.close()
            assert await asyncio.to_thread(peer.recv, 100) == b""


@pytest.mark.parametrize("turns", range(8))
async def test_cancelled(tmp_path: Path, turns: int) -> None:
    async with opened(f"stream://{tmp_path}/s[listen/offload]"):
        address = f"{tmp_path}/s[offload]"
        task: asyncio.Task[StreamPlug] = asyncio.create_task(
            StreamTransport(address).open("me")
        )
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            (await task).close()


# Hostile bytes


def test_what_kernels_write_is_sound() -> None:
    assert is_sound(EMPTY + FRAME)
    assert is_sound(joined(bytes(5000), 1000))
    assert is_sound(VNET_HEADER.pack(1, 0x81, 54, 1000, 34, 16) + segment(bytes(5000)))
    assert is_sound(VNET_HEADER.pack(1, 0, 0, 0, 34, 16) + segment(b""))
    assert is_sound(VNET_HEADER.pack(2, 0, 0, 0, 0, 0) + FRAME)


@pytest.mark.parametrize(
    "header",
    [
        (0, 1, 54, 1000, 34, 16),  # joined, but complete
        (1, 3, 54, 1000, 34, 16),  # UDP fragments
        (1, 0x80, 54, 1000, 34, 16),
        (1, 1, 54, 0, 34, 16),
        (1, 1, 54, 65535, 34, 16),  # GSO_BY_FRAGS
        (1, 1, 60_000, 1000, 34, 16),
        (1, 1, 54, 1000, 60_000, 16),
        (1, 1, 54, 1000, 34, 60_000),
        (1, 1, 54, 1000, 13, 16),
        (1, 0, 0, 0, 34, 65535),
        (1, 0, 0, 5, 34, 16),
        (0, 0, 54, 0, 0, 0),
        (2, 0, 0, 0, 34, 16),
        (3, 0, 0, 0, 34, 16),
        (4, 0, 0, 0, 0, 0),
    ],
)
def test_what_they_do_not_write_is_not(header: tuple[int, ...]) -> None:
    assert not is_sound(VNET_HEADER.pack(*header) + segment(bytes(5000)))


def test_what_is_no_frame_is_not_sound() -> None:
    assert not is_sound(EMPTY + bytes(13))
    assert not is_sound(b"")


headers = st.one_of(
    st.binary(min_size=HEADER_SIZE, max_size=HEADER_SIZE),
    st.builds(
        VNET_HEADER.pack,
        st.sampled_from([0, 1, 2, 3]),
        st.sampled_from([0, 1, 4, 5, 0x81]),
        st.sampled_from([0, 54, 66, 4000]),
        st.integers(0, 1500),
        st.sampled_from([0, 14, 34, 54, 4000]),
        st.sampled_from([0, 6, 16, 4000]),
    ),
)
frames = st.one_of(
    st.binary(max_size=200), st.builds(segment, st.binary(max_size=3000))
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(messages=st.lists(st.tuples(headers, frames), max_size=5), whole=st.booleans())
def test_any_message_gives_frames_or_drops(
    messages: list[tuple[bytes, bytes]], whole: bool
) -> None:
    inbox = _offloaded._Messages()
    try:
        for header, frame in messages:
            inbox.put(header + frame)
        count = 0
        # As a pump does it: as long as the descriptor says so.
        while not inbox.is_empty or inbox._parts:
            assert inbox._woken
            try:
                if whole:
                    length = inbox.recv_whole_into(BUFFER)
                    assert is_sound(BUFFER[:length])
                else:
                    length = inbox.recv_into(BUFFER)
                    assert length >= 14
            except BlockingIOError:
                pass
            count += 1
            assert count < 5 * 1100
        if whole:
            lost = sum(not is_sound(h + f) for h, f in messages)
            assert inbox.drops["malformed"] == lost
    finally:
        inbox.close()


async def test_a_frame_in_very_many_parts_is_refused(tmp_path: Path) -> None:
    async with both_ends(tmp_path) as (left, right):
        carry(right)
        await sent(right, joined(bytes(60_000), 1))
        await sent(right, joined(bytes(50_000), 100))
        for _ in range(500):
            assert len(await frame_from(left)) == 154
        await sent(right, EMPTY + FRAME)
        assert await frame_from(left) == FRAME
        assert isinstance(left, abc.CountsDrops)
        assert left.drops == {"not to be cut": 1}


async def test_hostile_bytes_behind_a_seal(tmp_path: Path) -> None:
    """What is not sealed goes nowhere; what is, but is wrong inside, neither."""
    key = key_in(tmp_path)
    async with (
        opened(f"seal://{key}{{stream://{tmp_path}/s[listen/offload]}}") as left,
    ):
        async with opened(f"stream://{tmp_path}/s[offload]") as right:
            await sent(right, FRAME)
            await readable(left)
            with pytest.raises(BlockingIOError):
                left.recv_into(BUFFER)
        left_drops = left.drops if isinstance(left, abc.CountsDrops) else {}
        assert {k: v for k, v in left_drops.items() if v} == {"not sealed": 1}
        async with opened(f"seal://{key}{{stream://{tmp_path}/s[offload]}}") as right:
            carry(right)
            await sent(right, VNET_HEADER.pack(4, 0, 0, 0, 0, 0) + FRAME)
            await sent(right, EMPTY + FRAME)
            assert await frame_from(left) == FRAME
        assert isinstance(left, abc.CountsDrops)
        assert left.drops["malformed"] == 1
