"""Many stacks in one program, for benchmarks/scale.py.

    python -m benchmarks.many LOOP VNL COUNT

Says "start", and at each line that it reads takes the next step: makes the stacks
("made SECONDS"), then connects the last to the first ("connected SECONDS"), tells how
many descriptors it has more than before ("descriptors N"), closes all ("closed
SECONDS") and ends.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import sys
import time
from typing import TYPE_CHECKING

import aioioth
from benchmarks.stackprogram import loop_factory

if TYPE_CHECKING:
    from collections.abc import Sequence

_FIRST, _PORT = "10.1.0.1", 5000


def _say(what: str, value: float) -> None:
    print(f"{what} {value:.6f}", flush=True)


async def _first_connect(stacks: Sequence[aioioth.Stack]) -> float:
    """Return the seconds of a connect, no name and no stream in between."""
    loop = asyncio.get_running_loop()
    with stacks[0].socket() as listener, stacks[-1].socket() as client:
        listener.bind((_FIRST, _PORT))
        listener.listen()
        start = time.perf_counter()
        await loop.sock_connect(client, (_FIRST, _PORT))
        return time.perf_counter() - start


async def _many(vnl: str, count: int) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    start = time.perf_counter()
    async with aioioth.open_stacks(count, vnl, ip=f"{_FIRST}/16") as stacks:
        seconds = time.perf_counter() - start
        gc.collect()
        _say("made", seconds)
        await asyncio.to_thread(sys.stdin.readline)
        _say("connected", await _first_connect(stacks))
        _say("descriptors", len(os.listdir("/proc/self/fd")) - descriptors)
        start = time.perf_counter()
    _say("closed", time.perf_counter() - start)


def main() -> None:
    """Take the steps."""
    _, loop, vnl, count = sys.argv
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print("start", flush=True)
    sys.stdin.readline()
    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        runner.run(_many(vnl, int(count)))


if __name__ == "__main__":
    main()
