"""When to ask for routers, and when to apply what they said; without any I/O.

Source: RFC 4861 sections 6.1.2, 6.3.7; RFC 7559.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

from aioioth._autoconf.advertised import Advertised, Host
from aioioth._autoconf.findings import Findings
from aioioth.hashes import eui64_address
from aioioth.wire import nd

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from aioioth._ip import IPAddress

__all__ = ["Change", "RaMachine"]

# RFC 7559 begins with 4 s. Here a question is not lost to a crowd of hosts that start
# at the same time; it is lost because a switch has only just heard of us, and then
# somebody is waiting for the stack to open.
_FIRST_WAIT = 1.0
_LONGEST_WAIT = 3600.0

# Advertisements that come in a moment are applied together. More often would only serve
# those who want to keep us busy; so would as often, with all that they can make up (600
# addresses and routes take the kernel and us half a second).
_PAUSE = 1.0
_PAUSE_EACH = 0.05


@dataclass(frozen=True)
class Change:
    """What shall hold from now on.

    Attributes:
        findings: None: nothing any more.
        cause: Why, where something was lost.
    """

    findings: Findings | None
    cause: str = ""


class RaMachine:
    """Knows what advertisements said, and when to ask for more.

    All moments are in seconds of one clock that goes on evenly. After each call, look
    at `solicit_due`, `take_change` and `deadline`.

    Args:
        host: Who listens.
        random: Returns a number between two, as `random.uniform` does.
    """

    def __init__(self, host: Host, random: Callable[[float, float], float]) -> None:
        self._advertised = Advertised(host)
        self._own = eui64_address(host.mac)
        self._random = random
        # The first question waits for nobody: hosts that were switched on together,
        # for which RFC 4861 has them wait, are on other networks than this one.
        self._is_asking = True
        self._ask_at = -math.inf
        self._wait = _FIRST_WAIT
        self._is_changed = False
        self._is_applied = False
        self._not_before = -math.inf
        self._cause = ""

    # What comes in

    def refresh(self) -> None:
        """Ask again at once, until somebody answers, who may be somebody else."""
        self._advertised.forget_duplicates()
        self._not_before = -math.inf
        self._ask(-math.inf)

    def receive(
        self, message: bytes, source: IPv6Address, hop_limit: int, now: float
    ) -> None:
        """Take in what came from the link.

        Args:
            message: An ICMPv6 message.
            source: The sender's address; its scope does not count.
            hop_limit: As it arrived.
            now: The moment.

        Raises:
            ValueError: It is no router advertisement, or must be ignored; nothing was
                changed.
        """
        router = IPv6Address(source.packed)
        is_other = source.is_link_local and router != self._own
        if hop_limit != nd.HOP_LIMIT or not is_other:
            msg = f"from {source} with hop limit {hop_limit}: not from a router here"
            raise ValueError(msg)
        told = nd.parse_advertisement(message)
        self._expire(now)
        was_router = self._advertised.is_router(router)
        self._advertised.take(router, told, now)
        # Even if it says what all the others said: times begin anew in the kernel, and
        # what somebody took away there comes back.
        self._is_changed = True
        if self._advertised.is_router(router):
            self._is_asking = False
        elif was_router:
            self._cause = f"router {router} says that it is none any more"
            self._look_for_another(now)

    def duplicated(self, addresses: Collection[IPAddress]) -> tuple[IPv6Address, ...]:
        """Do without addresses that others have, as long as their prefixes stay.

        Returns:
            Those that are ours, and were not known for it.
        """
        return self._advertised.duplicated(addresses)

    # What goes out

    def deadline(self, now: float) -> float:
        """Return the moment when to look again; infinite for never."""
        soonest = self._advertised.soonest(now)
        if self._is_asking:
            soonest = min(soonest, self._ask_at)
        if self._is_changed:
            soonest = min(soonest, self._not_before)
        return soonest

    def solicit_due(self, now: float) -> bool:
        """Return whether to ask now, once.

        Until there is an answer it is time again and again, each time after about
        double the wait, up to an hour.
        """
        self._expire(now)
        if not self._is_asking or now < self._ask_at:
            return False
        self._ask_at = now + self._wait * self._random(0.9, 1.1)
        self._wait = min(2 * self._wait, _LONGEST_WAIT)
        return True

    def take_change(self, now: float) -> Change | None:
        """Return what to apply now; None if nothing changed, or not long ago."""
        self._expire(now)
        if not self._is_changed or now < self._not_before:
            return None
        self._is_changed = False
        cause, self._cause = self._cause, ""
        findings = self._advertised.findings(now)
        was_applied, self._is_applied = self._is_applied, findings != Findings()
        if self._is_applied:
            count = len(findings.addresses) + len(findings.routes)
            self._not_before = now + max(_PAUSE, count * _PAUSE_EACH)
            return Change(findings, cause)
        if was_applied:
            return Change(None, cause or "routers have taken back all that they said")
        return None

    def _expire(self, now: float) -> None:
        had_router = self._advertised.has_router
        if not self._advertised.expire(now):
            return
        self._is_changed = True
        self._cause = "no router has said so for too long"
        if had_router:
            self._look_for_another(now)

    def _look_for_another(self, now: float) -> None:
        if not self._advertised.has_router:
            # Not at once: it is not we who decide how often this happens.
            self._ask(now + _FIRST_WAIT)

    def _ask(self, at: float) -> None:
        self._is_asking = True
        self._ask_at = at
        self._wait = _FIRST_WAIT
