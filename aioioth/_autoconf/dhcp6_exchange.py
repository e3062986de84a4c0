"""What a DHCPv6 client is to do, and a message that is sent until it is answered.

Source: RFC 8415 section 15.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aioioth.wire.dhcp6 import Kind, Message

if TYPE_CHECKING:
    import random

    from aioioth._autoconf.dhcp6_lease import Lease


@dataclass(frozen=True)
class Send:
    """To all servers of the network."""

    message: Message


@dataclass(frozen=True)
class Apply:
    """What holds from now on.

    Attributes:
        lease: None for nothing any more.
        cause: Why it is lost.
    """

    lease: Lease | None
    cause: str = ""


Action = Send | Apply


@dataclass(frozen=True)
class Timing:
    """How a message is sent again; 0 is for no limit.

    Attributes:
        irt: Seconds until the second one.
        mrt: Seconds between two, at most; each wait is twice the one before.
        mrc: How many, at most.
        mrd: Seconds after which it is given up.
    """

    irt: float
    mrt: float = 0
    mrc: int = 0
    mrd: float = 0


class Exchange:
    """A message that is sent until it is answered.

    Attributes:
        message: As it was sent last.
        sent: When that was.
        count: How often it was sent.
        next: When it is to be sent again, or given up.
    """

    def __init__(self, message: Message, timing: Timing, rng: random.Random) -> None:
        self.message = message
        self.timing = timing
        self.sent = math.inf
        self.count = 0
        self.next = math.inf
        self._begun = math.inf
        self._rng = rng
        self._wait = 0.0

    @property
    def is_over(self) -> bool:
        """Whether it is given up once `next` has come."""
        timing = self.timing
        if timing.mrc and self.count >= timing.mrc:
            return True
        return bool(timing.mrd) and self.next >= self._begun + timing.mrd

    def send(self, now: float) -> Send:
        """Return the message, to be sent now."""
        if not self.count:
            self._begun = now
        self.count += 1
        self.sent = now
        elapsed = min(int((now - self._begun) * 100), 0xFFFF)
        self.message = replace(self.message, elapsed=elapsed)
        self._wait = self._next_wait()
        self.next = now + self._wait
        if self.timing.mrd:
            self.next = min(self.next, self._begun + self.timing.mrd)
        return Send(self.message)

    def _next_wait(self) -> float:
        share = self._rng.uniform(-0.1, 0.1)
        if self.message.kind == Kind.SOLICIT and self.count == 1:
            share = abs(share)  # advertisements are collected for that long
        wait = (2 + share) * self._wait if self._wait else (1 + share) * self.timing.irt
        if self.timing.mrt and wait > self.timing.mrt:
            wait = (1 + share) * self.timing.mrt
        return wait
