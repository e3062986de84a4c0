"""Zones in which every name has an address that is made of it."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import dns.name
import dns.rdatatype

from aioioth import hashes
from aioioth._hosts import check_domain
from aioioth.errors import ConfigurationError
from aioioth.servers._dns.answer import (
    Labels,
    Node,
    Question,
    labels_of,
    made_up_soa,
    records,
)
from aioioth.servers._dns.static import pointer, reversed_address

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dns.rrset import RRset

    from aioioth._ip import IPAddress

Reverse = Literal["always", "net", "same", "never"]
HashBase = str | ipaddress.IPv6Address | ipaddress.IPv6Interface | ipaddress.IPv6Network
REVERSE: tuple[Reverse, ...] = ("always", "net", "same", "never")

# Names that are kept for reverse lookups, of up to 255 bytes each.
_LEARNED = 10_000


@dataclass(frozen=True)
class HashZone:
    """How addresses are made of names; see `aioioth.hashes`.

    Attributes:
        base: The network of the addresses, ``fd00::/64``; also an address, whose lower
            64 bits are XORed with the names'.
        password: Part of what is hashed; none if empty.
        period: Seconds that an address is good for; 0: for ever. Otherwise these are
            one-time addresses (OTIP), and the server's and the hosts' clocks matter.
        offset: Added to the time, in seconds.

    Raises:
        ConfigurationError: An argument cannot be right.
    """

    base: HashBase
    password: str = ""
    period: int = 0
    offset: int = 0

    def __post_init__(self) -> None:
        self.address("a", 0)  # says what is wrong
        prefix = str(self.base).partition("/")[2]
        if prefix not in {"", "64", "128"}:  # an interface's or address's own
            msg = f"base={str(self.base)!r}: names make 64 bits: write a network of /64"
            raise ConfigurationError(msg)

    def address(self, name: str, now: float) -> ipaddress.IPv6Address:
        """Return a name's address at a time, in seconds since 1970."""
        period = hashes.otip_time(now, period=self.period, offset=self.offset)
        return hashes.hash_address(name, self.base, password=self.password, time=period)

    def rest(self, now: float) -> int | None:
        """Return for how many seconds addresses stay; None: for ever."""
        if not self.period:
            return None
        return self.period - (int(now) + self.offset) % self.period


class HashZones:
    """All hash zones of a server, and which names were asked for.

    Args:
        zones: By domain; what is no `HashZone` is the base of one.
        reverse: From whom names are learned; see `aioioth.servers.dns.DnsServer`.
        ttl: In seconds.
        clock: Seconds since 1970.

    Raises:
        ConfigurationError: An argument cannot be right.
    """

    def __init__(
        self,
        zones: Mapping[str, HashZone | HashBase],
        reverse: Reverse,
        ttl: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if reverse not in REVERSE:
            msg = f"reverse={reverse!r}: expected one of {', '.join(REVERSE)}"
            raise ConfigurationError(msg)
        self._reverse = reverse
        self._ttl = ttl
        self._clock = clock
        self._zones: dict[Labels, HashZone] = {}
        for domain, zone in zones.items():
            name = dns.name.from_text(check_domain("hash_zones", domain))
            made = zone if isinstance(zone, HashZone) else HashZone(zone)
            self._zones[labels_of(name)] = made
        self._learned: OrderedDict[IPAddress, str] = OrderedDict()

    def domain(self, labels: Labels) -> Labels | None:
        """Return the hash zone that a name is in; None if it is in none."""
        if not self._zones:
            return None
        parents = (labels[i:] for i in range(len(labels)))
        return next((each for each in parents if each in self._zones), None)

    def service(self, domain: Labels) -> Literal["hash", "otip"]:
        """Return what kind of addresses a zone has."""
        return "otip" if self._zones[domain].period else "hash"

    def soa(self, domain: Labels) -> RRset:
        """Return a record to go with the answer that there is nothing."""
        return made_up_soa(dns.name.Name(domain), self._ttl)

    def node(self, question: Question, domain: Labels, client: IPAddress) -> Node:
        """Return what a name in a zone has.

        Args:
            question: Its name.
            domain: The zone.
            client: Who asks, for the name may be learned now.
        """
        if question.labels == domain:
            return {dns.rdatatype.SOA: self.soa(domain)}
        zone = self._zones[domain]
        now = self._clock()
        # Names are the same in upper case, and resolvers mix the cases on purpose.
        name = question.name.to_text(omit_final_dot=True).lower()
        address = zone.address(name, now)
        if not zone.period:  # a name would tell whose the one-time address was
            self._learn(address, name, client)
        rest = zone.rest(now)
        ttl = self._ttl if rest is None else min(self._ttl, rest)
        rdtype = dns.rdatatype.AAAA
        return {rdtype: records(question.name, ttl, rdtype, str(address))}

    def pointer(self, question: Question) -> Node:
        """Return the name of an address that was asked for before."""
        if not self._learned:
            return {}
        address = reversed_address(question.name)
        name = None if address is None else self._learned.get(address)
        return {} if name is None else pointer(question.name, name, self._ttl)

    def _learn(
        self, address: ipaddress.IPv6Address, name: str, client: IPAddress
    ) -> None:
        if not self._may_teach(address, client):
            return
        self._learned[address] = name
        self._learned.move_to_end(address)
        if len(self._learned) > _LEARNED:
            self._learned.popitem(last=False)

    def _may_teach(self, address: ipaddress.IPv6Address, client: IPAddress) -> bool:
        if self._reverse == "net":
            return client in ipaddress.IPv6Network((address, 64), strict=False)
        if self._reverse == "same":
            return client == address
        return self._reverse == "always"
