"""What asyncio's streams cost on a stack, beside plain asyncio on the host's lo.

    python benchmarks/streams.py

Client and server are on one event loop, as in a test or a small service. The places
take turns, in the same run, so that a busy machine is busy for all:

* host: plain asyncio, on ``lo`` of the namespace that the run is in. The peer.
* lo in a stack: the same program with ``stack.`` in front of its calls.
* memory://: two stacks on a switch inside the program, so each frame passes the loop.
* vde://: two stacks on a real vde_switch, if there is one.

Ratios are medians over the rounds, each of a place's result to the host's in the same
round; above 1 is better for connections and bulk, below 1 for round trips. Takes about
a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aioioth

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

_ISOLATE = Path(__file__).resolve().parents[1] / "tests" / "isolate.py"

_PORT = 5000
_BLOCK = bytes(64 * 1024)
_SOCKETS = 300


@dataclass(frozen=True)
class Place:
    """Where streams run: the two calls, and the server's address."""

    name: str
    open_connection: Callable[..., Awaitable[Any]]
    start_server: Callable[..., Awaitable[Any]]
    host: str


async def _connections(place: Place, count: int) -> float:
    """Return connections per second, each opened, answered and closed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await place.start_server(serve, place.host, _PORT):
        start = time.perf_counter()
        for _ in range(count):
            reader, writer = await place.open_connection(place.host, _PORT)
            await reader.read()
            writer.close()
            await writer.wait_closed()
        return count / (time.perf_counter() - start)


async def _round_trip(place: Place, count: int) -> float:
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
        for _ in range(count):
            start = time.perf_counter()
            writer.write(_BLOCK[:64])
            await reader.readexactly(64)
            times.append(time.perf_counter() - start)
        writer.close()
        await writer.wait_closed()
        return statistics.median(times) * 1e6


async def _bulk(place: Place, seconds: float) -> float:
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
        while time.perf_counter() < start + seconds:
            writer.write(_BLOCK)
            await writer.drain()
        writer.write_eof()
        count = await done
        result = 8e-9 * count / (time.perf_counter() - start)
        writer.close()
        await writer.wait_closed()
        return result


async def _places(until_end: AsyncExitStack, switch: Path | None) -> list[Place]:
    async def stack(*vnls: str, ip: str = "") -> aioioth.Stack:
        made = aioioth.Stack(*vnls, ip=ip or ())
        return await until_end.enter_async_context(made)

    async def pair(name: str, vnl: str) -> Place:
        one, two = (
            await stack(vnl, ip="10.0.0.1/24"),
            await stack(vnl, ip="10.0.0.2/24"),
        )
        return Place(name, two.open_connection, one.start_server, "10.0.0.1")

    alone = await stack()
    places = [
        Place("host", asyncio.open_connection, asyncio.start_server, "127.0.0.1"),
        Place("lo in a stack", alone.open_connection, alone.start_server, "127.0.0.1"),
        await pair("memory://", "memory://bench"),
    ]
    if switch is not None:
        places.append(await pair("vde://", f"vde://{switch}"))
    return places


async def _compare(loop: str, rounds: int, switch: Path | None) -> None:
    tasks: dict[str, Callable[[Place], Awaitable[float]]] = {
        "connections/s": lambda place: _connections(place, 300),
        "round trip, us": lambda place: _round_trip(place, 1000),
        "bulk, Gbit/s": lambda place: _bulk(place, 0.3),
    }
    async with AsyncExitStack() as until_end:
        places = await _places(until_end, switch)
        results: dict[tuple[str, str], list[float]] = {}
        for number in range(rounds + 1):
            for title, task in tasks.items():
                # Whoever comes first finds a cold machine, so they take turns there.
                turn = number % len(places)
                for place in places[turn:] + places[:turn]:
                    result = await task(place)
                    if number:  # the first round warms up
                        results.setdefault((title, place.name), []).append(result)
        print(f"\n{loop:16}" + "".join(f"{title:>25}" for title in tasks))
        for place in places:
            cells = ""
            for title in tasks:
                ours, peer = results[title, place.name], results[title, "host"]
                ratio = statistics.median(map(lambda a, b: a / b, ours, peer))
                cells += f"{statistics.median(ours):17.2f} ({ratio:4.2f})"
            print(f"{place.name:16}{cells}")


async def _sockets(rounds: int) -> None:
    async with aioioth.Stack() as stack:

        def cost(make: Callable[[], socket.socket]) -> float:
            start = time.perf_counter()
            made = [make() for _ in range(_SOCKETS)]
            end = time.perf_counter()
            for sock in made:
                sock.close()
            return (end - start) / _SOCKETS * 1e6

        plain, ours = [], []
        for _ in range(3 * rounds):
            plain.append(cost(socket.socket))
            ours.append(cost(stack.socket))
        more = statistics.median(map(lambda a, b: a - b, ours, plain))
        print(
            f"\na socket: plain {statistics.median(plain):.1f} us, in a stack "
            f"{statistics.median(ours):.1f} us, {more:.1f} us more (goal: 40)"
        )


@contextmanager
def _vde_switch(directory: str) -> Iterator[Path | None]:
    if shutil.which("vde_switch") is None:
        print("vde_switch is missing (apt-get install vde-switch): left out")
        yield None
        return
    path, pid_file = Path(directory, "switch"), Path(directory, "pid")
    names = ["-s", str(path), "-p", str(pid_file)]
    subprocess.run(["vde_switch", "-d", *names], check=True)
    end = time.monotonic() + 10
    while not (pid_file.exists() and pid_file.read_text().strip()):
        if time.monotonic() > end:
            sys.exit("vde_switch did not start")
        time.sleep(0.01)
    try:
        yield path
    finally:
        os.kill(int(pid_file.read_text()), signal.SIGTERM)


def main() -> None:
    """Measure on both loops."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    if os.environ.get("AIOIOTH_ISOLATED") is None:
        # The host's lo is that of an empty network namespace.
        os.environ["AIOIOTH_ISOLATED"] = "1"
        os.execv(
            sys.executable, [sys.executable, str(_ISOLATE), sys.executable, *sys.argv]
        )
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]]
    loops = {"asyncio": asyncio.new_event_loop}
    try:
        import uvloop
    except ModuleNotFoundError:
        print("uvloop is missing (pip install uvloop): left out")
    else:
        loops["uvloop"] = uvloop.new_event_loop
    with tempfile.TemporaryDirectory() as directory, _vde_switch(directory) as switch:
        for name, factory in loops.items():
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(_compare(name, args.rounds, switch))
        asyncio.run(_sockets(args.rounds))


if __name__ == "__main__":
    main()
