"""Segments that are written together: the kernel takes them for what they are."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from typing_extensions import override

import aioioth
from tests.kernel.traffic import (
    DATA,
    HOSTS,
    ONE,
    RECEIVED,
    RECEIVED_6,
    TWO,
    Nothing,
    counted,
    plain,
    transfer,
    wrong_checksums,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aioioth.nested import NestedTransport


@pytest.fixture(autouse=True)
def _tap(tap_opens: bool) -> None:
    if not tap_opens:
        pytest.skip("/dev/net/tun does not open")


@asynccontextmanager
async def routed(
    to_the_left: NestedTransport,
) -> AsyncIterator[tuple[aioioth.Stack, aioioth.Stack]]:
    """Stacks on the left and on the right of a router, 10.1.0.2 and 10.2.0.2."""
    async with (
        aioioth.Stack(
            plain("memory://left"),
            ip=["10.1.0.2/24", "fd01::2/64"],
            gw=["10.1.0.1", "fd01::1"],
        ) as left,
        aioioth.Stack(
            to_the_left,
            plain("memory://right"),
            ip={
                "vde0": ["10.1.0.1/24", "fd01::1/64"],
                "vde1": ["10.2.0.1/24", "fd02::1/64"],
            },
        ) as router,
        aioioth.Stack(
            plain("memory://right"),
            ip=["10.2.0.2/24", "fd02::2/64"],
            gw=["10.2.0.1", "fd02::1"],
        ) as right,
    ):
        await router.sysctl("net.ipv4.ip_forward", 1)
        await router.sysctl("net.ipv6.conf.all.forwarding", 1)
        yield left, right


@HOSTS
async def test_few_of_many(host: str) -> None:
    async with (
        aioioth.Stack(plain("memory://lan"), ip=ONE) as one,
        aioioth.Stack(plain("memory://lan"), ip=TWO) as two,
    ):
        await transfer(one, two, host)
        frames = two.stats()["vde0"].received.frames
        assert frames > len(DATA) / 1500
        assert await wrong_checksums(two) == 0
        received = RECEIVED if "." in host else RECEIVED_6
        assert (await counted(two))[received] < frames / 3


@pytest.mark.parametrize("host", ["10.2.0.2", "fd02::2"])
async def test_a_router_cuts_them_again(host: str) -> None:
    async with routed(plain("memory://left")) as (left, right):
        await transfer(left, right, host)
        assert await wrong_checksums(right) == 0


class Damage(Nothing):
    """Changes a byte of every hundredth long frame."""

    def __init__(self) -> None:
        super().__init__()
        self.damaged = 0
        self._number = 0

    @override
    def incoming(self, frame: memoryview) -> memoryview:
        if len(frame) > 1000:
            self._number += 1
            if self._number % 100 == 0:
                self.damaged += 1
                frame[-10] ^= 0xFF
        return frame


@pytest.mark.parametrize("version", [4, 6])
async def test_a_router_does_not_mend_what_was_damaged(version: int) -> None:
    damage = Damage()
    async with routed(plain("memory://left", damage)) as (left, right):
        await transfer(left, right, "10.2.0.2" if version == 4 else "fd02::2")
        assert damage.damaged > 0
        # Each of them arrived, and as what it was.
        assert await wrong_checksums(right) == damage.damaged


async def test_the_kernel_sees_what_was_damaged() -> None:
    async with (
        aioioth.Stack(plain("memory://lan"), ip="10.0.0.1/24") as one,
        aioioth.Stack(plain("memory://lan", Damage()), ip="10.0.0.2/24") as two,
    ):
        await transfer(one, two, "10.0.0.2")
        assert await wrong_checksums(two) > 0
