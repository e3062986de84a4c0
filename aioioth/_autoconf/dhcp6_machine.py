"""What a DHCPv6 client does when: no sockets, no clock, no waiting.

It is told what came, what time it is and what is wanted, and returns what is to be
done. Times are seconds on any clock that goes on steadily.

Source: RFC 8415 sections 15 (times), 16 (what is ignored) and 18.2.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace
from ipaddress import IPv6Network
from typing import TYPE_CHECKING

from aioioth._autoconf.dhcp6_exchange import Action, Apply, Exchange, Send, Timing
from aioioth._autoconf.dhcp6_lease import Lease, associations_of, codes_of
from aioioth.wire.dhcp6 import (
    Association,
    Fqdn,
    Kind,
    LeasedPrefix,
    Message,
    Option,
    StatusCode,
    duid_of,
)

if TYPE_CHECKING:
    from collections.abc import Collection
    from ipaddress import IPv6Address

_WANTED = (Option.DNS, Option.DOMAINS, Option.FQDN, Option.SOL_MAX_RT)
_WANTED_TO_KNOW = (Option.DNS, Option.DOMAINS, Option.REFRESH, Option.INF_MAX_RT)

# Limits of what servers may have us do, in seconds (sections 21.23 to 21.25).
_SOL_MAX_RT = range(60, 86_401)
_REFRESH_DEFAULT, _REFRESH_MINIMUM = 86_400, 600

_HIGHEST_PREFERENCE = 255
# Between two rounds that came to nothing, so that a server that promises and does not
# give, or a host that has every address, does not keep the network busy.
_LONGEST_PAUSE = 120.0
# How often, at most, a lease of a few seconds is asked for, in seconds.
_SHORTEST_RT = 0.25


_SOLICIT = Timing(1, 3600)
_REQUEST = Timing(1, 30, mrc=10)
_CONFIRM = Timing(1, 4, mrd=10)
_DECLINE = Timing(1, mrc=4)


class Machine:
    """A client of DHCPv6 on one interface.

    Args:
        mac: The interface's, 6 bytes: what the client is known by.
        fqdn: Its name; None for none.
        prefix_length: Of a prefix that it would like to have for others; None for none.
        rng: Makes transaction IDs, which nobody shall guess, and varies times.
    """

    def __init__(
        self,
        mac: bytes,
        fqdn: str | None = None,
        prefix_length: int | None = None,
        *,
        rng: random.Random | None = None,
    ) -> None:
        self._client_id = duid_of(mac)
        self._iaid = int.from_bytes(mac[-4:], "big")
        self._fqdn = None if fqdn is None else Fqdn(fqdn)
        self._prefix_length = prefix_length
        self._rng = random.SystemRandom() if rng is None else rng
        self._exchange: Exchange | None = None
        self._lease: Lease | None = None
        self._offer: Message | None = None
        self._solicit = _SOLICIT
        self._begin_at = math.inf  # if there is neither exchange nor lease
        self._failures = 0
        # Beside the exchange: a question for information only, when it may be asked,
        # and what came of it.
        self._question: int | None = None
        self._ask_at = -math.inf
        self._information: Lease | None = None

    @property
    def lease(self) -> Lease | None:
        """What is held."""
        return self._lease

    @property
    def deadline(self) -> float:
        """When `timer` is to be called; `math.inf` for never."""
        exchange, lease = self._exchange, self._lease
        end = math.inf if lease is None else lease.next_end
        if exchange is not None:
            return min(exchange.next, end)
        return self._begin_at if lease is None else min(lease.t1, end)

    # What happens

    def start(self, now: float) -> list[Action]:
        """Begin to look for servers.

        At once, although the RFC has clients wait for up to a second: that is for many
        machines that get their power back together, and a program waits for us.
        """
        return self._begin(now)

    def timer(self, now: float) -> list[Action]:
        """Do what is due."""
        actions = self._end_what_is_over(now)
        exchange, lease = self._exchange, self._lease
        if exchange is not None:
            if now >= exchange.next:
                actions += self._not_answered(exchange, now)
        elif lease is not None:
            if now >= lease.t2:
                actions += self._rebind(lease, now)
            elif now >= lease.t1:
                actions += self._renew(lease, now)
        elif now >= self._begin_at:
            actions += self._begin(now)
        return actions

    def refresh(self, now: float) -> list[Action]:
        """Ask again: whether we are on the same network, and what there is."""
        exchange, lease = self._exchange, self._lease
        if exchange is not None and exchange.message.kind == Kind.DECLINE:
            return []
        if lease is None:
            self._failures = 0
            self._ask_at, self._information = -math.inf, None
            return self._begin(now)
        # Prefixes cannot be confirmed (section 18.2.12).
        kind = Kind.REBIND if lease.prefixes else Kind.CONFIRM
        message = self._message(kind, lease.associations(self._iaid))
        return self._exchange_begins(message, _CONFIRM, now)

    def release(self) -> Message | None:
        """Forget everything; return what to tell the server, if there is anything."""
        lease, self._lease = self._lease, None
        self._exchange, self._question, self._begin_at = None, None, math.inf
        if lease is None:
            return None
        mine = lease.associations(self._iaid)
        message = self._message(Kind.RELEASE, mine, server_id=lease.server_id)
        return replace(message, elapsed=0)

    def duplicates(
        self, addresses: Collection[IPv6Address], now: float
    ) -> list[Action]:
        """Give back addresses that somebody else has."""
        lease = self._lease
        if lease is None:
            return []
        declined = [each for each in lease.addresses if each in addresses]
        if not declined:
            return []
        message = self._message(
            Kind.DECLINE,
            associations_of(self._iaid, declined),
            server_id=lease.server_id,
        )
        names = " and ".join(map(str, declined))
        rest = lease.without(declined)
        actions: list[Action] = []
        if rest.held:
            self._lease = rest
            actions.append(Apply(rest))
        else:
            actions += self._lose(f"somebody else has {names}", now)
        return actions + self._exchange_begins(message, _DECLINE, now)

    def wants(self, message: Message) -> bool:
        """Whether a message answers one of ours."""
        if message.client_id != self._client_id or message.server_id is None:
            return False
        if message.transaction == self._question:
            return message.kind == Kind.REPLY
        exchange = self._exchange
        if exchange is None or message.transaction != exchange.message.transaction:
            return False
        return exchange.message.server_id in {None, message.server_id}

    def received(self, message: Message, now: float) -> list[Action]:
        """Take a message; nothing happens if it does not answer one of ours."""
        if not self.wants(message):
            return []
        exchange = self._exchange
        if message.sol_max_rt in _SOL_MAX_RT:
            assert message.sol_max_rt is not None
            self._solicit = replace(_SOLICIT, mrt=message.sol_max_rt)
            if exchange is not None and exchange.message.kind == Kind.SOLICIT:
                exchange.timing = self._solicit
        if message.transaction == self._question:
            return self._informed(message, now)
        assert exchange is not None, "or it would answer nothing"
        if exchange.message.kind == Kind.SOLICIT and message.kind == Kind.ADVERTISE:
            return self._advertised(exchange, message, now)
        if message.kind != Kind.REPLY:
            return []
        return self._replied(exchange, message, now)

    def _replied(self, exchange: Exchange, reply: Message, now: float) -> list[Action]:
        kind = exchange.message.kind
        if kind == Kind.SOLICIT:
            return self._committed(exchange, reply, now)
        if kind == Kind.DECLINE:
            return self._exchange_ends(now)
        if kind == Kind.CONFIRM:
            return self._confirmed(reply, now)
        # The server could not; or it wants what we always do. It is asked again later.
        if reply.code in {StatusCode.UNSPEC_FAIL, StatusCode.USE_MULTICAST}:
            return []
        if kind == Kind.REQUEST:
            return self._requested(exchange, reply, now)
        return self._renewed(exchange, reply, now)

    # Looking for servers

    def _begin(self, now: float) -> list[Action]:
        wanted = [Association(self._iaid)]
        if (length := self._prefix_length) is not None:
            hint = LeasedPrefix(IPv6Network((0, length)))
            wanted.append(Association(self._iaid, prefixes=True, leased=(hint,)))
        self._offer = None
        message = self._message(Kind.SOLICIT, tuple(wanted))
        message = replace(message, rapid_commit=True)
        return self._exchange_begins(message, self._solicit, now)

    def _advertised(
        self, exchange: Exchange, offer: Message, now: float
    ) -> list[Action]:
        if self._worth(offer) < self._worth(None):
            return self._ask(now)  # no addresses, but it may know something
        if self._worth(offer) > self._worth(self._offer):
            self._offer = offer
        assert self._offer is not None
        # The others have had their time, or cannot be better.
        if exchange.count > 1 or self._offer.preference == _HIGHEST_PREFERENCE:
            return self._request(self._offer, now)
        return []

    def _worth(self, offer: Message | None) -> tuple[int, int]:
        """Return a number for how good an offer is; that of none is between."""
        if offer is None:
            return 0, 0
        lease = Lease.given(offer, 0, self._iaid)
        if offer.code != StatusCode.SUCCESS or not lease.held:
            return -1, 0
        return len({type(each.what) for each in lease.held}), offer.preference or 0

    def _committed(
        self, exchange: Exchange, reply: Message, now: float
    ) -> list[Action]:
        """Take a server's reply to a Solicit, which it may give if it says so."""
        if not reply.rapid_commit:
            return []
        lease = Lease.given(reply, exchange.sent, self._iaid).at(now)
        if reply.code != StatusCode.SUCCESS or not lease.held:
            return self._ask(now)
        return self._have(lease)

    def _request(self, offer: Message, now: float) -> list[Action]:
        lease = Lease.given(offer, now, self._iaid)
        return self._request_from(lease, now)

    def _request_from(self, lease: Lease, now: float) -> list[Action]:
        mine = lease.associations(self._iaid)
        message = self._message(Kind.REQUEST, mine, server_id=lease.server_id)
        return self._exchange_begins(message, _REQUEST, now)

    def _requested(
        self, exchange: Exchange, reply: Message, now: float
    ) -> list[Action]:
        lease = Lease.given(reply, exchange.sent, self._iaid).at(now)
        if lease.held:
            return self._have(lease)
        actions = self._lose("the server does not give it any more", now)
        self._exchange = None
        return actions

    # Keeping what we have

    def _have(self, lease: Lease) -> list[Action]:
        self._lease = lease
        self._exchange = self._question = self._information = self._offer = None
        self._ask_at = -math.inf
        return [Apply(lease)]

    def _renew(self, lease: Lease, now: float) -> list[Action]:
        return self._extend(Kind.RENEW, lease, lease.t2 - now, now)

    def _rebind(self, lease: Lease, now: float) -> list[Action]:
        return self._extend(Kind.REBIND, lease, lease.last_end - now, now)

    def _extend(
        self, kind: Kind, lease: Lease, time: float, now: float
    ) -> list[Action]:
        # The RFC's 10 s would be too long for leases of some seconds.
        irt = max(min(10, time / 4), _SHORTEST_RT)
        timing = Timing(irt, 600, mrd=0 if time == math.inf else max(time, irt))
        server_id = lease.server_id if kind == Kind.RENEW else None
        mine = lease.associations(self._iaid)
        message = self._message(kind, mine, server_id=server_id)
        return self._exchange_begins(message, timing, now)

    def _renewed(self, exchange: Exchange, reply: Message, now: float) -> list[Action]:
        lease = self._lease
        assert lease is not None, "or nothing would be renewed"
        if StatusCode.NO_BINDING in codes_of(reply, self._iaid):
            assert reply.server_id is not None
            server = replace(lease, server_id=reply.server_id)
            return self._request_from(server, now)
        ours = [each for each in reply.associations if each.iaid == self._iaid]
        if not any(each.leased for each in ours):
            return []  # another server may know better
        given = Lease.given(reply, exchange.sent, self._iaid, before=lease).at(now)
        if not given.held:
            self._exchange = None
            return self._lose("the server does not give it any more", now)
        if not Lease.given(reply, exchange.sent, self._iaid).at(now).held:
            # Nothing was prolonged, but something may have been taken away.
            self._lease = replace(lease, held=given.held)
            return [Apply(self._lease)] if given.held != lease.held else []
        self._failures = 0
        return self._have(given)

    def _confirmed(self, reply: Message, now: float) -> list[Action]:
        if StatusCode.NOT_ON_LINK in codes_of(reply, self._iaid):
            self._failures = 0
            actions = self._lose("it is not of this network", now)
            return actions + self._begin(now)
        if reply.code != StatusCode.SUCCESS:
            return []
        # We are where we were. What else there is to know may have changed: it comes
        # with a renewal.
        lease = self._lease
        assert lease is not None, "or nothing would be confirmed"
        return [Apply(lease), *self._renew_early(lease, now)]

    def _renew_early(self, lease: Lease, now: float) -> list[Action]:
        return self._rebind(lease, now) if now >= lease.t2 else self._renew(lease, now)

    def _end_what_is_over(self, now: float) -> list[Action]:
        lease = self._lease
        if lease is None or now < lease.next_end:
            return []
        left = lease.at(now)
        if left.held:
            self._lease = left
            return [Apply(left)]
        self._failures = 0
        actions = self._lose("the lease is over", now)
        return actions + self._begin(now)

    def _lose(self, cause: str, now: float) -> list[Action]:
        """Have nothing any more, and begin again after a while."""
        had = self._lease is not None
        self._lease = None
        self._ask_at = -math.inf
        self._begin_at = now + min(2.0**self._failures, _LONGEST_PAUSE)
        self._failures = min(self._failures + 1, 16)
        return [Apply(None, cause)] if had else []

    # Information only

    def _ask(self, now: float) -> list[Action]:
        """Ask for what is known besides addresses, once for each Solicit.

        That is how often it is repeated, too: both have the same times.
        """
        if self._question is not None or now < self._ask_at:
            return []
        message = self._message(Kind.INFORMATION_REQUEST, requested=_WANTED_TO_KNOW)
        self._question = message.transaction
        return [Send(replace(message, elapsed=0))]

    def _informed(self, reply: Message, now: float) -> list[Action]:
        self._question = None
        if reply.code != StatusCode.SUCCESS:
            return []
        seconds = _REFRESH_DEFAULT if reply.refresh is None else reply.refresh
        self._ask_at = now + max(seconds, _REFRESH_MINIMUM)
        known = Lease.given(replace(reply, associations=()), now, self._iaid)
        if known == self._information:
            return []
        self._information = known
        return [Apply(known)]

    # Exchanges

    def _message(
        self,
        kind: Kind,
        associations: tuple[Association, ...] = (),
        *,
        server_id: bytes | None = None,
        requested: tuple[int, ...] = _WANTED,
    ) -> Message:
        told = kind in {Kind.SOLICIT, Kind.REQUEST, Kind.RENEW, Kind.REBIND}
        silent = kind in {Kind.CONFIRM, Kind.RELEASE, Kind.DECLINE}
        return Message(
            kind,
            self._rng.getrandbits(24),
            client_id=self._client_id,
            server_id=server_id,
            associations=associations,
            requested=() if silent else requested,
            fqdn=self._fqdn if told else None,
        )

    def _exchange_begins(
        self, message: Message, timing: Timing, now: float
    ) -> list[Action]:
        self._exchange = Exchange(message, timing, self._rng)
        self._question = None
        return [self._exchange.send(now)]

    def _exchange_ends(self, now: float) -> list[Action]:
        self._exchange = None
        if self._lease is None:
            self._begin_at = max(self._begin_at, now)
        return []

    def _not_answered(self, exchange: Exchange, now: float) -> list[Action]:
        kind, lease = exchange.message.kind, self._lease
        if kind == Kind.SOLICIT and self._offer is not None:
            return self._request(self._offer, now)
        if not exchange.is_over:
            actions: list[Action] = [exchange.send(now)]
            if kind == Kind.SOLICIT:
                self._question = None
                # Some servers have information only, and do not answer.
                actions += self._ask(now) if exchange.count > 2 else []
            return actions
        if kind == Kind.DECLINE:
            return self._exchange_ends(now)
        if lease is None:
            return self._begin(now)  # nothing came of a Request
        if exchange.timing is _CONFIRM:
            # Nobody says that it is wrong (section 18.2.3).
            self._exchange = None
            return [Apply(lease)]
        return self._rebind(lease, now)
