"""What configuring a stack costs, beside plain pyroute2 and iproute2.

    python -m benchmarks.netlink ROUNDS

All of it on plain asyncio, since pyroute2 has no endpoint on uvloop. Who configures
takes turns, in the same stacks and the same run:

* aioioth: the stack's own methods, one call for each thing.
* together: the same, all of a measure (of a stack) in as few calls as it takes.
* pyroute2: its `AsyncIPRoute`, on a socket that was opened in the stack.
* ip: iproute2, one process for each command, started by a shell in the stack.
* batch: iproute2, all commands of a measure (of a stack) in one ``ip -batch``.

The measures: one address added to one stack; a dump of 1,000 routes; an address, ``up``
and a route in each of 100 stacks, at the same time. Prints the values by who and
measure, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import resource
import shutil
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from typing_extensions import override

import aioioth
from aioioth.iproute import Address, Route
from benchmarks.results import Spread, Unavailable
from benchmarks.running import FailedError, running, why_without
from benchmarks.turns import in_turn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.results import Results
    from benchmarks.running import Workplace

__all__ = ["MEASURES", "WHO", "measure_netlink"]

WHO = {
    "aioioth": "**the stack's own methods**",
    "together": "**the same, many things in one call**",
    "pyroute2": "pyroute2, on a socket of the stack",
    "ip": "`ip`, a process for each command",
    "batch": "`ip -batch`, a process for all",
}
MEASURES = ("call", "dump", "stacks")

# The whole of it takes some seconds; a busy machine more.
_PATIENCE_SECONDS = 120

# They differ from the one before only in how much they do at once.
_ONE_BY_ONE = {"together", "batch"}

_CALLS, _ROUTES, _STACKS = 100, 1000, 100
_DEV, _ROUTER = "vde0", "10.0.0.254"


async def measure_netlink(
    place: Workplace, rounds: int, results: Results, tell: Callable[[str], None]
) -> None:
    """Measure in a program of its own, and put it into ``results``."""
    tell("netlink")
    if why := why_without("ip", "iproute2"):
        results.left_out.append(Unavailable("netlink, beside ip", why))
    command = [sys.executable, "-m", "benchmarks.netlink", str(rounds)]
    with place.part() as own:
        try:
            async with running(own, command) as program:
                values = json.loads(await program.line(_PATIENCE_SECONDS))
        except FailedError as error:
            results.left_out.append(Unavailable("netlink", f"it failed: {error}"))
            return
    for who, measures in values.items():
        for measure, several in measures.items():
            results.figures[f"netlink-{who}", measure] = Spread(tuple(several))


class _Contender(ABC):
    """Somebody who configures stacks."""

    @abstractmethod
    async def add_addresses(self, addresses: Sequence[str]) -> None:
        """Add addresses to the first stack, one after the other."""

    @abstractmethod
    async def dump(self) -> None:
        """Read the IPv4 routes of the first stack's main table."""

    @abstractmethod
    async def configure(self, number: int) -> None:
        """Give a stack its address, set its interface up, and make a route."""


class _Facade(_Contender):
    def __init__(self, stacks: Sequence[aioioth.Stack]) -> None:
        self._stacks = stacks

    @override
    async def add_addresses(self, addresses: Sequence[str]) -> None:
        for address in addresses:
            await self._stacks[0].add_address(f"{address}/32", dev=_DEV)

    @override
    async def dump(self) -> None:
        routes = await self._stacks[0].routes(family=socket.AF_INET)
        assert len(routes) >= _ROUTES

    @override
    async def configure(self, number: int) -> None:
        stack = self._stacks[number]
        await stack.add_address("10.0.0.1/24", dev=_DEV)
        await stack.set_link(_DEV, up=True)
        await stack.add_route("default", via=_ROUTER)


class _Together(_Facade):
    @override
    async def add_addresses(self, addresses: Sequence[str]) -> None:
        await self._stacks[0].add(*(Address(f"{each}/32", _DEV) for each in addresses))

    @override
    async def configure(self, number: int) -> None:
        stack = self._stacks[number]
        await stack.set_link(_DEV, up=True)
        await stack.add(Address("10.0.0.1/24", _DEV), Route("default", via=_ROUTER))


class _Pyroute2(_Contender):
    def __init__(self, stacks: Sequence[aioioth.Stack]) -> None:
        from pyroute2 import AsyncIPRoute

        self._indexes = [stack.interfaces[_DEV].index for stack in stacks]
        self._clients: list[Any] = []
        for stack in stacks:
            sock = stack.socket(socket.AF_NETLINK, socket.SOCK_DGRAM)
            # It makes its own large, but not one that is handed in.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            self._clients.append(AsyncIPRoute(use_socket=sock))

    @override
    async def add_addresses(self, addresses: Sequence[str]) -> None:
        for address in addresses:
            await self._clients[0].addr(
                "add", index=self._indexes[0], address=address, prefixlen=32
            )

    @override
    async def dump(self) -> None:
        found = await self._clients[0].get_routes(family=socket.AF_INET, table=254)
        assert len([route async for route in found]) >= _ROUTES

    @override
    async def configure(self, number: int) -> None:
        client, index = self._clients[number], self._indexes[number]
        await client.addr("add", index=index, address="10.0.0.1", prefixlen=24)
        await client.link("set", index=index, state="up")
        await client.route("add", dst="default", gateway=_ROUTER)

    def close(self) -> None:
        """Let all sockets go."""
        for client in self._clients:
            client.close()


