"""Needs vde_switch: ports, options, and two stacks on it. One test needs vdens too."""

from __future__ import annotations

import asyncio
import grp
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

import aioioth
from aioioth import errors
from aioioth.testing import cancel_everywhere

if TYPE_CHECKING:
    from pathlib import Path

    from tests.interop.conftest import Vdens, VdeSwitch

OURS = ["10.0.0.1/24", "fd00::1/64"]
OTHERS = ["10.0.0.3/24", "fd00::3/64"]

both_families = pytest.mark.parametrize("host", ["10.0.0.1", "fd00::1"])


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@both_families
async def test_two_stacks_talk(
    vde_switch: VdeSwitch, device: str, host: str, echo: Any, ask: Any
) -> None:
    async with (
        aioioth.Stack(vde_switch.vnl, ip=OURS, device=device) as left,
        aioioth.Stack(vde_switch.vnl, ip=OTHERS, device=device) as right,
        await left.start_server(echo, host, 7),
    ):
        assert await ask(right, host, 7, "abcdefgh" * 50_000) == "abcdefgh" * 50_000


async def test_the_switch_knows_who_we_are(vde_switch: VdeSwitch) -> None:
    assert vde_switch.ports() == {}
    async with aioioth.Stack(vde_switch.vnl, name="web"):
        us = f"aioioth web user={os.geteuid()} pid={os.getpid()}"
        assert vde_switch.ports() == {1: [us]}
    await vde_switch.until_ports(set())


async def test_a_plain_path_is_a_vnl(vde_switch: VdeSwitch) -> None:
    async with aioioth.Stack(str(vde_switch.directory)) as stack:
        assert set(vde_switch.ports()) == {1}
        assert stack.interfaces["vde0"].vnl == vde_switch.vnl


@pytest.mark.parametrize("option", ["[port=5]", "[5]"])
async def test_a_port_of_our_choice(vde_switch: VdeSwitch, option: str) -> None:
    async with aioioth.Stack(vde_switch.vnl + option):
        assert set(vde_switch.ports()) == {5}


async def test_a_port_that_does_not_exist(vde_switch: VdeSwitch) -> None:
    with pytest.raises(errors.HandshakeTimeoutError, match="port 77 does not exist"):
        await aioioth.Stack(f"{vde_switch.vnl}[port=77]").open()
    assert files(vde_switch.directory) == {"ctl"}
    assert vde_switch.ports() == {}


@pytest.mark.parametrize("options", ["", "[mode=0660]"], ids=["abstract", "path"])
@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled_at_each_await(
    vde_switch: VdeSwitch, options: str, times: int
) -> None:
    async def life() -> None:
        async with aioioth.Stack(vde_switch.vnl + options, ip=OURS):
            await asyncio.sleep(0)

    async with aioioth.Stack():  # the keeper and the manager are there to stay
        assert await cancel_everywhere(life, times=times) > 5
        assert files(vde_switch.directory) == {"ctl"}
    await vde_switch.until_ports(set())


async def test_mode_and_group(vde_switch: VdeSwitch, echo: Any, ask: Any) -> None:
    group = grp.getgrgid(os.getegid()).gr_name
    async with (
        aioioth.Stack(f"{vde_switch.vnl}[mode=0660]", ip=OURS) as left,
        aioioth.Stack(f"{vde_switch.vnl}[group={group}]", ip=OTHERS) as right,
        await left.start_server(echo, "10.0.0.1", 7),
    ):
        assert await ask(right, "10.0.0.1", 7, "hello") == "hello"
        # Ours were named .PID-N; the switch's are PORT.DESCRIPTOR.
        assert {name[:4] for name in files(vde_switch.directory)} == {
            "ctl",
            "001.",
            "002.",
        }
        (first,) = vde_switch.directory.glob("001.*")
        assert stat.S_IMODE(first.stat().st_mode) == 0o660


async def test_the_switch_is_in_another_network_namespace(
    distant_vde_switch: VdeSwitch, echo: Any, ask: Any
) -> None:
    vnl = distant_vde_switch.vnl
    async with (
        aioioth.Stack(vnl, ip=OURS) as left,
        aioioth.Stack(vnl, ip=OTHERS) as right,
        await left.start_server(echo, "10.0.0.1", 7),
    ):
        assert await ask(right, "10.0.0.1", 7, "hello") == "hello"
        names = files(distant_vde_switch.directory)
        assert not [name for name in names if name.startswith(".")]


@both_families
async def test_the_tutorials_nc(vdens: Vdens, host: str) -> None:
    """Line by line, to a server that listens on both families."""
    peers: list[str] = []
    served = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(writer.get_extra_info("peername")[0])
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
        writer.close()
        await writer.wait_closed()
        served.set()

    async with (
        aioioth.Stack(f"vde://{vdens.directory}", ip=OURS) as stack,
        await stack.start_server(serve, port=5000),
        asyncio.timeout(10),
    ):
        with vdens.started("nc", "-nN", host, "5000") as (to_nc, from_nc):
            for line in b"ciao\n", b"mare\n":
                to_nc.write(line)
                assert await asyncio.to_thread(from_nc.readline) == line
            to_nc.close()
            await served.wait()
    assert peers == ["10.0.0.2" if host == "10.0.0.1" else "fd00::2"]
