"""Needs vde_plug, vdens and iperf3: how ``ptp://`` gets on with Debian's, all its life.

That both sides ping and connect is in test_schemes.py.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

import aioioth
from aioioth.errors import BrokenTransportError
from aioioth_transports.ptp import PtpTransport
from tests.interop.conftest import PATIENCE, a_shell, need, running, soon

if TYPE_CHECKING:
    from aioioth.abc import Plug

FRAME = b"\xff" * 6 + bytes.fromhex("020000000001 88b5") + b"hello".ljust(46, b"\0")
WIRE = len(FRAME).to_bytes(2) + FRAME  # on vde_plug's standard input and output
BUFFER = memoryview(bytearray(65554))


@pytest.fixture
def path(home: Path) -> Path:
    need("vde_plug")
    return home / "p"


def until_there(process: subprocess.Popen[bytes], path: Path | str) -> None:
    for _ in soon("vde_plug makes its socket"):
        assert process.poll() is None, "vde_plug has ended"
        if Path(path).exists():
            return


async def talk(plug: Plug, process: subprocess.Popen[bytes]) -> None:
    """Pass frames both ways, from when they have met."""
    assert process.stdin is not None
    assert process.stdout is not None
    heard = asyncio.create_task(asyncio.to_thread(read_wire, process.stdout))
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                plug.send(FRAME)
            except OSError as error:
                if error.errno != errno.ENETUNREACH:
                    raise
                await asyncio.sleep(0.01)
            else:
                break
        assert await heard == WIRE
        process.stdin.write(WIRE)
        length = None
        while length is None:
            try:
                length = plug.recv_into(BUFFER)
            except BlockingIOError:
                await asyncio.sleep(0.001)
    assert BUFFER[:length] == FRAME


def read_wire(stream: IO[bytes]) -> bytes:
    data = b""
    while len(data) < len(WIRE) and (more := stream.read(len(WIRE) - len(data))):
        data += more
    return data


def refused(path: Path, reason: bytes) -> None:
    """Check that vde_plug is told so."""
    done = subprocess.run(
        ["vde_plug", f"ptp://{path}"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert reason in done.stderr


async def test_we_are_first(path: Path) -> None:
    plug = await PtpTransport(os.fspath(path)).open("us")
    with running("vde_plug", f"ptp://{path}") as process:
        await talk(plug, process)
        refused(path, b"not permitted")
        with pytest.raises(BrokenTransportError, match="two are joined"):
            await PtpTransport(os.fspath(path)).open("third")
        await talk(plug, process)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(PATIENCE)
    # Nothing says that it has gone; the next is let in all the same, soon after.
    async with asyncio.timeout(PATIENCE):
        while True:
            with running(
                "vde_plug", f"ptp://{path}", stderr=subprocess.DEVNULL
            ) as next_one:
                try:
                    await asyncio.to_thread(next_one.wait, 0.1)
                except subprocess.TimeoutExpired:  # it was let in
                    await talk(plug, next_one)
                    break
    plug.close()
    assert not path.exists()


async def test_they_are_first(path: Path) -> None:
    with running("vde_plug", f"ptp://{path}") as process:
        until_there(process, path)
        for _ in range(2):
            plug = await PtpTransport(os.fspath(path)).open("us")
            with pytest.raises(BrokenTransportError, match="two are joined"):
                await PtpTransport(os.fspath(path)).open("third")
            # vde_plug has to send once to notice that its first peer has gone.
            assert process.stdin is not None
            process.stdin.write(WIRE)
            await talk(plug, process)
            plug.close()
            assert os.listdir(path.parent) == ["p"]


async def test_two_of_them_are_enough(path: Path) -> None:
    with running("vde_plug", f"ptp://{path}") as one:
        until_there(one, path)
        with running("vde_plug", f"ptp://{path}") as two:
            until_there(two, f"{path}+")
            with pytest.raises(BrokenTransportError, match="two are joined"):
                await PtpTransport(os.fspath(path)).open("third")


async def test_what_they_leave_behind_is_replaced(path: Path) -> None:
    with running("vde_plug", f"ptp://{path}") as process:
        until_there(process, path)
        process.kill()
    assert path.exists()
    plug = await PtpTransport(os.fspath(path)).open("us")
    with running("vde_plug", f"ptp://{path}") as process:
        await talk(plug, process)
    plug.close()


async def test_debians_knows_no_seqpacket_and_does_no_harm(path: Path) -> None:
    plug = await PtpTransport(f"{path}[seqpacket]").open("us")
    refused(path, b"wrong type")
    with pytest.raises(BlockingIOError):
        plug.recv_into(BUFFER)
    plug.close()


@pytest.mark.parametrize("first", ["we", "they"])
async def test_both_at_full_rate(path: Path, first: str, tap_opens: bool) -> None:
    """Two of Debian's stop for ever, each in its send."""
    need("vdens", "iperf3", "ip")
    if not tap_opens:
        pytest.skip("vdens needs /dev/net/tun, which this user may not open")
    us = aioioth.Stack(f"ptp://{path}", ip="10.0.0.1/24")
    async with AsyncExitStack() as until_end:
        if first == "we":
            await until_end.enter_async_context(us)
        there = await until_end.enter_async_context(
            a_shell("vdens", f"ptp://{path}", "sh")
        )
        assert await there.run("ip addr add 10.0.0.2/24 dev vde0") == ""
        assert await there.run("ip link set vde0 up") == ""
        if first == "they":
            await until_end.enter_async_context(us)
        here = await until_end.enter_async_context(
            a_shell("sh", start=us.create_subprocess_exec)
        )
        here.begin("iperf3 -s -1 --forceflush")
        while "listening" not in await here.line():
            pass
        said = await there.run("iperf3 -c 10.0.0.1 --bidir -n 20M -J")
        sums = json.loads(said)["end"]
        # It ends when one direction has sent that much; a stall has no end.
        assert sums["sum_received"]["bytes"] > 1_000_000
        assert sums["sum_received_bidir_reverse"]["bytes"] > 1_000_000
        await here.rest()
