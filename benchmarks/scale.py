"""A thousand stacks: aioioth's, a shell script's and libvdestack's.

Each makes so many stacks on one network, every one with an address, in turn: ten, then
a hundred, then a thousand. The script is what one would write with iproute2: for each
stack ``ip netns add``, a veth pair to a bridge, an address, and up.
"""

from __future__ import annotations

import asyncio
import math
import os
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.paths.byhand import unshare, why_no_namespaces
from benchmarks.paths.stacks import BRIDGE, why_no_scheme
from benchmarks.results import Growth, Unavailable
from benchmarks.running import (
    FailedError,
    running,
    vde_switch,
    why_no_tap,
    why_without,
)
from benchmarks.turns import in_turn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from benchmarks.results import Results
    from benchmarks.running import Program, Workplace

__all__ = ["MAKERS", "MOST_OF_LIBVDESTACK", "measure_scale", "memory_of", "settled"]

# A thousand stacks of libvdestack take a minute to end, and do not reach each other
# while they are there; a hundred tell what one needs.
MOST_OF_LIBVDESTACK = 100

# A small number is quick, and therefore repeated more often. Twice is the least, for
# each to come first once.
_FEW, _TIMES_FEW, _TIMES_MANY = 100, 3, 2

_SETTLING_SECONDS = 4.0
_IDLE_SHARE = 0.9

# A thousand namespaces by a script, on a slow machine.
_LONG_SECONDS = 120.0

_SCRIPT = """
    ulimit -n "$(ulimit -H -n)"
    mount -t tmpfs tmpfs /run
    ip link add bridge0 type bridge
    ip link set bridge0 up
    echo start
    read -r _
    i=0
    while [ "$i" -lt "$1" ]; do
        ip netns add "s$i"
        ip link add "v$i" type veth peer name veth0 netns "s$i"
        ip link set "v$i" master bridge0 up
        ip -n "s$i" address add "10.1.$((i / 250)).$((i % 250 + 1))/16" dev veth0
        ip -n "s$i" link set veth0 up
        i=$((i + 1))
    done
    echo made
    read -r _ || true
"""


async def measure_scale(
    place: Workplace,
    counts: Sequence[int],
    results: Results,
    tell: Callable[[str], None],
    *,
    most_of_libvdestack: int,
) -> None:
    """Measure, and put what comes of it into ``results``."""
    makers = dict(MAKERS)
    for name in MAKERS:
        if why := _why_not(name, place):
            results.left_out.append(Unavailable(f"many stacks: {name}", why))
            del makers[name]
    for count in counts:
        fitting = dict(makers)
        if count > most_of_libvdestack and "libvdestack" in fitting:
            del fitting["libvdestack"]
            why = (
                f"not measured with more than {most_of_libvdestack}: a thousand of its "
                f"stacks take a minute to end, and do not reach each other while they "
                f"are there (--libvdestack-most {count} measures them)"
            )
            results.left_out.append(Unavailable(f"{count} stacks: libvdestack", why))
        found: dict[str, list[Growth]] = {}
        for number in range(_TIMES_FEW if count <= _FEW else _TIMES_MANY):
            for name in in_turn(list(fitting), number):
                tell(f"{count} stacks: {name}")
                growth = await _made(name, place, count, results)
                found.setdefault(name, []).extend(growth)
        for name in fitting:
            if several := found.get(name):
                results.growth.setdefault(name, []).append(_median(several))


async def _made(
    name: str, place: Workplace, count: int, results: Results
) -> list[Growth]:
    """Return what it took, if it succeeded, when the machine is idle again."""
    try:
        with place.part() as own:
            return [await MAKERS[name](own, count)]
    except FailedError as error:
        why = f"it failed: {error}"
        results.left_out.append(Unavailable(f"{count} stacks: {name}", why))
        return []
    finally:
        await settled()


def _why_not(name: str, place: Workplace) -> str:
    if name == "bridge":
        return why_no_scheme(BRIDGE)
    if name == "script":
        return why_no_namespaces()
    missing = why_without("vde_switch", "vde-switch") or why_no_tap()
    return place.tools.why_no_vdestack or missing


def _median(several: list[Growth]) -> Growth:
    def middle(name: str) -> float:
        values = [getattr(each, name) for each in several]
        known = [value for value in values if not math.isnan(value)]
        return statistics.median(known) if known else math.nan

    return Growth(
        several[0].count,
        middle("seconds"),
        memory=middle("memory"),
        system=middle("system"),
        connect=middle("connect"),
        closing=middle("closing"),
        descriptors=middle("descriptors"),
    )


