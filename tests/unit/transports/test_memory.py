from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from aioioth import abc
from aioioth_transports.memory import MemoryTransport

if TYPE_CHECKING:
    from aioioth.switch import SwitchPort

FRAME = b"\xff" * 6 + bytes.fromhex("020000000001 88b5") + b"hello"


def received(port: SwitchPort) -> list[bytes]:
    buffer = memoryview(bytearray(2000))
    frames = []
    while True:
        try:
            frames.append(bytes(buffer[: port.recv_into(buffer)]))
        except BlockingIOError:
            return frames


async def test_the_same_name_is_the_same_switch() -> None:
    assert isinstance(MemoryTransport("lan"), abc.FrameTransport)
    one = await MemoryTransport("lan").open("one")
    two = await MemoryTransport("lan").open("two")
    other = await MemoryTransport("other").open("other")
    one.send(FRAME)
    assert received(two) == [FRAME]
    assert received(other) == received(one) == []
    for port in (one, two, other):
        port.close()


@pytest.mark.parametrize("name", ["", "with space", "a/b", "ünï"])
async def test_a_name_is_any_text(name: str) -> None:
    one = await MemoryTransport(name).open("one")
    two = await MemoryTransport(name).open("two")
    one.send(FRAME)
    assert received(two) == [FRAME]
    one.close()
    two.close()


async def test_a_name_is_free_again_when_nobody_uses_it() -> None:
    """What the old switch has learned must not be known to the new one."""
    watched: list[bytes] = []
    transport = MemoryTransport("lan")
    transport._switch.watch(watched.append)
    port = await transport.open("one")
    port.send(FRAME)
    assert len(watched) == 1
    port.close()
    del transport, port
    gc.collect()
    port = await MemoryTransport("lan").open("two")
    port.send(FRAME)
    assert len(watched) == 1
    port.close()


async def test_the_switch_lives_as_long_as_somebody_is_plugged_in() -> None:
    one = await MemoryTransport("lan").open("one")
    gc.collect()
    two = await MemoryTransport("lan").open("two")
    two.send(FRAME)
    assert received(one) == [FRAME]
    one.close()
    two.close()
