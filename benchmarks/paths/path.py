"""What every path is: two ends, each of which can run the load program."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from benchmarks.running import Program, Tools, Workplace

__all__ = ["End", "Ends", "LoopEnd", "Path"]


class End(Protocol):
    """One end of a network."""

    async def load(self, *arguments: str) -> Program:
        """Start the load program here; it ends when its standard input does."""
        ...


class LoopEnd(End, Protocol):
    """An end whose frames pass an event loop."""

    async def lateness(self, seconds: float) -> float:
        """Return by how many milliseconds the loop is late, at the 99th percentile."""
        ...


@dataclass(frozen=True)
class Ends:
    """Two ends on a network.

    Attributes:
        server: One of them.
        client: The other; the same one on the loopback.
        address: The server's, for the client.
        pumps: One end for each loop that moves the frames, if there are any.
    """

    server: End
    client: End
    address: str
    pumps: tuple[LoopEnd, ...] = ()


class Path(ABC):
    """A kind of network between two ends.

    Attributes:
        key: On the command line and in the results.
        title: In the report.
        ours: Whether it is aioioth's.
    """

    key: str
    title: str
    ours: bool = False

    @abstractmethod
    def why_not(self, tools: Tools) -> str:
        """Return what is missing to run it here; nothing if it can be run.

        Args:
            tools: The load programs that it would be run with.
        """

    @abstractmethod
    def open(self, place: Workplace) -> AbstractAsyncContextManager[Ends]:
        """Build the network; it is gone at the end of the block."""