# Who makes them.


async def _ours(place: Workplace, count: int) -> Growth:
    command = [sys.executable, "-m", "benchmarks.many", place.loop, BRIDGE, str(count)]
    async with running(place, command) as program:
        await program.line()  # start
        before, system = memory_of(program.pid, children=True), _system_memory()
        program.say("go")
        seconds = await _number(program)
        memory = memory_of(program.pid, children=True) - before
        growth = _system_memory() - system
        program.say("go")
        connect = await _number(program)
        descriptors = await _number(program)
        closing = await _number(program)
    return Growth(count, seconds, memory, growth, connect, closing, descriptors)


async def _script(place: Workplace, count: int) -> Growth:
    async with running(
        place, [*unshare(), "sh", "-ec", _SCRIPT, "sh", str(count)]
    ) as shell:
        await shell.line()
        system = _system_memory()
        start = time.perf_counter()
        shell.say("go")
        await shell.line(_LONG_SECONDS)
        seconds = time.perf_counter() - start
        return Growth(count, seconds, system=_system_memory() - system)


async def _libvdestack(place: Workplace, count: int) -> Growth:
    _raise_limit()
    async with vde_switch(place, ports=count + 8) as (vnl, switch):
        command = [place.tools.stacks, vnl, "10.1.0.1/16", str(count)]
        async with running(place, command) as program:
            await program.line()  # start

            def memory() -> float:
                # Its helper processes share its memory; the switch has some for each.
                return memory_of(program.pid) + memory_of(switch)

            before, system = memory(), _system_memory()
            files = _descriptors(program.pid)
            program.say("go")
            seconds = await _number(program)
            after, growth = memory(), _system_memory() - system
            files = _descriptors(program.pid) - files
            program.say("go")
            connect = await _number(program)
    return Growth(
        count, seconds, after - before, growth, connect, descriptors=float(files)
    )


MAKERS: dict[str, Callable[[Workplace, int], Awaitable[Growth]]] = {
    "bridge": _ours,
    "script": _script,
    "libvdestack": _libvdestack,
}


async def _number(program: Program) -> float:
    """Return what follows the name in its next line."""
    _, _, value = (await program.line(_LONG_SECONDS)).partition(" ")
    return math.inf if value == "never" else float(value)


def _raise_limit() -> None:
    """Let what we start open as many files as we may let it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


# What it takes.


def memory_of(pid: int, *, children: bool = False) -> float:
    """Return a process's memory in KiB, its share where it shares it."""
    wanted = [pid, *(_descendants(pid) if children else ())]
    return float(sum(_pss(each) for each in wanted))


def _pss(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:  # it has ended, or has privileges that we have not
        return _rss(pid)
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == "Pss":
            return int(value.split()[0])
    return 0


def _rss(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def _descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                stat = Path(f"/proc/{name}/stat").read_text()
            except OSError:
                continue
            # The program's name, in parentheses, may hold anything.
            parent = int(stat.rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(name))
    found: list[int] = []
    ask = [pid]
    while ask:
        more = parents.get(ask.pop(), [])
        found += more
        ask += more
    return found


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _system_memory() -> float:
    """Return what the whole machine uses, in KiB."""
    fields = dict(
        line.split(":") for line in Path("/proc/meminfo").read_text().splitlines()
    )
    total, available = (int(fields[name].split()[0]) for name in _MEMORY)
    return float(total - available)


_MEMORY = ("MemTotal", "MemAvailable")


async def settled() -> float:
    """Wait until the machine is idle, not for ever; return its last idle share.

    Namespaces go in the background, and what is measured meanwhile would suffer.
    """
    end = time.monotonic() + _SETTLING_SECONDS
    before = _processor_times()
    while True:
        await asyncio.sleep(0.25)
        now = _processor_times()
        idle, total = (b - a for a, b in zip(before, now, strict=True))
        share = idle / total if total else 1.0
        if share >= _IDLE_SHARE or time.monotonic() > end:
            return share
        before = now


def _processor_times() -> tuple[int, int]:
    """Return how long the processors were idle, and all together, in ticks."""
    line = Path("/proc/stat").read_text().partition("\n")[0]
    ticks = [int(word) for word in line.split()[1:]]
    return ticks[3] + ticks[4], sum(ticks[:8])
