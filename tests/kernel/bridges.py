"""Addresses of stacks on ``bridge://lan``, and looks at the bridge and its name."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import aioioth
    from aioioth._bridging import Joined

PATIENCE = 30

PING = "/bin/ping -q -c1"

OURS = ["10.0.0.1/24", "fd00::1/64"]
THEIRS = ["10.0.0.2/24", "fd00::2/64"]
HOSTS = ["10.0.0.1", "fd00::1"]


def runtime() -> Path:
    return Path(os.environ["XDG_RUNTIME_DIR"], "aioioth")


def joined(stack: aioioth.Stack) -> Joined:
    """Return the bridge that a stack's first interface is on."""
    wiring = stack._parts().wiring
    assert wiring is not None
    found: Joined = wiring.links[0]._junction._seat.joined  # type: ignore[union-attr]
    return found


def attached(interface: aioioth.Interface) -> bool:
    return interface.attached


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.002)


async def who(reader: Any, writer: Any) -> None:
    """Say who is asked."""
    writer.write(writer.get_extra_info("sockname")[0].encode())
    writer.close()
