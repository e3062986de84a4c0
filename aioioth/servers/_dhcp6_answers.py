"""What a DHCPv6 server answers: no sockets, no clock.

Source: RFC 8415 sections 16 (what is ignored) and 18.3.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aioioth.servers._dhcp6_bindings import Binding, Bindings, Key
from aioioth.wire.dhcp6 import (
    Association,
    Fqdn,
    Kind,
    LeasedAddress,
    LeasedPrefix,
    Message,
    Option,
    Status,
    StatusCode,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv6Address, IPv6Network

# In one message; hosts have one or two.
_MOST_ASSOCIATIONS = 8
_MOST_HINTS = 8
_LEAST_TO_DIVIDE = 3

# What a client tells one server, whose DUID is in it; and what it tells all of them.
_TO_ONE = {Kind.REQUEST, Kind.RENEW, Kind.RELEASE, Kind.DECLINE}
_TO_ALL = {Kind.SOLICIT, Kind.CONFIRM, Kind.REBIND}


class IgnoredError(Exception):
    """A message gets no answer; the reason, in words."""


@dataclass(frozen=True)
class Terms:
    """What a server tells everybody.

    Attributes:
        server_id: Its DUID.
        networks: What is on the link.
        valid: Seconds that addresses are given for; None for ever.
        preferred: Seconds until they shall not be used for new connections; likewise.
        dns: Addresses of DNS servers.
        domains: Where to search names.
        rapid_commit: Whether two messages do, if a client wants that.
    """

    server_id: bytes
    networks: tuple[IPv6Network, ...]
    valid: int | None = 3600
    preferred: int | None = 3600
    dns: tuple[IPv6Address, ...] = ()
    domains: tuple[str, ...] = ()
    rapid_commit: bool = True


@dataclass(frozen=True)
class Change:
    """A lease that is new, good for longer, or over.

    Attributes:
        binding: What it was at that moment.
        prefixes: Whether it is one of a prefix.
        ended: Whether it is over.
    """

    binding: Binding
    prefixes: bool
    ended: bool


class Answers:
    """A DHCPv6 server on one link.

    Args:
        terms: What it tells everybody.
        addresses: What it has to give.
        prefixes: Likewise.

    Attributes:
        ignored: How many messages got no answer, by reason.
    """

    def __init__(self, terms: Terms, addresses: Bindings, prefixes: Bindings) -> None:
        self._terms = terms
        self._addresses = addresses
        self._prefixes = prefixes
        self._changes: list[Change] = []
        self._now = -math.inf
        self._handlers: dict[Kind, Callable[[Message, Message], Message]] = {
            Kind.SOLICIT: self._solicit,
            Kind.REQUEST: self._request,
            Kind.RENEW: self._renew,
            Kind.REBIND: self._renew,
            Kind.CONFIRM: self._confirm,
            Kind.RELEASE: self._release,
            Kind.DECLINE: self._decline,
            Kind.INFORMATION_REQUEST: self._inform,
        }
        self.ignored: Counter[str] = Counter()

    @property
    def next_due(self) -> float:
        """When to call `expire`; infinity for not at all."""
        return min(self._addresses.next_end, self._prefixes.next_end)

    def take_changes(self) -> list[Change]:
        """Return what has changed since the last call."""
        changes, self._changes = self._changes, []
        return changes

    def expire(self, now: float) -> None:
        """Take back what is over."""
        for prefixes in (False, True):
            for binding in self._bindings(prefixes=prefixes).expire(now):
                self._changes.append(Change(binding, prefixes, ended=True))

    def revoke(self, address: IPv6Address) -> bool:
        """Take a lease back; return whether there was one."""
        for prefixes in (False, True):
            binding = self._bindings(prefixes=prefixes).revoke(address)
            if binding is not None:
                self._changes.append(Change(binding, prefixes, ended=True))
                return True
        return False

    def answer(
        self, data: bytes, now: float, *, was_multicast: bool = True
    ) -> bytes | None:
        """Return what to send back; None for nothing.

        Args:
            data: Anything.
            now: Seconds, on any clock that goes on steadily.
            was_multicast: Whether it was sent to all servers.
        """
        try:
            message = Message.parse(data)
        except ValueError:
            self.ignored["malformed"] += 1
            return None
        self._now = now
        self.expire(now)
        try:
            self._check(message)
            reply = self._reply(message, was_multicast=was_multicast)
        except IgnoredError as reason:
            self.ignored[str(reason)] += 1
            return None
        return reply.pack()

    def _check(self, message: Message) -> None:
        """Ignore what section 16 says.

        Raises:
            IgnoredError: It is to be ignored.
        """
        kind, server_id = message.kind, message.server_id
        if kind not in self._handlers:
            reason = "not for servers"
            raise IgnoredError(reason)
        if message.client_id is None and kind != Kind.INFORMATION_REQUEST:
            reason = "no client ID"
            raise IgnoredError(reason)
        if kind in _TO_ONE and server_id is None:
            reason = "no server ID"
            raise IgnoredError(reason)
        if kind in _TO_ALL and server_id is not None:
            reason = "a server ID"
            raise IgnoredError(reason)
        if server_id not in {None, self._terms.server_id}:
            reason = "for another server"
            raise IgnoredError(reason)

    def _reply(self, message: Message, *, was_multicast: bool) -> Message:
        reply = Message(
            Kind.REPLY,
            message.transaction,
            client_id=message.client_id,
            server_id=self._terms.server_id,
        )
        if not was_multicast:
            if message.kind not in _TO_ONE:
                reason = "unicast"
                raise IgnoredError(reason)
            return replace(reply, status=Status(StatusCode.USE_MULTICAST))
        return self._handlers[message.kind](message, reply)

    # Kinds of messages

    def _solicit(self, message: Message, reply: Message) -> Message:
        commits = self._terms.rapid_commit and message.rapid_commit
        if commits:
            reply = replace(reply, rapid_commit=True)
        else:
            reply = replace(reply, kind=Kind.ADVERTISE)
        given = self._give_all(message, bind=commits)
        reply = self._with_information(message, reply)
        if not any(each.leased for each in given):
            # It may know something all the same; there is nothing to commit to.
            status = Status(StatusCode.NO_ADDRS_AVAIL, "no addresses")
            reply = replace(reply, status=status, kind=Kind.ADVERTISE)
            return replace(reply, rapid_commit=False, associations=given)
        return replace(reply, associations=given)

    def _request(self, message: Message, reply: Message) -> Message:
        given = self._give_all(message, bind=True)
        return self._with_information(message, replace(reply, associations=given))

    def _renew(self, message: Message, reply: Message) -> Message:
        given = [self._extend(message, each) for each in _associations(message)]
        if message.kind == Kind.REBIND and not any(each.leased for each in given):
            # Another server may know it (section 18.3.5).
            reason = "not our lease"
            raise IgnoredError(reason)
        reply = replace(reply, associations=tuple(given))
        return self._with_information(message, reply)

    def _confirm(self, message: Message, reply: Message) -> Message:
        asked = [
            each.address
            for association in _associations(message)
            for each in association.leased
            if isinstance(each, LeasedAddress)
        ]
        # About a link of which nothing is known, nothing is said (section 18.3.3).
        if not asked or not (self._terms.networks or self._addresses.pool):
            reason = "nothing to confirm"
            raise IgnoredError(reason)
        if all(map(self._is_on_link, asked)):
            return replace(reply, status=Status(StatusCode.SUCCESS))
        return replace(reply, status=Status(StatusCode.NOT_ON_LINK))

    def _release(self, message: Message, reply: Message) -> Message:
        return self._take_back(message, reply, Bindings.release)

    def _decline(self, message: Message, reply: Message) -> Message:
        def decline(
            bindings: Bindings, key: Key, address: IPv6Address
        ) -> Binding | None:
            return bindings.decline(key, address, self._now)

        return self._take_back(message, reply, decline)

    def _take_back(
        self,
        message: Message,
        reply: Message,
        take: Callable[[Bindings, Key, IPv6Address], Binding | None],
    ) -> Message:
        unknown = []
        for association in _associations(message):
            bindings = self._bindings(prefixes=association.prefixes)
            key = _key(message, association)
            taken = [
                binding
                for address in _hints(association)
                if (binding := take(bindings, key, address)) is not None
            ]
            for binding in taken:
                change = Change(binding, association.prefixes, ended=True)
                self._changes.append(change)
            if not taken:
                status = Status(StatusCode.NO_BINDING)
                unknown.append(replace(association, leased=(), status=status))
        return replace(
            reply, status=Status(StatusCode.SUCCESS), associations=tuple(unknown)
        )

    def _inform(self, message: Message, reply: Message) -> Message:
        if message.associations:
            reason = "addresses in a question for information"
            raise IgnoredError(reason)
        return self._with_information(message, reply)

    # Their parts

    def _bindings(self, *, prefixes: bool) -> Bindings:
        return self._prefixes if prefixes else self._addresses

    def _is_on_link(self, address: IPv6Address) -> bool:
        return self._addresses.may_give(address) or any(
            address in network for network in self._terms.networks
        )

    def _give_all(self, message: Message, *, bind: bool) -> tuple[Association, ...]:
        return tuple(
            self._give(message, each, bind=bind) for each in _associations(message)
        )

    def _give(
        self, message: Message, wanted: Association, *, bind: bool
    ) -> Association:
        bindings = self._bindings(prefixes=wanted.prefixes)
        key = _key(message, wanted)
        address = bindings.choose(key, _hints(wanted), self._now)
        if address is None:
            none = StatusCode.NO_ADDRS_AVAIL
            if wanted.prefixes:
                none = StatusCode.NO_PREFIX_AVAIL
            return Association(wanted.iaid, wanted.prefixes, status=Status(none))
        if bind:
            self._bind(message, wanted, address)
        return self._leased(wanted, address)

    def _bind(
        self, message: Message, wanted: Association, address: IPv6Address
    ) -> None:
        bindings = self._bindings(prefixes=wanted.prefixes)
        key, valid = _key(message, wanted), self._terms.valid
        until = math.inf if valid is None else self._now + valid
        # A prefix is a network's, not a host's.
        name = None if wanted.prefixes else self._name(message)
        before = bindings.get(key)
        if name is None and before is not None:
            name = before.name
        binding = bindings.bind(key, address, until, name)
        self._changes.append(Change(binding, wanted.prefixes, ended=False))

    def _name(self, message: Message) -> str | None:
        name = "" if message.fqdn is None else message.fqdn.name.lower()
        if name and "." not in name and self._terms.domains:
            return f"{name}.{self._terms.domains[0]}"
        return name or None

    def _leased(self, wanted: Association, address: IPv6Address) -> Association:
        terms = self._terms
        times = {"preferred": terms.preferred, "valid": terms.valid}
        leased: LeasedAddress | LeasedPrefix = LeasedAddress(address, **times)
        pool = self._prefixes.pool
        if wanted.prefixes:
            assert pool is not None, "or there would be none to give"
            leased = LeasedPrefix(pool.network(address), **times)
        return Association(
            wanted.iaid,
            wanted.prefixes,
            t1=_part(terms.preferred, 0.5),
            t2=_part(terms.preferred, 0.8),
            leased=(leased,),
        )

    def _extend(self, message: Message, wanted: Association) -> Association:
        bindings = self._bindings(prefixes=wanted.prefixes)
        hints = _hints(wanted)
        binding = bindings.get(_key(message, wanted))
        address = None if binding is None else binding.address
        if bindings.was_revoked(_key(message, wanted), hints):
            leased = _refused(wanted, None)
            return Association(wanted.iaid, wanted.prefixes, leased=leased)
        if binding is None:
            # We have forgotten it, or another server gave it. It can go on if nobody
            # else got it meanwhile, and it is what we would give.
            address = bindings.choose(_key(message, wanted), hints, self._now)
            address = address if address in hints else None
        if address is not None:
            self._bind(message, wanted, address)
            given = self._leased(wanted, address)
            return replace(given, leased=given.leased + _refused(wanted, address))
        off_link = [each for each in hints if not self._is_on_link(each)]
        if off_link and not wanted.prefixes:
            return Association(wanted.iaid, leased=_refused(wanted, None))
        status = Status(StatusCode.NO_BINDING)
        return Association(wanted.iaid, wanted.prefixes, status=status)

    def _with_information(self, message: Message, reply: Message) -> Message:
        terms, requested = self._terms, message.requested
        if Option.DNS in requested and terms.dns:
            reply = replace(reply, dns=terms.dns)
        if Option.DOMAINS in requested and terms.domains:
            reply = replace(reply, domains=terms.domains)
        if Option.FQDN in requested and message.fqdn is not None:
            # Names are told by whoever has this server; the client need not.
            fqdn = Fqdn(message.fqdn.name, 1 if message.fqdn.flags & 1 else 3)
            reply = replace(reply, fqdn=fqdn)
        return reply


def _associations(message: Message) -> tuple[Association, ...]:
    return message.associations[:_MOST_ASSOCIATIONS]


def _key(message: Message, association: Association) -> Key:
    assert message.client_id is not None, "or it would be ignored"
    return Key(message.client_id, association.iaid)


def _hints(association: Association) -> list[IPv6Address]:
    return [
        each.address if isinstance(each, LeasedAddress) else each.prefix.network_address
        for each in association.leased[:_MOST_HINTS]
    ]


def _refused(
    association: Association, given: IPv6Address | None
) -> tuple[LeasedAddress | LeasedPrefix, ...]:
    """Return what the client has no more: it is valid for 0 seconds."""
    return tuple(
        replace(each, preferred=0, valid=0)
        for each, address in zip(association.leased, _hints(association), strict=False)
        if address != given
    )


def _part(seconds: int | None, part: float) -> int | None:
    if seconds is None:
        return None
    # There are whole seconds only; 0 leaves it to the client.
    return int(seconds * part) if seconds >= _LEAST_TO_DIVIDE else 0
