"""What asyncio's streams cost on a stack, beside plain asyncio on the host's ``lo``.

    python -m benchmarks.streams LOOP ROUNDS [VNL]

Client and server are on one event loop, as in a test or a small service. The places
take turns, in the same run, so that a busy machine is busy for all:

* host: plain asyncio, on ``lo`` of the namespace that the run is in. The peer.
* stack: the same program with ``stack.`` in front of its calls, on the stack's ``lo``.
* memory: two stacks on a switch inside the program, so each frame passes the loop.
* vde: two stacks on VNL, a real vde_switch; in pure Python, when the driver starts it.

Prints the values by place and measure, as JSON.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import socket
import statistics
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aioioth
from benchmarks.results import Spread, Unavailable
from benchmarks.running import (
    FailedError,
    running,
    speedups,
    vde_switch,
    why_without,
)
from benchmarks.stackprogram import loop_factory
from benchmarks.turns import in_turn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from benchmarks.results import Results
    from benchmarks.running import Workplace

__all__ = ["LOOPS", "PLACES", "measure_streams"]

LOOPS = ("asyncio", "uvloop")
PLACES = {
    "host": "plain asyncio",
    "stack": "within one stack",
    "memory": "two stacks, memory://",
    "vde": "two stacks, vde://, pure Python",
}

_PORT = 5000
_BLOCK = bytes(64 * 1024)
_CONNECTIONS, _ROUND_TRIPS, _SOCKETS = 200, 500, 200
_BULK_SECONDS = 0.2


async def measure_streams(
    place: Workplace, rounds: int, results: Results, tell: Callable[[str], None]
) -> None:
    """Measure in programs of their own, and put it into ``results``."""
    for loop in LOOPS:
        if loop != "asyncio" and importlib.util.find_spec(loop) is None:
            why = f"{loop} is not installed (pip install {loop})"
            results.left_out.append(Unavailable(f"streams on {loop}", why))
            continue
        tell(f"streams on {loop}")
        with place.part() as own:
            try:
                values = await _values(own, loop, rounds)
            except FailedError as error:
                why = f"it failed: {error}"
                results.left_out.append(Unavailable(f"streams on {loop}", why))
                continue
        for where, measures in values.items():
            for measure, several in measures.items():
                key = f"streams-{loop}-{where}", measure
                results.figures[key] = Spread(tuple(several))


async def _values(
    place: Workplace, loop: str, rounds: int
) -> dict[str, dict[str, list[float]]]:
    command = [sys.executable, "-m", "benchmarks.streams", loop, str(rounds)]
    async with AsyncExitStack() as until_end:
        if not why_without("vde_switch", "vde-switch"):
            vnl, _ = await until_end.enter_async_context(vde_switch(place))
            command.append(vnl)
        program = await until_end.enter_async_context(
            running(place, command, speedups(used=False))
        )
        values: dict[str, dict[str, list[float]]]
        values = json.loads(await program.line(60))
        return values


@dataclass(frozen=True)
class _Place:
    """Where streams run: the calls, and the server's address."""

    name: str
    open_connection: Callable[..., Awaitable[Any]]
    start_server: Callable[..., Awaitable[Any]]
    host: str
    socket: Callable[[], socket.socket] = socket.socket


async def _connections(place: _Place) -> float:
    """Return connections per second, each opened, answered and closed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await place.start_server(serve, place.host, _PORT):
        start = time.perf_counter()
        for _ in range(_CONNECTIONS):
            reader, writer = await place.open_connection(place.host, _PORT)
            await reader.read()
            writer.close()
            await writer.wait_closed()
        return _CONNECTIONS / (time.perf_counter() - start)


async def _round_trip(place: _Place) -> float:
    """Return the median time of an echo of 64 bytes, in microseconds."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1024):
            writer.write(data)
        writer.close()

    async with await place.start_server(serve, place.host, _PORT):
        reader, writer = await place.open_connection(place.host, _PORT)
        writer.get_extra_info("socket").setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )
        times = []
        for _ in range(_ROUND_TRIPS):
            start = time.perf_counter()
            writer.write(_BLOCK[:64])
            await reader.readexactly(64)
            times.append(time.perf_counter() - start)
        writer.close()
        await writer.wait_closed()
        return statistics.median(times) * 1e6


async def _bulk(place: _Place) -> float:
    """Return the throughput in Gbit/s."""
    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        count = 0
        while data := await reader.read(len(_BLOCK)):
            count += len(data)
        writer.close()
        done.set_result(count)

    async with await place.start_server(serve, place.host, _PORT):
        _, writer = await place.open_connection(place.host, _PORT)
        start = time.perf_counter()
        while time.perf_counter() < start + _BULK_SECONDS:
            writer.write(_BLOCK)
            await writer.drain()
        writer.write_eof()
        count = await done
        result = 8e-9 * count / (time.perf_counter() - start)
        writer.close()
        await writer.wait_closed()
        return result


async def _socket(place: _Place) -> float:
    """Return what it costs to make a socket, in microseconds."""
    start = time.perf_counter()
    made = [place.socket() for _ in range(_SOCKETS)]
    end = time.perf_counter()
    for sock in made:
        sock.close()
    return (end - start) / _SOCKETS * 1e6


_TASKS = {
    "connections": _connections,
    "rtt": _round_trip,
    "tcp": _bulk,
    "socket": _socket,
}


async def _places(until_end: AsyncExitStack, vde: str) -> list[_Place]:
    async def stack(*vnls: str, ip: str = "") -> aioioth.Stack:
        made = aioioth.Stack(*vnls, ip=ip or ())
        return await until_end.enter_async_context(made)

    async def pair(name: str, vnl: str) -> _Place:
        one = await stack(vnl, ip="10.0.0.1/24")
        two = await stack(vnl, ip="10.0.0.2/24")
        return _Place(
            name, two.open_connection, one.start_server, "10.0.0.1", two.socket
        )

    alone = await stack()
    host = "127.0.0.1"
    places = [
        _Place("host", asyncio.open_connection, asyncio.start_server, host),
        _Place("stack", alone.open_connection, alone.start_server, host, alone.socket),
        await pair("memory", "memory://bench"),
    ]
    return [*places, await pair("vde", vde)] if vde else places


async def _compare(rounds: int, vde: str) -> dict[str, dict[str, list[float]]]:
    async with AsyncExitStack() as until_end:
        places = await _places(until_end, vde)
        values: dict[str, dict[str, list[float]]] = {}
        for number in range(rounds + 1):
            for title, task in _TASKS.items():
                for place in in_turn(places, number):
                    value = await task(place)
                    if number:  # the first round warms up
                        found = values.setdefault(place.name, {})
                        found.setdefault(title, []).append(value)
        return values


def main() -> None:
    """Measure on one loop."""
    _, loop, rounds, *more = sys.argv
    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        values = runner.run(_compare(int(rounds), more[0] if more else ""))
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
