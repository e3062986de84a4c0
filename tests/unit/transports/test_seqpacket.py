"""``seqpacket://``: somebody else's socket, and its end."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

import aioioth
from aioioth import abc
from aioioth.errors import BrokenTransportError, VnlError
from aioioth_transports.seqpacket import SeqpacketTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.conftest import Pair

    MakePair = Callable[..., Pair]

FRAME = b"\xff" * 6 + bytes.fromhex("020000000001 88b5") + b"hello"
BUFFER = memoryview(bytearray(65554))


async def open_plug(sock: socket.socket) -> abc.Plug:
    return await SeqpacketTransport(str(sock.fileno())).open("us")


@pytest.mark.parametrize("address", ["", "x", "-1", "3.0", "+3", "1234567890", "٣"])
def test_what_is_no_number(address: str) -> None:
    with pytest.raises(VnlError, match="expected a descriptor's number"):
        SeqpacketTransport(address)


@given(st.text())
def test_any_address_is_taken_or_refused(address: str) -> None:
    try:
        transport = SeqpacketTransport(address)
    except VnlError:
        return
    assert isinstance(transport, abc.FrameTransport)


async def test_frames_go_both_ways(make_pair: MakePair) -> None:
    ours, theirs = make_pair()
    plug = await open_plug(ours)
    assert isinstance(plug, abc.Plug)
    ours.close()  # we have our own
    assert not os.get_inheritable(plug.fileno())
    with pytest.raises(BlockingIOError):
        plug.recv_into(BUFFER)
    for frame in (FRAME[:14], FRAME, bytes(9234), bytes(65554)):
        assert plug.send(frame) == plug.send(memoryview(frame)) == len(frame)
        assert theirs.recv(70000) == theirs.recv(70000) == frame
        theirs.send(frame)
        assert plug.recv_into(BUFFER) == len(frame)
        assert BUFFER[: len(frame)] == frame
    plug.close()
    plug.close()
    assert plug.fileno() == plug.hangup_fileno() == -1
    assert theirs.recv(10) == b""


async def test_no_empty_packet_is_sent(make_pair: MakePair) -> None:
    ours, theirs = make_pair()
    plug = await open_plug(ours)
    with pytest.raises(OSError) as caught:
        plug.send(b"")
    assert caught.value.errno == errno.ENOMSG
    with pytest.raises(BlockingIOError):
        theirs.recv(10)
    plug.close()


async def test_a_full_way_is_refused(make_pair: MakePair) -> None:
    ours, theirs = make_pair()
    plug = await open_plug(ours)
    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            plug.send(bytes(1500))
            sent += 1
    assert not select.select([], [plug.fileno()], [], 0)[1]
    for _ in range(sent):
        theirs.recv(2000)
    assert select.select([], [plug.fileno()], [], 0)[1]
    plug.close()


@pytest.mark.parametrize("unread", [False, True])
async def test_the_end(make_pair: MakePair, unread: bool) -> None:
    ours, theirs = make_pair()
    plug = await open_plug(ours)
    assert not select.select([plug.hangup_fileno()], [], [], 0)[0]
    if unread:
        plug.send(FRAME)
    theirs.close()
    assert select.select([plug.hangup_fileno()], [], [], 0)[0]
    with pytest.raises(ConnectionResetError):
        plug.recv_into(BUFFER)
    with pytest.raises(BrokenPipeError):
        plug.send(FRAME)
    plug.close()
    with pytest.raises(
        BrokenTransportError, match=r"other end of .* is closed"
    ) as caught:
        await open_plug(ours)
    assert caught.value.errno == errno.EPIPE


async def test_what_is_no_such_socket(make_pair: MakePair) -> None:
    ours, _ = make_pair(socket.SOCK_STREAM)
    with pytest.raises(BrokenTransportError, match="no SOCK_SEQPACKET") as caught:
        await open_plug(ours)
    assert caught.value.errno == errno.EPROTOTYPE
    reading, writing = os.pipe()
    with pytest.raises(BrokenTransportError, match="non-socket") as caught:
        await SeqpacketTransport(str(reading)).open("us")
    assert caught.value.errno == errno.ENOTSOCK
    os.close(reading)
    os.close(writing)
    with pytest.raises(BrokenTransportError, match="Bad file descriptor") as caught:
        await SeqpacketTransport(str(reading)).open("us")
    assert caught.value.errno == errno.EBADF
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as lonely:
        with pytest.raises(BrokenTransportError, match="not connected") as caught:
            await open_plug(lonely)
        assert caught.value.errno == errno.ENOTCONN


async def test_a_stack_notices_the_end(make_pair: MakePair) -> None:
    """Also with a frame of ours unread, which is an error that libuv hides."""
    ours, theirs = make_pair()
    async with aioioth.Stack(f"seqpacket://{ours.fileno()}", ip="10.0.0.1/24") as stack:
        with stack.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"hello", ("10.0.0.2", 7))
        async with asyncio.timeout(10):
            while not select.select([theirs], [], [], 0)[0]:
                await asyncio.sleep(0.001)
            assert stack.interfaces["vde0"].attached
            theirs.close()
            while stack.interfaces["vde0"].attached:
                await asyncio.sleep(0.001)
