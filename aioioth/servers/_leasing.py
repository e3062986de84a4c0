"""What servers have in common that give addresses away for some time."""

from __future__ import annotations

import asyncio
import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from aioioth.errors import ClosedError, ConfigurationError
from aioioth.servers._linkserver import LinkServer

if TYPE_CHECKING:
    import socket
    from collections import Counter
    from collections.abc import Callable, Mapping, Sequence

    from aioioth._ip import IPAddress
    from aioioth.stack import Stack


class Answering(Protocol):
    """A server's answers, without its socket and its clock.

    Attributes:
        ignored: How many messages were not answered, by cause.
    """

    ignored: Counter[str]

    @property
    def next_due(self) -> float:
        """When to call `expire`; infinity for not at all."""
        ...

    def expire(self, now: float) -> None:
        """End what is over."""
        ...


LeaseT = TypeVar("LeaseT")
AnswersT = TypeVar("AnswersT", bound=Answering)


class LeaseServer(LinkServer, Generic[LeaseT, AnswersT]):
    """Something that gives addresses away on one interface of a stack.

    Args:
        stack: Where it listens.
        dev: Name of the interface. None: the stack's first.
        on_lease: Called soon after with each lease that is new, or good for longer.
        on_end: Called soon after with each lease that has ended.
    """

    def __init__(
        self,
        stack: Stack,
        dev: str | None,
        on_lease: Callable[[LeaseT], None] | None,
        on_end: Callable[[LeaseT], None] | None,
    ) -> None:
        super().__init__(stack, dev)
        self._on_lease, self._on_end = on_lease, on_end
        self._answers: AnswersT | None = None  # those of the last time if it is closed
        self._sock: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    @abstractmethod
    def leases(self) -> tuple[LeaseT, ...]:
        """What clients have; of the last time if it is closed."""

    @property
    def ignored(self) -> Mapping[str, int]:
        """How many messages were not answered, by cause.

        Causes are ``malformed``, ``relayed``, ``no address left``, ``for another
        server``, and so on. Those of the last time if it is closed.
        """
        return {} if self._answers is None else dict(self._answers.ignored)

    def _answer_with(self, answers: AnswersT, sock: socket.socket) -> None:
        """Begin to answer, until it is closed."""
        self._answers, self._sock = answers, sock
        self._at_end(self._stop)

    def _stop(self) -> None:
        self._sock = None
        self._stop_timer()

    def _opened(self) -> AnswersT:
        """Return the answers.

        Raises:
            ClosedError: The server is not open.
        """
        if self._sock is None or self._answers is None:
            raise ClosedError(str(self), hint="not open: open it first")
        return self._answers

    def _unknown(
        self, address: IPAddress, known: Sequence[IPAddress]
    ) -> ConfigurationError:
        """Return what to raise if no client has an address."""
        leases = ", ".join(map(str, known)) or "none"
        msg = f"no client of {self} has {address}; leases are: {leases}"
        return ConfigurationError(msg)

    def _call(self, lease: LeaseT, *, ended: bool) -> None:
        """Have told what became of a lease."""
        callback = self._on_end if ended else self._on_lease
        # What it raises is the loop's to report, and none of our clients' business.
        if callback is not None:
            asyncio.get_running_loop().call_soon(callback, lease)

    def _settle(self) -> None:
        """See to what is due next, after anything that changes leases."""
        assert self._answers is not None, "only while it is open"
        self._stop_timer()
        due = self._answers.next_due
        if due != math.inf and self._sock is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(due, self._expire)

    def _expire(self) -> None:
        assert self._answers is not None, "only while it is open"
        self._answers.expire(asyncio.get_running_loop().time())
        self._settle()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
