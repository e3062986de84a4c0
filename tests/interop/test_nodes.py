"""Needs vde_plug, some tests vdens or vde_switch too: they join a `Switch` of ours."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import struct
from contextlib import AsyncExitStack
from typing import IO, TYPE_CHECKING, Any

import pytest

import aioioth
from aioioth.errors import BrokenTransportError
from tests.interop.conftest import PATIENCE, a_shell, need, running, soon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aioioth.switch import Port, Switch
    from tests.interop.conftest import Shell, VdeSwitch

EVERYBODY = b"\xff" * 6
MAC = bytes.fromhex("02000000000a")


@pytest.fixture
async def switch(home: Path) -> AsyncIterator[Switch]:
    """A switch of ours that is running."""
    need("vde_plug")
    async with aioioth.Switch(home / "sw") as switch:
        yield switch


async def until_ports(switch: Switch, number: int) -> tuple[Port, ...]:
    async with asyncio.timeout(PATIENCE):
        while len(switch.ports) != number:
            await asyncio.sleep(0.002)
    return switch.ports


@contextlib.asynccontextmanager
async def hosts(vnl: str, *numbers: int) -> AsyncIterator[list[Shell]]:
    """Shells in `vdens`, with the addresses 10.0.0.N and fd00::N."""
    async with AsyncExitStack() as undo:
        shells = []
        for number in numbers:
            shell = await undo.enter_async_context(a_shell("vdens", vnl, "sh"))
            told = await shell.run(
                f"ip addr add 10.0.0.{number}/24 dev vde0;"
                f"ip addr add fd00::{number}/64 dev vde0 nodad;"
                f"ip link set vde0 up"
            )
            assert told == ""
            shells.append(shell)
        yield shells


def ping(host: str) -> str:
    return f"ping -n -c 1 -W 5 {host}"


@pytest.mark.parametrize("forwarding", ["switch", "hub"])
async def test_two_vdens_and_a_stack(
    home: Path, tap_opens: bool, forwarding: Any
) -> None:
    need("vdens", "ip", "ping")
    if not tap_opens:
        pytest.skip("vdens needs /dev/net/tun, which this user may not open")
    async with (
        aioioth.Switch(home / "sw", forwarding=forwarding) as switch,
        aioioth.Stack(switch, ip=["10.0.0.1/24", "fd00::1/64"]) as stack,
        hosts(f"vde://{home}/sw", 2, 3) as [two, three],
    ):
        assert len(switch.ports) == 3
        assert "vdens" in switch.ports[1].label
        for asking, number in (two, 3), (three, 2), (two, 1), (three, 1):
            for network in "10.0.0.", "fd00::":
                told = await asking.run(ping(f"{network}{number}"))
                assert "1 received" in told, told
        for host in "10.0.0.2", "fd00::3":
            assert await stack.run(f"/bin/{ping(host)}") == 0


async def test_vlans_keep_vdens_apart(home: Path, tap_opens: bool) -> None:
    need("vdens", "ip", "ping")
    if not tap_opens:
        pytest.skip("vdens needs /dev/net/tun, which this user may not open")
    async with (
        aioioth.Switch(home / "sw") as switch,
        hosts(f"vde://{home}/sw", 2, 3) as [two, three],
        aioioth.Stack(f"vlan://7{{vde://{home}/sw}}", ip="10.0.0.1/24"),
    ):
        first, second, _ = switch.ports
        first.set_vlans(7)
        second.set_vlans(8)
        assert "0 received" in await two.run("ping -n -c 1 -W 1 10.0.0.3")
        assert "1 received" in await two.run(ping("10.0.0.1"))
        second.set_vlans(7)
        assert "1 received" in await two.run(ping("10.0.0.3"))
        assert "1 received" in await three.run(ping("10.0.0.1"))


async def test_a_cable_of_vde_plug(
    switch: Switch, home: Path, echo: Any, ask: Any
) -> None:
    async with aioioth.Switch(home / "other") as other:
        with running("vde_plug", f"vde://{home}/sw", f"vde://{home}/other"):
            await until_ports(switch, 1)
            await until_ports(other, 1)
            async with (
                aioioth.Stack(switch, ip="10.0.0.1/24") as left,
                aioioth.Stack(other, ip="10.0.0.2/24") as right,
                await left.start_server(echo, "10.0.0.1", 7),
            ):
                text = "abcdefgh" * 50_000
                assert await ask(right, "10.0.0.1", 7, text) == text
        await until_ports(switch, 0)


async def test_frames_of_every_length(switch: Switch, home: Path) -> None:
    port = await switch.open("local")
    with running("vde_plug", f"vde://{home}/sw") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        await until_ports(switch, 2)
        buffer = memoryview(bytearray(65554))
        for length in 14, 15, 59, 60, 1514, 1518, 1519, 9000, 9233, 9234:
            data = EVERYBODY + MAC + os.urandom(length - 12)
            process.stdin.write(struct.pack("!H", length) + data)
            async with asyncio.timeout(PATIENCE):
                while (got := take(port, buffer)) is None:
                    await asyncio.sleep(0.001)
            assert got == data
            port.send(data)
            async with asyncio.timeout(PATIENCE):
                assert await asyncio.to_thread(read_frame, process.stdout) == data
    port.close()
    await asyncio.get_running_loop().shutdown_default_executor()


def take(port: Any, buffer: memoryview) -> bytes | None:
    try:
        return bytes(buffer[: port.recv_into(buffer)])
    except BlockingIOError:
        return None


def read_frame(stream: IO[bytes]) -> bytes:
    def exactly(number: int) -> bytes:
        data = b""
        while len(data) < number and (more := stream.read(number - len(data))):
            data += more
        return data

    return exactly(int.from_bytes(exactly(2), "big"))


async def test_a_client_that_is_killed_frees_its_port(
    switch: Switch, home: Path
) -> None:
    with running("vde_plug", "-D", "me", f"vde://{home}/sw") as process:
        [port] = await until_ports(switch, 1)
        assert port.label.startswith("me ")
        assert port.label.endswith(f"(uid {os.geteuid()}, pid {process.pid})")
        assert process.stdin is not None
        process.stdin.write(struct.pack("!H", 60) + EVERYBODY + MAC + bytes(48))
        async with asyncio.timeout(PATIENCE):
            while not switch.mac_table:
                await asyncio.sleep(0.002)
        process.kill()
        await until_ports(switch, 0)
        assert switch.mac_table == ()
        assert {path.name for path in (home / "sw").iterdir()} == {"ctl"}


async def test_a_client_that_is_disconnected_ends(switch: Switch, home: Path) -> None:
    with running("vde_plug", f"vde://{home}/sw") as process:
        [port] = await until_ports(switch, 1)
        port.disconnect()
        async with asyncio.timeout(PATIENCE):
            await asyncio.to_thread(process.wait)
    await asyncio.get_running_loop().shutdown_default_executor()


async def test_dpipe_is_a_cable(
    switch: Switch, home: Path, echo: Any, ask: Any
) -> None:
    need("dpipe")
    async with aioioth.Switch(home / "other") as other:
        command = [
            "vde_plug",
            f"vde://{home}/sw",
            "=",
            "vde_plug",
            f"vde://{home}/other",
        ]
        with running("dpipe", *command):
            await until_ports(switch, 1)
            await until_ports(other, 1)
            async with (
                aioioth.Stack(switch, ip="10.0.0.1/24") as left,
                aioioth.Stack(other, ip="10.0.0.2/24") as right,
                await left.start_server(echo, "10.0.0.1", 7),
            ):
                assert await ask(right, "10.0.0.1", 7, "hello") == "hello"


async def test_our_own_vde_joins(
    switch: Switch, home: Path, echo: Any, ask: Any
) -> None:
    async with (
        aioioth.Stack(switch, ip="10.0.0.1/24") as left,
        aioioth.Stack(f"vde://{home}/sw", ip="10.0.0.2/24") as right,
        await left.start_server(echo, "10.0.0.1", 7),
    ):
        text = "abcdefgh" * 50_000
        assert await ask(right, "10.0.0.1", 7, text) == text


# Whose directory it is


async def test_where_vde_plug_has_a_switch(node: Path, echo: Any, ask: Any) -> None:
    """It is told, and vde_plug's is none the worse for it."""
    for path in node, node / ".." / node.name:
        with pytest.raises(BrokenTransportError, match="is running there") as caught:
            await aioioth.Switch(path).start()
        assert caught.value.errno == errno.EBUSY
    async with (
        aioioth.Stack(f"vde://{node}", ip="10.0.0.1/24") as left,
        aioioth.Stack(f"vde://{node}", ip="10.0.0.2/24") as right,
        await left.start_server(echo, "10.0.0.1", 7),
    ):
        assert await ask(right, "10.0.0.1", 7, "hello") == "hello"


async def test_where_vde_plug_was_killed(home: Path) -> None:
    need("vde_plug")
    path = home / "sw"
    with running("vde_plug", "null://", f"switch://{path}") as process:
        for _ in soon("vde_plug makes its directory"):
            if (path / "ctl").exists():
                break
        process.kill()
        process.wait()
    assert (path / "ctl").exists()
    async with aioioth.Switch(path) as switch:
        with running("vde_plug", f"vde://{path}"):
            await until_ports(switch, 1)


async def test_where_a_vde_switch_is_and_was(vde_switch: VdeSwitch) -> None:
    with pytest.raises(BrokenTransportError, match="is running there"):
        await aioioth.Switch(vde_switch.directory).start()
    vde_switch.kill()
    async with aioioth.Switch(vde_switch.directory) as switch:
        with running("vde_plug", vde_switch.vnl):
            await until_ports(switch, 1)
