"""A program with stacks, for the benchmarks.

    python -m benchmarks.stackprogram DESCRIPTOR LOOP PROFILER [VNL ADDRESS/LEN]...

It opens the stacks, says "ready", and does what it is asked for on the SOCK_SEQPACKET
socket that it has inherited as DESCRIPTOR, until that ends. Requests are JSON:

* ``{"stack": N, "command": [...]}`` with three descriptors: start a program in a stack
  with these as standard input, output and error. The answer is "started".
* ``{"lateness": SECONDS}``: the answer is by how many milliseconds the loop was late,
  at the 99th percentile.

While programs run, the loop does nothing but pump.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import socket
import sys
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import aioioth
from benchmarks.profiling import profiled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["lateness", "loop_factory"]

_TICK_SECONDS = 0.001


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes loops of a kind."""
    if name == "asyncio":
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop]
    factory = importlib.import_module(name).new_event_loop
    return factory


async def lateness(seconds: float) -> float:
    """Return by how many milliseconds timers are late, at the 99th percentile.

    A tick is due each millisecond, whether the loop comes to it or not: what holds the
    loop for 20 ms makes 20 of them late. epoll's own grain, about a millisecond on
    asyncio, is in it.
    """
    loop = asyncio.get_running_loop()
    late: list[float] = []
    end = time.perf_counter() + seconds
    done = loop.create_future()

    # uvloop's own clock stands still while callbacks run.
    def tick(due: float) -> None:
        now = time.perf_counter()
        while due <= now:
            late.append(now - due)
            due += _TICK_SECONDS
        if now > end:
            done.set_result(None)
            return
        loop.call_later(due - now, tick, due)

    tick(time.perf_counter())
    await done
    late.sort()
    return late[len(late) * 99 // 100] * 1e3


async def _requests(control: socket.socket) -> asyncio.Queue[tuple[bytes, list[int]]]:
    """Return a queue of what arrives; an empty request is the end."""
    queue: asyncio.Queue[tuple[bytes, list[int]]] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    control.setblocking(False)

    def readable() -> None:
        with contextlib.suppress(BlockingIOError):
            request, fds, _, _ = socket.recv_fds(control, 65536, 3)
            if not request:
                loop.remove_reader(control)
            queue.put_nowait((request, list(fds)))

    loop.add_reader(control, readable)
    return queue


async def _start(stack: aioioth.Stack, command: Sequence[str], fds: list[int]) -> Any:  # noqa: ANN401  (asyncio's and uvloop's processes have no common type)
    stdin, stdout, stderr = fds
    try:
        return await stack.create_subprocess_exec(
            *command, stdin=stdin, stdout=stdout, stderr=stderr
        )
    finally:
        for number in fds:
            os.close(number)


async def _serve(number: int, profiler: str, vnls: Sequence[str]) -> None:
    with socket.socket(fileno=number) as control:
        async with AsyncExitStack() as until_end:
            stacks = [
                await until_end.enter_async_context(aioioth.Stack(vnl, ip=ip))
                for vnl, ip in zip(vnls[::2], vnls[1::2], strict=True)
            ]
            requests = await _requests(control)
            print("ready", flush=True)
            until_end.enter_context(profiled(profiler, stacks))
            processes = []
            while True:
                request, fds = await requests.get()
                if not request:
                    break
                wish = json.loads(request)
                if "lateness" in wish:
                    print(await lateness(wish["lateness"]), flush=True)
                    continue
                stack = stacks[wish["stack"]]
                processes.append(await _start(stack, wish["command"], fds))
                print("started", flush=True)
            # Their standard inputs have ended as well.
            async with asyncio.timeout(5):
                for process in processes:
                    await process.wait()


def main() -> None:
    """Serve the driver."""
    _, number, loop, profiler, *vnls = sys.argv
    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        runner.run(_serve(int(number), profiler, vnls))


if __name__ == "__main__":
    main()
