"""Bridges at the ends of cables and under other networks: every frame goes through."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

import aioioth
from aioioth.bridge import Bridge
from tests.kernel.bridges import HOSTS, OURS, PATIENCE, PING, THEIRS

if TYPE_CHECKING:
    from pathlib import Path

    from aioioth.bridge import BridgePlug


@pytest.mark.parametrize(
    ("a", "b", "ours", "theirs"),
    [
        ("bridge://lan", "memory://m", "bridge://lan", "memory://m"),
        ("bridge://a", "bridge://b", "bridge://a", "bridge://b"),
        ("memory://m", "bridge://b[private]", "memory://m", "bridge://b[private]"),
    ],
)
async def test_cables(
    a: str, b: str, ours: str, theirs: str, echo: Any, ask: Any
) -> None:
    text = b"x" * 300_000
    for host in HOSTS:
        async with (
            aioioth.Cable(a, b) as cable,
            aioioth.Stack(ours, ip=OURS) as one,
            aioioth.Stack(theirs, ip=THEIRS) as two,
            await one.start_server(echo, host, 7),
        ):
            assert cable.attached
            assert await ask(two, host, text) == text
            stats = cable.stats()
            for way in stats.a_to_b, stats.b_to_a:
                assert way.bytes > len(text)
                assert way.drops == {}


async def test_one_uplink_for_three() -> None:
    """Far away is a stack in a LAN by multicast."""
    async with (
        aioioth.Stack("memory://host", ip="192.168.0.1/24") as host,
        aioioth.Stack("memory://host", ip="192.168.0.2/24") as far_host,
    ):
        lan = "vxvde://234.0.0.1"
        far = aioioth.Stack(lan, ip="10.0.0.9/24")
        uplink = aioioth.Cable("bridge://lan", lan)
        # Each on a machine of its own.
        for machine, owned in (far_host, far), (host, uplink):
            await machine.add_route("234.0.0.0/8", dev="vde0")
            with machine.activate(patch=True):
                await owned.open()
        try:
            async with (
                aioioth.Stack("bridge://lan", ip="10.0.0.1/24") as one,
                aioioth.Stack("bridge://lan", ip="10.0.0.2/24") as two,
                aioioth.Stack("bridge://lan", ip="10.0.0.3/24") as three,
            ):
                for stack in one, two, three:
                    assert await stack.run(f"{PING} -W5 10.0.0.9") == 0
        finally:
            await uplink.aclose()
            await far.aclose()


async def test_a_vlan_of_a_bridge(echo: Any, ask: Any) -> None:
    async with (
        aioioth.Stack("vlan://5{bridge://lan}", ip=OURS) as one,
        aioioth.Stack("vlan://5{bridge://lan}", ip=THEIRS) as two,
        aioioth.Stack("vlan://6{bridge://lan}", ip="10.0.0.3/24") as three,
        await one.start_server(echo, None, 7),
    ):
        for host in HOSTS:
            assert await ask(two, host, b"x" * 100_000) == b"x" * 100_000
        assert await three.run(f"{PING} -W1 10.0.0.1") == 1
        assert one.interfaces["vde0"].device in {"tap", "packet"}


async def test_a_capture_of_a_bridge(tmp_path: Path) -> None:
    file = tmp_path / "lan.pcapng"
    async with (
        aioioth.Stack(f"capture://{file}{{bridge://lan}}", ip=OURS),
        aioioth.Stack("bridge://lan", ip=THEIRS) as two,
    ):
        assert await two.run(f"{PING} -W5 -p 6272696467653f21 10.0.0.1") == 0
    assert file.read_bytes().count(b"bridge?!") >= 2


async def test_all_frames_go_through_a_plug() -> None:
    """As on a cable; a stack's own interface sees no tags and no strangers."""
    async with aioioth.Stack("bridge://lan", ip=OURS) as stack:
        plug = await Bridge("lan").open("test")
        try:
            mac = bytes.fromhex(stack.interfaces["vde0"].mac.replace(":", ""))
            frame = (
                b"\xff" * 6 + bytes.fromhex("020000000099") + b"\x88\xb5" + bytes(46)
            )
            with stack.socket(socket.AF_PACKET, socket.SOCK_RAW, 0xB588) as sock:
                sock.bind(("vde0", 0x88B5))
                loop = asyncio.get_running_loop()
                assert plug.send(memoryview(frame)) in {None, len(frame)}
                async with asyncio.timeout(PATIENCE):
                    assert await loop.sock_recv(sock, 9000) == frame
                    answer = (
                        bytes.fromhex("020000000099") + mac + b"\x88\xb5" + bytes(46)
                    )
                    await loop.sock_sendall(sock, answer)
                    into = memoryview(bytearray(65554))
                    while True:
                        size = await _received(plug, into)
                        if bytes(into[12:14]) == b"\x88\xb5":
                            break
                assert bytes(into[:size]) == answer
            assert plug.hangup_fileno() == -1
        finally:
            plug.close()
            plug.close()


async def _received(plug: BridgePlug, into: memoryview) -> int:
    while True:
        try:
            size = plug.recv_into(into)
        except BlockingIOError:
            await asyncio.sleep(0.002)
            continue
        assert size is not None
        return size


async def test_a_port_of_a_switch_may_be_a_bridge(
    tmp_path: Path, echo: Any, ask: Any
) -> None:
    """And who joins the switch reaches the stacks on the bridge."""
    directory = tmp_path / "sw"
    async with (
        aioioth.Stack(f"switch://{directory}", ip="10.0.0.3/24"),
        aioioth.Cable("bridge://lan", os.fspath(directory)) as cable,
        aioioth.Stack("bridge://lan", ip=OURS) as one,
        aioioth.Stack(f"vde://{directory}", ip=THEIRS) as guest,
        await one.start_server(echo, "10.0.0.1", 7),
    ):
        assert await ask(guest, "10.0.0.1", b"x" * 100_000) == b"x" * 100_000
        assert await one.run(f"{PING} -W5 10.0.0.3") == 0
        assert cable.stats().a_to_b.drops == {}


async def test_a_switch_object_on_a_bridge(echo: Any, ask: Any) -> None:
    switch = aioioth.Switch()
    async with (
        aioioth.Cable("bridge://lan", switch),
        aioioth.Stack("bridge://lan", ip=OURS) as one,
        aioioth.Stack(switch, ip=THEIRS) as two,
        await one.start_server(echo, "10.0.0.1", 7),
    ):
        assert await ask(two, "10.0.0.1", b"hello") == b"hello"
    assert switch.ports == ()
