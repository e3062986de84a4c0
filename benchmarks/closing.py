"""What an event loop notices when a stack closes, beside a plain close of its TAP.

Closing a TAP waits until no processor of the kernel can still use it, and so long
nothing else runs on a loop that does it. For each way that frames can take, stacks are
opened and closed one after the other while the loop runs, and the longest time that it
did nothing else is noted.

    python -m benchmarks.closing LOOP TIMES VNL    prints a list, in milliseconds
    python -m benchmarks.closing tap TIMES         the same of a plain close of TAPs
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import json
import os
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING

import aioioth
from benchmarks.paths.byhand import unshare, why_no_namespaces
from benchmarks.paths.stacks import BRIDGE, why_no_scheme
from benchmarks.results import Spread, Unavailable
from benchmarks.running import FailedError, running, why_no_tap
from benchmarks.stackprogram import loop_factory

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.results import Results
    from benchmarks.running import Workplace

__all__ = ["CLOSING", "measure_closing"]

# What is closed, by its key in the results.
CLOSING = {
    "bridge": BRIDGE,
    "memory": "memory://bench",
}

# <linux/if_tun.h>, <linux/sockios.h>, <linux/if.h>, Linux 6.1
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1


async def measure_closing(
    place: Workplace, times: int, results: Results, tell: Callable[[str], None]
) -> None:
    """Measure in programs of their own, and put it into ``results``."""
    module = [sys.executable, "-m", "benchmarks.closing"]
    if why := why_no_tap() or why_no_namespaces():
        results.left_out.append(Unavailable("a plain close of a TAP", why))
    else:
        tell("closing a TAP")
        command = [*unshare(), *module, "tap", str(times)]
        await _note(place, command, ("", "closing"), results)
    for key, vnl in CLOSING.items():
        if why := why_no_scheme(vnl):
            results.left_out.append(Unavailable(f"closing a stack on {key}://", why))
            continue
        tell(f"closing stacks on {key}://")
        await _note(
            place, [*module, place.loop, str(times), vnl], (key, "closing"), results
        )


async def _note(
    place: Workplace, command: list[str], key: tuple[str, str], results: Results
) -> None:
    with place.part() as own:
        try:
            async with running(own, command) as program:
                values: list[float] = json.loads(await program.line())
        except FailedError as error:
            what = f"closing a stack on {key[0]}://" if key[0] else "closing a TAP"
            results.left_out.append(Unavailable(what, f"it failed: {error}"))
        else:
            results.figures[key] = Spread(tuple(values))


async def _held(vnl: str) -> float:
    """Return the longest time that closing a stack keeps the loop, in milliseconds."""
    stack = await aioioth.Stack(vnl, ip="10.0.0.1/24").open()
    await asyncio.sleep(0.02)  # what opening has left to do
    gc.collect()
    closing = asyncio.create_task(stack.aclose())
    longest, before = 0.0, time.perf_counter()
    while not closing.done():
        await asyncio.sleep(0)
        now = time.perf_counter()
        longest, before = max(longest, now - before), now
    await closing
    return longest * 1e3


async def _stacks(vnl: str, times: int) -> list[float]:
    # One stays: it is about further stacks, not about a network that goes away.
    async with aioioth.Stack(vnl, ip="10.0.0.2/24"):
        await _held(vnl)  # the first one imports
        gc.disable()
        return [await _held(vnl) for _ in range(times)]


def _tap() -> float:
    number = os.open("/dev/net/tun", os.O_RDWR)
    request = struct.pack("16sH22x", b"tap%d", _IFF_TAP | _IFF_NO_PI)
    name = fcntl.ioctl(number, _TUNSETIFF, request)[:16]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH22x", name, _IFF_UP))
    start = time.perf_counter()
    os.close(number)
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    """Print the list."""
    match sys.argv[1:]:
        case ["tap", times]:
            values = [_tap() for _ in range(int(times))]
        case [loop, times, vnl]:
            with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
                values = runner.run(_stacks(vnl, int(times)))
        case _:
            sys.exit(__doc__)
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
