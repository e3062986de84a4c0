"""Did a piece of code give back all that it took?

Source: proc(5): /proc/self/fd, /proc/PID/stat, /proc/PID/ns.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aioioth._spares import drop_all_spares

if TYPE_CHECKING:
    from collections.abc import Generator

# The kernel takes a moment to take away processes that were ended.
_GRACE_SECONDS = 2.0


@dataclass(frozen=True)
class _Belongings:
    """What this process holds, by kind; each thing as a readable line."""

    descriptor: Counter[str]
    process: Counter[str]
    namespace: Counter[str]
    file: Counter[str]
    task: Counter[str]

    def more_than(self, before: _Belongings) -> list[str]:
        """Return what is here and was not there before."""
        return [
            f"{kind} {thing}" + (f" ({count} times)" if count > 1 else "")
            for kind in self.__dataclass_fields__
            for thing, count in (getattr(self, kind) - getattr(before, kind)).items()
        ]


@contextmanager
def no_leaks() -> Generator[None]:
    """Fail if the block leaves anything behind that was not there before.

    Looked at are this process's descriptors, child processes and their children, the
    network namespaces that any of them is in, our VDE sockets in the temporary
    directory, and the running loop's tasks. What goes away by itself within two
    seconds is no leak.

    Raises:
        AssertionError: Something was left behind; the message lists it.
    """
    before = look()
    yield
    deadline = time.monotonic() + _GRACE_SECONDS
    while left := look().more_than(before):
        if time.monotonic() > deadline:
            raise AssertionError("left behind:\n  " + "\n  ".join(left))
        time.sleep(0.01)


def look() -> _Belongings:
    """Return what this process holds now, except for sockets that stacks keep ready."""
    drop_all_spares()
    processes = _descendants()
    return _Belongings(
        descriptor=Counter(_descriptors()),
        process=Counter(processes.values()),
        namespace=Counter(_namespaces([os.getpid(), *processes])),
        file=Counter(_files()),
        task=Counter(_tasks()),
    )


def _descriptors() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(f"{name} = {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:
            continue  # the directory's own
    return found


def _descendants() -> dict[int, str]:
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                name, _, rest = (entry / "stat").read_text().rpartition(")")
            except OSError:
                continue  # ended meanwhile
            state, parent = rest.split()[:2]
            parents[int(entry.name)] = int(parent)
            names[int(entry.name)] = f"{name})" + (" zombie" if state == "Z" else "")
    found: dict[int, str] = {}
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family} - set(
        found
    ):
        found |= {pid: names[pid] for pid in more}
        family = more
    return found


def _namespaces(pids: list[int]) -> set[str]:
    found = set()
    for pid in pids:
        try:
            found.add(os.readlink(f"/proc/{pid}/ns/net"))
        except OSError:
            continue  # ended meanwhile, or not ours to see
    return found


def _files() -> list[str]:
    ours = f"vde.{os.getpid():05}-"  # what a VDE client is called; others may run too
    entries = os.scandir(tempfile.gettempdir())
    return [entry.path for entry in entries if entry.name.startswith(ours)]


def _tasks() -> list[str]:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return []
    return [repr(task.get_coro()) for task in asyncio.all_tasks(loop)]
