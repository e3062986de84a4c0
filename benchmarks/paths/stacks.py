"""aioioth's own paths: two stacks, in one program or in two."""

from __future__ import annotations

import contextlib
import importlib
import json
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

import aioioth
from aioioth.errors import ConfigurationError
from benchmarks.paths.path import Ends, Path
from benchmarks.paths.vde import CLIENT, SERVER, open_network
from benchmarks.running import (
    PATIENCE_SECONDS,
    FailedError,
    Program,
    pipes,
    speedups,
    why_without,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks.paths.vde import Network
    from benchmarks.running import Tools, Workplace

__all__ = ["BRIDGE", "StackEnd", "StackProgram", "Stacks", "why_no_scheme"]

BRIDGE = "bridge://bench[private]"

# Some stacks to close, or besides a profile to write.
_GRACE_SECONDS, _REPORT_SECONDS = 5.0, 60.0


class StackProgram:
    """A program with stacks; see `benchmarks.stackprogram`.

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
        cls, place: Workplace, *stacks: str, compiled: bool
    ) -> AsyncIterator[StackProgram]:
        """Run it; ``stacks`` are VNLs and addresses, in turn."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                number = theirs.fileno()
                program = await Program.start(
                    place,
                    [
                        *(sys.executable, "-m", "benchmarks.stackprogram"),
                        *(str(number), place.loop, place.profiler, *stacks),
                    ],
                    speedups(used=compiled),
                    [number],
                )
            try:
                await program.line()
                yield cls(place, ours, program)
            finally:
                ours.close()  # the program ends with it
                await program.close(
                    _REPORT_SECONDS if place.profiler else _GRACE_SECONDS
                )

    async def start(self, stack: int, *arguments: str) -> Program:
        """Start the load program in one of its stacks.

        Raises:
            FailedError: It did not.
            OSError: The program with the stacks has ended.
        """
        command = [*self._place.tools.load, *arguments]
        request = json.dumps({"stack": stack, "command": command}).encode()
        with pipes() as (theirs, ours), self._place.log.open("ab") as log:
            socket.send_fds(self._control, [request], [*theirs, log.fileno()])
            if (answer := await self._program.line()) != "started":
                msg = f"instead of starting a program it said {answer!r}"
                raise FailedError(msg)
            return await Program(self._place, *ours.take()).ready()

    async def lateness(self, seconds: float) -> float:
        """Return how late its loop is in that time; see `LoopEnd`.

        Raises:
            FailedError: It did not say so.
            OSError: The program has ended.
        """
        self._control.send(json.dumps({"lateness": seconds}).encode())
        return float(await self._program.line(seconds + PATIENCE_SECONDS))


@dataclass(frozen=True)
class StackEnd:
    """One of the stacks of a program."""

    program: StackProgram
    stack: int

    async def load(self, *arguments: str) -> Program:
        """See `benchmarks.paths.path.End`."""
        return await self.program.start(self.stack, *arguments)

    async def lateness(self, seconds: float) -> float:
        """See `benchmarks.paths.path.LoopEnd`."""
        return await self.program.lateness(seconds)


@dataclass(frozen=True)
class Stacks(Path):
    """Two of our stacks.

    Attributes:
        together: Whether both are in one program.
        pumps: Whether their frames pass the loop.
        compiled: Whether the pumps use the compiled step; all others are pure Python,
            whatever is installed.
    """

    key: str
    title: str
    network: Network
    together: bool = False
    pumps: bool = True
    compiled: bool = False

    ours = True

    @override
    def why_not(self, tools: Tools) -> str:
        if self.compiled and (why := _why_no_speedups()):
            return why
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
            programs = [
                await until_end.enter_async_context(
                    StackProgram.open(place, *group, compiled=self.compiled)
                )
                for group in groups
            ]
            ends = (
                StackEnd(programs[0], 0),
                StackEnd(programs[-1], 1 if self.together else 0),
            )
            pumps = (ends[-1:] if self.together else ends) if self.pumps else ()
            yield Ends(*ends, SERVER, pumps)


def _why_no_speedups() -> str:
    """Return why there is no compiled step here, if so."""
    try:
        importlib.import_module("aioioth_speedups")
    except ImportError as error:
        return f"aioioth-speedups cannot be used (pip install ./speedups): {error}"
    return ""


def why_no_scheme(vnl: str) -> str:
    """Return why this aioioth does not know a VNL, if so."""
    try:
        aioioth.Stack(vnl.replace("DIR", "/tmp"))
    except (ConfigurationError, ImportError) as error:
        return str(error)
    return ""
