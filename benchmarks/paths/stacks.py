"""aioioth's own paths: two stacks, in one program or in two."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import socket
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from typing_extensions import override

import aioioth
from aioioth.errors import ConfigurationError
from benchmarks.paths.path import Ends, Path
from benchmarks.paths.vde import CLIENT, SERVER, open_network
from benchmarks.running import Program, pipes, why_without

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from benchmarks.paths.vde import Network
    from benchmarks.running import Workplace

# Some stacks to close, or besides a profile to write.
_GRACE_SECONDS, _REPORT_SECONDS = 5.0, 60.0

__all__ = ["Host", "HostEnd", "Stacks", "why_no_scheme"]


class Host:
    """A program with stacks; see `benchmarks.host`.

    Args:
        place: For the log, and the load program.
        control: Where it is asked for things.
        program: The process; what it says are its answers.
    """

    def __init__(
        self, place: Workplace, control: socket.socket, program: Program
    ) -> None:
        self._place = place
        self._control = control
        self._program = program

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, place: Workplace, env: Mapping[str, str], *stacks: str
    ) -> AsyncIterator[Host]:
        """Run it; ``stacks`` are VNLs and addresses, in turn."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                number = theirs.fileno()
                program = await Program.start(
                    place,
                    [
                        *(sys.executable, "-m", "benchmarks.host"),
                        *(str(number), place.loop, place.profiler, *stacks),
                    ],
                    env,
                    [number],
                )
            try:
                await program.line()
                yield cls(place, ours, program)
            finally:
                ours.close()  # the host ends with it
                await program.close(
                    _REPORT_SECONDS if place.profiler else _GRACE_SECONDS
                )

    async def start(self, stack: int, *arguments: str) -> Program:
        """Start the load program in one of its stacks."""
        command = [*self._place.tools.load, *arguments]
        request = json.dumps({"stack": stack, "command": command}).encode()
        with pipes() as (theirs, ours), self._place.log.open("ab") as log:
            socket.send_fds(self._control, [request], [*theirs, log.fileno()])
            await self._program.line()
            return await Program(self._place, *ours.take()).ready()

    async def lateness(self, seconds: float) -> float:
        """Return how late its loop is in that time; see `LoopEnd`."""
        self._control.send(json.dumps({"lateness": seconds}).encode())
        return float(await self._program.line())


@dataclass(frozen=True)
class HostEnd:
    """One of a host's stacks."""

    host: Host
    stack: int

    async def load(self, *arguments: str) -> Program:
        """See `benchmarks.paths.path.End`."""
        return await self.host.start(self.stack, *arguments)

    async def lateness(self, seconds: float) -> float:
        """See `benchmarks.paths.path.LoopEnd`."""
        return await self.host.lateness(seconds)


@dataclass(frozen=True)
class Stacks(Path):
    """Two of our stacks.

    Attributes:
        together: Whether both are in one program.
        pumps: Whether their frames pass the loop.
        compiled: Whether it is about the compiled step.
        env: Added to the environment.
    """

    key: str
    title: str
    network: Network
    together: bool = False
    pumps: bool = True
    compiled: bool = False
    env: Mapping[str, str] = field(default_factory=dict)

    ours = True

    @override
    def why_not(self) -> str:
        if self.compiled and importlib.util.find_spec("aioioth_speedups") is None:
            return "aioioth-speedups is not installed: there is no compiled step"
        if self.network.switch and (why := why_without("vde_switch", "vde-switch")):
            return why
        return why_no_scheme(self.network.server)

    @override
    @contextlib.asynccontextmanager
    async def open(self, place: Workplace) -> AsyncIterator[Ends]:
        async with (
            open_network(place, self.network) as (server, client),
            contextlib.AsyncExitStack() as until_end,
        ):
            one = (server, f"{SERVER}/24")
            two = (client, f"{CLIENT}/24")
            groups = [[*one, *two]] if self.together else [one, two]
            hosts = [
                await until_end.enter_async_context(Host.open(place, self.env, *group))
                for group in groups
            ]
            ends = HostEnd(hosts[0], 0), HostEnd(hosts[-1], 1 if self.together else 0)
            pumps = ends[-1:] if self.pumps else ()
            yield Ends(*ends, SERVER, pumps)


def why_no_scheme(vnl: str) -> str:
    """Return why this aioioth does not know a VNL, if so."""
    try:
        aioioth.Stack(vnl.replace("DIR", "/tmp"))
    except (ConfigurationError, ImportError) as error:
        return str(error)
    return ""
