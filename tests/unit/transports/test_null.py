from __future__ import annotations

import os
import select

import pytest

from aioioth import abc
from aioioth_transports.null import NullTransport


@pytest.mark.parametrize("address", ["", "anything"])
async def test_a_network_with_nobody_on_it(address: str) -> None:
    transport = NullTransport(address)
    assert isinstance(transport, abc.FrameTransport)
    plug = await transport.open("me")
    assert isinstance(plug, abc.Plug)
    assert plug.mtu == 65517
    assert plug.hangup_fileno() == -1
    for _ in range(100):
        assert plug.send(b"x" * 1514) == 1514
    assert plug.send(memoryview(b"x" * 60)) == 60
    with pytest.raises(BlockingIOError):
        plug.recv_into(memoryview(bytearray(2000)))
    # Never anything to read, always room to write.
    number = plug.fileno()
    assert select.select([number], [number], [], 0) == ([], [number], [])
    plug.close()
    plug.close()
    assert plug.fileno() == -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


async def test_plugs_are_apart() -> None:
    transport = NullTransport("")
    one, two = await transport.open("one"), await transport.open("two")
    one.close()
    os.fstat(two.fileno())
    two.close()