class _Shell:
    """A shell in a stack, that starts programs as any other does."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._to, self._from = process, process.stdin, process.stdout

    @classmethod
    async def start(cls, stack: aioioth.Stack) -> _Shell:
        """Start one."""
        pipe = subprocess.PIPE
        return cls(await stack.create_subprocess_exec("sh", stdin=pipe, stdout=pipe))

    async def run(self, script: str) -> None:
        """Run a script, and wait for its end."""
        self._to.write(f"set -e\n{script}\necho done\n".encode())
        if await self._from.readline() != b"done\n":
            msg = "a command of iproute2's failed"
            raise FailedError(msg)

    async def close(self) -> None:
        """End it."""
        self._to.close()
        await self._process.wait()


class _Iproute2(_Contender):
    def __init__(self, shells: Sequence[_Shell], *, batch: bool) -> None:
        self._shells = shells
        self._batch = batch

    @override
    async def add_addresses(self, addresses: Sequence[str]) -> None:
        await self._run(0, [f"address add {each}/32 dev {_DEV}" for each in addresses])

    @override
    async def dump(self) -> None:
        await self._shells[0].run("ip route show > /dev/null")

    @override
    async def configure(self, number: int) -> None:
        commands = [
            f"address add 10.0.0.1/24 dev {_DEV}",
            f"link set {_DEV} up",
            f"route add default via {_ROUTER}",
        ]
        await self._run(number, commands)

    async def _run(self, number: int, commands: Sequence[str]) -> None:
        if self._batch:
            script = "\n".join(["ip -batch - <<END", *commands, "END"])
        else:
            script = "\n".join(f"ip {command}" for command in commands)
        await self._shells[number].run(script)


async def _call(who: _Contender, stacks: Sequence[aioioth.Stack]) -> float:
    """Return microseconds for each of so many addresses."""
    addresses = [f"10.9.0.{number}" for number in range(1, _CALLS + 1)]
    start = time.perf_counter()
    await who.add_addresses(addresses)
    seconds = time.perf_counter() - start
    for address in addresses:
        await stacks[0].del_address(f"{address}/32", dev=_DEV)
    return seconds / _CALLS * 1e6


async def _dump(who: _Contender, _: Sequence[aioioth.Stack]) -> float:
    """Return the milliseconds of a dump."""
    start = time.perf_counter()
    await who.dump()
    return (time.perf_counter() - start) * 1e3


async def _configure(who: _Contender, stacks: Sequence[aioioth.Stack]) -> float:
    """Return the milliseconds for so many stacks, the first one left alone."""
    others = stacks[1:]
    for stack in others:
        await stack.set_link(_DEV, up=False)
    start = time.perf_counter()
    await asyncio.gather(*(who.configure(n) for n in range(1, len(stacks))))
    seconds = time.perf_counter() - start
    for stack in others:
        await stack.del_address("10.0.0.1/24", dev=_DEV)
    return seconds * 1e3


_TASKS = {"call": _call, "dump": _dump, "stacks": _configure}


async def _contenders(
    stacks: Sequence[aioioth.Stack], until_end: AsyncExitStack
) -> dict[str, _Contender]:
    pyroute2 = _Pyroute2(stacks)
    until_end.callback(pyroute2.close)
    found: dict[str, _Contender] = {
        "aioioth": _Facade(stacks),
        "together": _Together(stacks),
        "pyroute2": pyroute2,
    }
    if shutil.which("ip") is not None:
        shells = []
        for stack in stacks:
            shells.append(await _Shell.start(stack))
            until_end.push_async_callback(shells[-1].close)
        found["ip"] = _Iproute2(shells, batch=False)
        found["batch"] = _Iproute2(shells, batch=True)
    return found


async def _compare(rounds: int) -> dict[str, dict[str, list[float]]]:
    values: dict[str, dict[str, list[float]]] = {}
    async with AsyncExitStack() as until_end:
        stacks = await until_end.enter_async_context(
            aioioth.open_stacks(_STACKS + 1, "null://")
        )
        await stacks[0].add_address("10.0.0.1/24", dev=_DEV)
        for number in range(_ROUTES):
            network = f"10.{1 + number // 250}.{number % 250}.0/24"
            await stacks[0].add_route(network, via=_ROUTER)
        contenders = await _contenders(stacks, until_end)
        for number in range(rounds + 1):
            for title, task in _TASKS.items():
                for who in in_turn(list(contenders), number):
                    if title == "dump" and who in _ONE_BY_ONE:
                        continue  # it is one command
                    value = await task(contenders[who], stacks)
                    if number:  # the first round warms up
                        found = values.setdefault(who, {})
                        found.setdefault(title, []).append(value)
    return values


def main() -> None:
    """Measure."""
    _, rounds = sys.argv
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    values = asyncio.run(_compare(int(rounds)))
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
