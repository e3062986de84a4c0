"""Networks joined by cables: in the process, and a vde_switch where there is one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

import aioioth
from aioioth import errors
from aioioth.testing import no_leaks
from tests.interop.conftest import VdeSwitch, need

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 30

PING = "/bin/ping -q -c1"

OURS = ["10.0.0.1/24", "fd00::1/64"]
THEIRS = ["10.0.0.2/24", "fd00::2/64"]


def attached(cable: aioioth.Cable) -> bool:
    return cable.attached


@pytest.fixture
def vde_switch() -> Iterator[VdeSwitch]:
    need("vde_switch")
    with tempfile.TemporaryDirectory(prefix="aioioth-") as home:
        switch = VdeSwitch(Path(home))
        try:
            switch.start()
            yield switch
        finally:
            switch.kill()


@pytest.mark.parametrize("mtu", [1500, 9000])
@pytest.mark.parametrize("host", ["10.0.0.1", "fd00::1"])
async def test_two_networks_are_one(
    device: str, host: str, mtu: int, echo: Any, ask: Any
) -> None:
    options: dict[str, Any] = {"mtu": mtu, "device": device}
    async with (
        aioioth.Cable("memory://a", "memory://b") as cable,
        aioioth.Stack("memory://a", ip=OURS, **options) as one,
        aioioth.Stack("memory://b", ip=THEIRS, **options) as two,
        await one.start_server(echo, host, 7),
    ):
        assert aioioth.stacks() == (one, two)
        text = b"hello" * 60_000
        assert await ask(two, host, text) == text
        stats = cable.stats()
        for way in stats.a_to_b, stats.b_to_a:
            assert way.bytes > len(text)
            assert way.drops == {}


async def test_three_in_a_row(echo: Any, ask: Any) -> None:
    """A switch object, by two cables, and one that is closed in between."""
    switch = aioioth.Switch(name="middle")
    async with (
        aioioth.Stack("memory://a", ip=OURS) as one,
        aioioth.Stack("memory://b", ip=THEIRS) as two,
        await one.start_server(echo, "10.0.0.1", 7),
        aioioth.Cable("memory://a", switch, name="left"),
    ):
        async with aioioth.Cable(switch, "memory://b"):
            assert await ask(two, "10.0.0.1", b"far") == b"far"
            assert next(port.label for port in switch.ports) == "aioioth left"
        assert len(switch.ports) == 1
        async with aioioth.Cable("memory://b", switch):
            assert await ask(two, "10.0.0.1", b"again") == b"again"
    assert not switch.ports


async def test_to_a_vde_switch(vde_switch: VdeSwitch, echo: Any, ask: Any) -> None:
    """Also frames that it would cut off: counted, and TCP finds another size."""
    async with (
        aioioth.Stack("memory://lan", ip=OURS, mtu=9000) as one,
        aioioth.Stack(vde_switch.vnl, ip=THEIRS) as two,
        aioioth.Cable("memory://lan", vde_switch.directory) as cable,
    ):
        for host in "10.0.0.1", "fd00::1":
            async with await one.start_server(echo, host, 7):
                assert await ask(two, host, b"x" * 100_000) == b"x" * 100_000
        assert cable.stats().a_to_b.drops == {}
        assert await one.run(f"{PING} -W1 -M do -s 4000 10.0.0.2") == 1
        assert cable.stats().a_to_b.drops == {"too long": 1}
        assert cable.attached


async def test_the_vde_switch_is_killed_and_comes_back(
    vde_switch: VdeSwitch, echo: Any, ask: Any
) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        aioioth.Stack("memory://lan", ip=OURS) as one,
        aioioth.Stack(vde_switch.vnl, ip=THEIRS) as two,
        aioioth.Cable("memory://lan", vde_switch.vnl) as cable,
        await one.start_server(echo, "10.0.0.1", 7),
    ):
        assert await ask(two, "10.0.0.1", b"before") == b"before"
        events, others = cable.events(), two.events(aioioth.events.StackEvent)
        vde_switch.kill()
        event = await anext(events)
        assert isinstance(event, aioioth.CarrierDown)
        assert event.interface == "b"
        assert not attached(cable)
        vde_switch.start()
        assert isinstance(await anext(events), aioioth.CarrierUp)
        while not isinstance(await anext(others), aioioth.CarrierUp):
            pass
        assert attached(cable)
        assert await ask(two, "10.0.0.1", b"after") == b"after"


def test_under_trio() -> None:
    async def main() -> None:
        cable = aioioth.Cable("memory://a", "memory://b")
        async with cable:
            assert cable.attached
            events = cable.events()
            async with (
                aioioth.Stack("memory://a", ip="10.0.0.1/24") as one,
                aioioth.Stack("memory://b", ip="10.0.0.2/24") as two,
            ):
                assert aioioth.stacks() == (one, two)
                assert await two.run(f"{PING} -W5 10.0.0.1") == 0
            # With no stack open, it still lives.
            assert aioioth.stacks() == ()
            assert cable.stats().a_to_b.frames > 0
        assert [event async for event in events] == []
        with pytest.raises(errors.ClosedError):
            cable.stats()

    with no_leaks():
        trio.run(main)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_forgotten(loop: str) -> None:
    program = """
        import asyncio, uvloop, aioioth

        async def main():
            global cable
            cable = await aioioth.Cable("null://", "memory://b", name="lost").open()

        LOOP.run(main())
        print(cable)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program).replace("LOOP", loop)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert done.stdout == "cable 'lost'\n"
    assert "<string>:6: UnclosedCableWarning: cable 'lost' was never" in done.stderr
