"""What a DHCPv6 server gave to a client, and until when.

Source: RFC 8415 sections 14.2, 18.2.10.1 and 21.4 to 21.22.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, IPv6Network
from typing import TYPE_CHECKING

from aioioth.wire.dhcp6 import Association, LeasedAddress, LeasedPrefix

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from aioioth.wire.dhcp6 import Message

# Of each kind; a server that gives more is not one to believe.
_MOST = 16

# When the server is asked again, and when any server is, if that is left to us: parts
# of the shortest preferred time (section 21.4).
_T1, _T2 = 0.5, 0.8


@dataclass(frozen=True)
class Held:
    """An address, or a prefix.

    Attributes:
        what: Which.
        preferred: Until when, on the clock of whoever asks; `math.inf` for ever.
        valid: Likewise.
    """

    what: IPv6Address | IPv6Network
    preferred: float
    valid: float


@dataclass(frozen=True)
class Lease:
    """All that a server gave.

    Attributes:
        server_id: Its DUID.
        held: Addresses and prefixes; none if there was only information.
        t1: When that server is to be asked again.
        t2: When any server is.
        dns: Addresses of DNS servers.
        domains: Where to search names.
    """

    server_id: bytes
    held: tuple[Held, ...] = ()
    t1: float = math.inf
    t2: float = math.inf
    dns: tuple[IPv6Address, ...] = ()
    domains: tuple[str, ...] = ()

    @classmethod
    def given(
        cls, reply: Message, sent: float, iaid: int, *, before: Lease | None = None
    ) -> Lease:
        """Return what a server says.

        Args:
            reply: From the server; has a server ID.
            sent: When it was asked, which is when times begin.
            iaid: Ours.
            before: What was had till now: what the server does not speak of is kept.
        """
        assert reply.server_id is not None
        held = {} if before is None else {each.what: each for each in before.held}
        t1 = t2 = math.inf
        for association in _ours(reply, iaid):
            usable: list[Held] = []
            for each in association.leased:
                found = _held(each, sent)
                held.pop(found.what, None)
                if found.valid > sent:
                    usable.append(found)
            held |= {each.what: each for each in usable}
            times = _times(association, usable, sent)
            t1, t2 = min(t1, times[0]), min(t2, times[1])
        return cls(
            reply.server_id,
            _some(held.values()),
            t1,
            t2,
            tuple(each for each in (reply.dns or ())[:_MOST] if _is_host(each)),
            (reply.domains or ())[:_MOST],
        )

    @property
    def addresses(self) -> tuple[IPv6Address, ...]:
        """Those among what is held."""
        whats = (each.what for each in self.held)
        return tuple(each for each in whats if isinstance(each, IPv6Address))

    @property
    def prefixes(self) -> tuple[IPv6Network, ...]:
        """Those among what is held."""
        whats = (each.what for each in self.held)
        return tuple(each for each in whats if isinstance(each, IPv6Network))

    @property
    def next_end(self) -> float:
        """When the first of all ends."""
        return min((each.valid for each in self.held), default=math.inf)

    @property
    def last_end(self) -> float:
        """When the last of all ends."""
        return max((each.valid for each in self.held), default=math.inf)

    def at(self, now: float) -> Lease:
        """Return what is left of it."""
        left = tuple(each for each in self.held if each.valid > now)
        return replace(self, held=left)

    def without(self, addresses: Collection[IPv6Address]) -> Lease:
        """Return the rest."""
        rest = tuple(each for each in self.held if each.what not in addresses)
        return replace(self, held=rest)

    def associations(self, iaid: int) -> tuple[Association, ...]:
        """Return it as it is told to servers."""
        return associations_of(iaid, (*self.addresses, *self.prefixes))


def associations_of(
    iaid: int, wanted: Iterable[IPv6Address | IPv6Network]
) -> tuple[Association, ...]:
    """Return addresses and prefixes as they are told to servers."""
    addresses: list[LeasedAddress | LeasedPrefix] = []
    prefixes: list[LeasedAddress | LeasedPrefix] = []
    for each in wanted:
        if isinstance(each, IPv6Address):
            addresses.append(LeasedAddress(each))
        else:
            prefixes.append(LeasedPrefix(each))
    both = (
        Association(iaid, leased=tuple(addresses)),
        Association(iaid, prefixes=True, leased=tuple(prefixes)),
    )
    return tuple(each for each in both if each.leased)


def codes_of(reply: Message, iaid: int) -> set[int]:
    """Return what a server says of how it went with what is ours."""
    return {reply.code} | {
        each.code for each in reply.associations if each.iaid == iaid
    }


def _ours(reply: Message, iaid: int) -> list[Association]:
    """Return what is for us and makes sense."""
    return [
        each
        for each in reply.associations
        if each.iaid == iaid
        and (0 in {each.t1, each.t2} or _length(each.t1) <= _length(each.t2))
    ]


def _held(leased: LeasedAddress | LeasedPrefix, sent: float) -> Held:
    """Return one address or prefix; one that makes no sense is over."""
    if isinstance(leased, LeasedAddress):
        what: IPv6Address | IPv6Network = leased.address
        good = _is_host(leased.address) and not leased.address.is_link_local
    else:
        what = leased.prefix
        good = _is_host(leased.prefix.network_address)
    held = Held(what, sent + _length(leased.preferred), sent + _length(leased.valid))
    if not good or held.preferred > held.valid:
        return Held(what, sent, sent)
    return held


def _is_host(address: IPv6Address) -> bool:
    return not (
        address.is_multicast
        or address.is_unspecified
        or address.is_loopback
        or address.ipv4_mapped is not None  # what programs call IPv4
    )


def _length(seconds: int | None) -> float:
    return math.inf if seconds is None else seconds


def _times(
    association: Association, usable: list[Held], sent: float
) -> tuple[float, float]:
    """Return T1 and T2; times that come too late are as if they were not said."""
    if not usable:
        return math.inf, math.inf
    valid = min(each.valid for each in usable)
    # What is deprecated from the beginning is renewed as well.
    preferred = min(
        (each.preferred for each in usable if each.preferred > sent), default=valid
    )
    length = preferred - sent
    t1, t2 = sent + _length(association.t1), sent + _length(association.t2)
    if association.t1 == 0 or t1 >= valid < math.inf:
        t1 = sent + _T1 * length
    if association.t2 == 0 or t2 >= valid < math.inf:
        t2 = sent + _T2 * length
    return t1, max(t1, t2)


def _some(held: Iterable[Held]) -> tuple[Held, ...]:
    addresses: list[Held] = []
    prefixes: list[Held] = []
    for each in held:
        kind = addresses if isinstance(each.what, IPv6Address) else prefixes
        if len(kind) < _MOST:
            kind.append(each)
    return (*addresses, *prefixes)
