"""Which one-time addresses there are at a moment."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aioioth.errors import ConfigurationError
from aioioth.hashes import hash_address, otip_time

if TYPE_CHECKING:
    from ipaddress import IPv6Address

    from aioioth.hashes import Base

_MOST_PERIODS = 8


@dataclass(frozen=True)
class Rotation:
    """Which addresses there are at a moment; without any I/O.

    Attributes:
        name: The server's.
        base: Its network.
        password: The secret.
        period: Seconds that an address is good for, 1 at least.
        offset: Seconds that everything happens earlier.
        before: Seconds that an address is there before its period.
        after: Seconds that it is there after its period.

    Raises:
        ConfigurationError: One of them cannot be right.
    """

    name: str
    base: Base
    password: str | bytes
    period: int
    offset: int
    before: float
    after: float

    def __post_init__(self) -> None:
        if self.period < 1:
            msg = f"period={self.period}: must be a number of seconds, 1 at least"
            raise ConfigurationError(msg)
        # More would be a crowd of addresses, of which any one is found sooner.
        most = _MOST_PERIODS * self.period
        if not (0 <= self.before <= most and 0 <= self.after <= most):
            msg = (
                f"before={self.before}, after={self.after}: 0 to {most} seconds, that "
                f"is {_MOST_PERIODS} periods of {self.period}"
            )
            raise ConfigurationError(msg)
        if not self.password:
            msg = "password is empty: without one anybody can know the addresses"
            raise ConfigurationError(msg)
        self.current(0.0)  # complains of the rest

    def current(self, now: float) -> IPv6Address:
        """Return the address of this period."""
        number = otip_time(now, period=self.period, offset=self.offset)
        return hash_address(self.name, self.base, password=self.password, time=number)

    def wanted(self, now: float) -> list[IPv6Address]:
        """Return the addresses to have, oldest first."""
        start = now + self.offset
        first = math.floor((start - self.after) / self.period)
        last = math.floor((start + self.before) / self.period)
        return [
            self.current(number * self.period - self.offset)
            for number in range(first, last + 1)
        ]

    def next_change(self, now: float) -> float:
        """Return the next moment when `wanted` returns something else."""
        start = now + self.offset
        comes = math.floor((start + self.before) / self.period) + 1
        goes = math.floor((start - self.after) / self.period) + 1
        return (
            min(comes * self.period - self.before, goes * self.period + self.after)
            - self.offset
        )
