"""Segments of 64 KiB from program to program, through a stream of bytes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

import aioioth
from aioioth.abc import CarriesOffloads
from aioioth.networks import find_network
from aioioth.wire.offload import VNET_HEADER
from tests.kernel.traffic import (
    HOSTS,
    ONE,
    TWO,
    plain,
    there_and_back,
    wrong_checksums,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Streams:
    """VNLs of both ends of a stream, of each kind."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def both(self, kind: str) -> tuple[str, str]:
        home = self._home
        if kind == "tcp":
            return "stream://:5000[listen/offload]", "stream://127.0.0.1:5000[offload]"
        if kind == "tls":
            ca: Any = pytest.importorskip("trustme", reason="makes certificates").CA()
            ca.cert_pem.write_to_path(home / "ca.pem")
            papers = ca.issue_cert("localhost").private_key_and_cert_chain_pem
            papers.write_to_path(home / "cert.pem")
            return (
                f"stream://:5000[listen/tls/cert='{home}/cert.pem'/anyone/offload]",
                f"stream://localhost:5000[tls/ca='{home}/ca.pem'/offload]",
            )
        ends = f"stream://{home}/s[listen/offload]", f"stream://{home}/s[offload]"
        if kind == "unix":
            return ends
        pytest.importorskip("cryptography", reason="seals frames")
        key = home / "key"
        key.write_text("5e" * 32)
        key.chmod(0o600)
        return f"seal://{key}{{{ends[0]}}}", f"seal://{key}{{{ends[1]}}}"


KINDS = pytest.mark.parametrize("kind", ["tcp", "tls", "unix", "seal"])


@pytest.fixture
def streams(tmp_path: Path) -> Streams:
    return Streams(tmp_path)


def drops(*stacks: aioioth.Stack) -> Mapping[str, int]:
    """Return what is lost here, but what a stack sends before there is a peer."""
    total: dict[str, int] = {}
    for stack in stacks:
        for traffic in stack.stats().values():
            for each in traffic.sent.drops, traffic.received.drops:
                total.update({cause: n for cause, n in each.items() if n})
    total.pop("unreachable", None)
    return total


def frame_size(stack: aioioth.Stack) -> float:
    """Return how long the frames were that it sent, on average."""
    (traffic,) = stack.stats().values()
    return traffic.sent.bytes / traffic.sent.frames


@KINDS
@HOSTS
async def test_there_and_back(
    streams: Streams, kind: str, device: str, host: str
) -> None:
    listening, calling = streams.both(kind)
    async with (
        aioioth.Stack(listening, ip=TWO, device=device) as two,
        aioioth.Stack(calling, ip=ONE, device=device) as one,
    ):
        await there_and_back(one, two, host)
        await there_and_back(two, one, host.replace("2", "1"))
        for stack in one, two:
            assert await wrong_checksums(stack) == 0
            assert frame_size(stack) > 3000
        assert drops(one, two) == {}


@pytest.mark.parametrize("kind", ["unix", "seal"])
@HOSTS
async def test_one_end_that_carries_no_offloads(
    streams: Streams, kind: str, device: str, host: str
) -> None:
    listening, calling = streams.both(kind)
    async with (
        aioioth.Stack(listening, ip=TWO, device=device) as two,
        aioioth.Stack(plain(calling), ip=ONE, device=device) as one,
    ):
        await there_and_back(one, two, host)
        await there_and_back(two, one, host.replace("2", "1"))
        assert await wrong_checksums(one) == await wrong_checksums(two) == 0
        assert frame_size(one) < 1515
        assert frame_size(two) > 3000
        assert drops(one, two) == {}


@pytest.mark.parametrize("kind", ["tcp", "seal"])
@HOSTS
async def test_a_cable(streams: Streams, kind: str, host: str) -> None:
    """From a stack at a switch, through a cable and a stream, to another stack."""
    listening, calling = streams.both(kind)
    async with (
        aioioth.Stack("memory://here", ip=ONE) as one,
        aioioth.Cable("memory://here", listening),
        aioioth.Stack(calling, ip=TWO) as two,
    ):
        await there_and_back(one, two, host)
        await there_and_back(two, one, host.replace("2", "1"))
        assert await wrong_checksums(one) == await wrong_checksums(two) == 0


@HOSTS
async def test_cables_at_both_ends(streams: Streams, host: str) -> None:
    """Nobody carries offloads at the stream itself."""
    listening, calling = streams.both("tcp")
    async with (
        aioioth.Stack("memory://here", ip=ONE) as one,
        aioioth.Stack("memory://there", ip=TWO) as two,
        aioioth.Cable("memory://here", listening),
        aioioth.Cable(calling, "memory://there"),
    ):
        await there_and_back(one, two, host)
        assert await wrong_checksums(one) == await wrong_checksums(two) == 0


@HOSTS
async def test_a_vlan_inside(streams: Streams, host: str) -> None:
    listening, calling = streams.both("unix")
    async with (
        aioioth.Stack(f"vlan://5{{{listening}}}", ip=TWO) as two,
        aioioth.Stack(f"vlan://5{{{calling}}}", ip=ONE) as one,
    ):
        await there_and_back(one, two, host)
        assert frame_size(one) < 1515


async def test_headers_that_the_kernel_refuses(streams: Streams, device: str) -> None:
    """Sound, but not true of their frames: counted, and the link lives on."""
    listening, calling = streams.both("unix")
    async with aioioth.Stack(listening, ip=TWO, device=device) as two:
        plug = await find_network(calling).transport.open("hostile")
        with contextlib.closing(plug):
            assert isinstance(plug, CarriesOffloads)
            plug.carry_offloads(lambda _: False)
            frame = bytes.fromhex("ffffffffffff 020000000001 88b5") + bytes(1000)
            for kind in 0, 1, 4, 5, 0x81:
                for start in 14, 34, 900:
                    for headers in 0, 54, 1014:
                        flags, size = 1, 500 if kind else 0
                        plug.send(
                            VNET_HEADER.pack(flags, kind, headers, size, start, 16)
                            + frame
                        )
            plug.send(bytes(10) + frame)  # the last one is fine
            async with asyncio.timeout(20):
                while not (got := two.stats()["vde0"].received).frames:
                    await asyncio.sleep(0.001)
                # All in front of it were met before.
                while sum(got.drops.values()) + got.frames < 46:
                    await asyncio.sleep(0.001)
                    got = two.stats()["vde0"].received
        assert set(got.drops) <= {"malformed", "no buffer space"}
        async with aioioth.Stack(calling, ip=ONE, device=device) as one:
            await there_and_back(one, two, "10.0.0.2")
