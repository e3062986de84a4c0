"""Networks of the kernel, made by hand with iproute2: what can be had at most."""

from __future__ import annotations

import contextlib
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

from benchmarks.paths.path import Ends, Path
from benchmarks.running import Program, running, why_without

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from benchmarks.running import Tools, Workplace

__all__ = [
    "PORT",
    "ByHand",
    "CommandEnd",
    "Loopback",
    "enter",
    "namespaces",
    "two_ends",
    "unshare",
    "veth",
    "veth_and_bridge",
    "why_no_namespaces",
]

PORT = "5000"


@dataclass(frozen=True)
class CommandEnd:
    """An end that is reached by words in front of a command.

    Attributes:
        place: For the log.
        command: The words, with the load program's own at their end.
    """

    place: Workplace
    command: tuple[str, ...]

    async def load(self, *arguments: str) -> Program:
        """See `benchmarks.paths.path.End`."""
        return await Program.start(self.place, [*self.command, *arguments])


def two_ends(
    place: Workplace, server: Sequence[str], client: Sequence[str], address: str
) -> Ends:
    """Return ends that are reached by words in front of a command.

    Args:
        place: For the log.
        server: The words of one end, with the load program's own at their end.
        client: Those of the other.
        address: The server's.
    """
    return Ends(
        CommandEnd(place, tuple(server)), CommandEnd(place, tuple(client)), address
    )


def unshare() -> list[str]:
    """Return the command that gives a shell namespaces of its own, root or not."""
    rootless = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *rootless, "--net", "--mount"]


@contextlib.asynccontextmanager
async def namespaces(place: Workplace, script: str) -> AsyncIterator[list[str]]:
    """Run a script where ``ip netns`` works, root or not, and yield how to get there.

    All that it makes is gone at the end of the block: the kernel ends the namespaces
    with the shell that is the only one to know of them.
    """
    whole = f"""
        mount -t tmpfs tmpfs /run
        ip link set lo up
        {script}
        echo ready
        read -r _ || true
    """
    async with running(place, [*unshare(), "sh", "-ec", whole]) as shell:
        await shell.line()
        yield [*enter(shell.pid), "--mount"]


def enter(pid: int) -> list[str]:
    """Return the words that let a command run where a shell of `unshare` is."""
    # We are root there already, and may not become it again.
    user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
    return ["nsenter", f"--target={pid}", *user, "--net"]


def inside(there: list[str], name: str) -> list[str]:
    """Return how to get into a namespace that ``ip netns add`` made there."""
    return [*there, "nsenter", f"--net=/run/netns/{name}"]


@dataclass(frozen=True)
class ByHand(Path):
    """Two namespaces and what a script of iproute2 puts between them."""

    key: str
    title: str
    script: str

    @override
    def why_not(self, tools: Tools) -> str:
        return why_no_namespaces()

    @override
    @contextlib.asynccontextmanager
    async def open(self, place: Workplace) -> AsyncIterator[Ends]:
        async with namespaces(place, self.script) as there:
            one, two = (
                [*inside(there, name), *place.tools.load] for name in ("one", "two")
            )
            yield two_ends(place, one, two, "10.0.0.1")


def why_no_namespaces() -> str:
    """Return why nothing can be made by hand here, if so."""
    if why := why_without("ip", "iproute2") or why_without("nsenter", "util-linux"):
        return why
    tried = subprocess.run(
        [*unshare(), "mount", "-t", "tmpfs", "tmpfs", "/run"],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode == 0:
        return ""
    return f"namespaces cannot be made here: {tried.stderr.strip()}"


class Loopback(Path):
    """Both ends on ``lo`` of one namespace."""

    key, title = "loopback", "loopback"

    @override
    def why_not(self, tools: Tools) -> str:
        return why_no_namespaces()

    @override
    @contextlib.asynccontextmanager
    async def open(self, place: Workplace) -> AsyncIterator[Ends]:
        async with namespaces(place, "") as there:
            end = CommandEnd(place, (*there, *place.tools.load))
            yield Ends(end, end, "127.0.0.1")


veth = ByHand(
    "veth",
    "veth, by hand",
    """
        ip netns add one
        ip netns add two
        ip link add veth0 netns one type veth peer name veth0 netns two
        ip -n one address add 10.0.0.1/24 dev veth0
        ip -n two address add 10.0.0.2/24 dev veth0
        ip -n one link set veth0 up
        ip -n two link set veth0 up
    """,
)

veth_and_bridge = ByHand(
    "hand-bridge",
    "veth and bridge, by hand",
    """
        ip netns add one
        ip netns add two
        ip link add bridge0 type bridge
        ip link set bridge0 up
        ip link add one type veth peer name veth0 netns one
        ip link add two type veth peer name veth0 netns two
        ip link set one master bridge0 up
        ip link set two master bridge0 up
        ip -n one address add 10.0.0.1/24 dev veth0
        ip -n two address add 10.0.0.2/24 dev veth0
        ip -n one link set veth0 up
        ip -n two link set veth0 up
    """,
)
