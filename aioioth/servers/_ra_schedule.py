"""When a router advertises, and to whom; without any I/O.

Source: RFC 4861 sections 6.1.1, 6.2.4, 6.2.6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioioth.wire import nd

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv6Address

__all__ = ["Schedule"]

# The first ones come more often, so that hosts find a new router soon.
_FIRST_ONES = 3
_FIRST_INTERVAL = 16.0
# Between two to all hosts, whoever asks for them.
_LEAST_DELAY = 3.0
# Answers to single hosts: so many at once, and so many a second. Everybody else gets
# the next one to all hosts.
_MOST_ANSWERS = 20
_ANSWERS_A_SECOND = 10.0


class Schedule:
    """Tells when to advertise.

    All moments are in seconds of one clock that goes on evenly.

    Args:
        interval: Between two advertisements to all hosts, least and most seconds.
        random: Returns a number between two, as `random.uniform` does.
        now: The moment; the first advertisement is due.
    """

    def __init__(
        self,
        interval: tuple[float, float],
        random: Callable[[float, float], float],
        now: float,
    ) -> None:
        self._interval = interval
        self._random = random
        self._sent = 0
        self._due = now
        self._allowed = now  # to all hosts, not before
        self._asking: dict[IPv6Address, None] = {}
        self._answers = float(_MOST_ANSWERS)
        self._counted = now

    @property
    def deadline(self) -> float:
        """The moment when to call `take`; in the past if somebody is to be answered."""
        return self._counted if self._asking else self._due

    def solicited(
        self, message: bytes, source: IPv6Address, hop_limit: int, now: float
    ) -> None:
        """Take in a question.

        Args:
            message: An ICMPv6 message.
            source: The sender's address; unspecified if it has none yet.
            hop_limit: As it arrived.
            now: The moment.

        Raises:
            ValueError: It is no router solicitation, or must be ignored.
        """
        if hop_limit != nd.HOP_LIMIT or source.is_multicast:
            msg = f"from {source} with hop limit {hop_limit}: not from a host here"
            raise ValueError(msg)
        asked = nd.parse_solicitation(message)
        if source.is_unspecified and asked.source_mac is not None:
            msg = "from nobody, and with his MAC address"
            raise ValueError(msg)
        if source in self._asking:
            return
        # The kernel would answer a global address from a global one, and nobody
        # believes what does not come from a link-local one.
        if source.is_link_local and self._may_answer(now):
            self._asking[source] = None
        else:
            self._due = min(self._due, max(now, self._allowed))

    def _may_answer(self, now: float) -> bool:
        passed, self._counted = now - self._counted, now
        earned = self._answers + passed * _ANSWERS_A_SECOND
        self._answers = min(earned, float(_MOST_ANSWERS))
        if self._answers < 1.0:
            return False
        self._answers -= 1.0
        return True

    def take(self, now: float) -> list[IPv6Address]:
        """Return whom to advertise to now; he is not returned again."""
        if now < self._due:
            asking, self._asking = list(self._asking), {}
            return asking
        self._asking.clear()  # they get this one
        self._sent += 1
        wait = self._random(*self._interval)
        if self._sent <= _FIRST_ONES:
            wait = min(wait, _FIRST_INTERVAL)
        self._due = now + wait
        self._allowed = now + _LEAST_DELAY
        return [nd.ALL_NODES]
