"""What a DHCPv4 server answers: a message and the time in, a message out.

Source: RFC 2131 section 4.3 (the server), RFC 2132; RFC 4702 section 4 (clients'
names), RFC 6842 (the client's identifier goes back).
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, NamedTuple

from aioioth.servers._dhcp4_leases import Books, Entry, Standing
from aioioth.wire.dhcp4 import (
    BROADCAST,
    ETHERNET,
    REPLY,
    REQUEST,
    ClientName,
    Message,
    MessageType,
    Option,
    pack_addresses,
)
from aioioth.wire.domains import pack_names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from ipaddress import IPv4Interface

_NOBODY = IPv4Address(0)
_FOREVER = 0xFFFFFFFF
_LONGEST_ID = 255
_LONGEST_NAME = 253

# What every host takes (RFC 791), what we send at most, and the headers in it.
_LEAST_PACKET, _MOST_PACKET, _HEADERS = 576, 1500, 28


@dataclass(frozen=True)
class Terms:
    """What is the same for all clients.

    Attributes:
        own: Our address, with the network's prefix length.
        seconds: How long a lease is good; None for ever.
        routers: Addresses, the best one first.
        dns: Addresses of DNS servers.
        domains: Where clients search for names; they are in the first one themselves.
        mtu: In bytes; None: nothing is said.
    """

    own: IPv4Interface
    seconds: int | None
    routers: tuple[IPv4Address, ...] = ()
    dns: tuple[IPv4Address, ...] = ()
    domains: tuple[str, ...] = ()
    mtu: int | None = None

    def parameters(self) -> dict[int, bytes]:
        """Return what clients may ask for, the most important options first."""
        found: dict[int, bytes] = {
            Option.NETMASK: self.own.netmask.packed,
            Option.ROUTERS: pack_addresses(self.routers),
            Option.DNS: pack_addresses(self.dns),
        }
        if self.mtu is not None:
            found[Option.MTU] = self.mtu.to_bytes(2, "big")
        if self.domains:
            found[Option.DOMAIN] = self.domains[0].encode()
            found[Option.DOMAIN_SEARCH] = pack_names(self.domains)
        return {option: value for option, value in found.items() if value}


class Answer(NamedTuple):
    """A message for a client.

    Attributes:
        data: Its bytes.
        to: The client's address; None: it has none yet, everybody gets it.
    """

    data: bytes
    to: IPv4Address | None


class Cause(enum.Enum):
    """Why a message was not answered."""

    NOT_A_CLIENTS = "not a client's message"
    NO_ADDRESS_LEFT = "no address left"
    FOR_ANOTHER_SERVER = "for another server"
    NO_ADDRESS_IN_IT = "no address in it"
    UNKNOWN_ADDRESS = "unknown address"
    INFORM_FROM_ELSEWHERE = "INFORM from elsewhere"
    OF_NO_LEASE = "of no lease"
    MALFORMED = "malformed"
    NOT_A_REQUEST = "not a request"
    NOT_ETHERNET = "not Ethernet"
    RELAYED = "relayed"
    NOT_SENT = "not sent"


class _IgnoredError(Exception):
    """There is nothing to say."""

    def __init__(self, cause: Cause) -> None:
        self.cause = cause
        super().__init__(cause.value)


class Answers:
    """Takes requests, keeps the books, and answers.

    Args:
        terms: What clients are told.
        books: Who has which address.
        reserved: The keys of clients that have an address of their own.
        on_lease: Called with the entry of a client that got its address, or more time.
        on_end: Called with an entry whose client has lost its address, before it is
            changed.

    Attributes:
        ignored: How many messages were not answered, by cause.
    """

    def __init__(
        self,
        terms: Terms,
        books: Books,
        reserved: frozenset[bytes],
        on_lease: Callable[[Entry], None],
        on_end: Callable[[Entry], None],
    ) -> None:
        self.ignored: Counter[str] = Counter()
        self._terms = terms
        self._books = books
        self._reserved = reserved
        self._on_lease = on_lease
        self._on_end = on_end
        self._parameters = terms.parameters()
        self._revoked: set[bytes] = set()

    @property
    def next_due(self) -> float:
        """When to call `expire`; infinity for not at all."""
        return self._books.next_due

    def answer(self, data: bytes, source: IPv4Address, now: float) -> Answer | None:
        """Take a datagram, and return what it is answered with.

        Args:
            data: Any bytes.
            source: Whom it came from.
            now: The clock of the books.
        """
        self.expire(now)
        try:
            request = _parse(data)
            return self._on(request, source, now)
        except _IgnoredError as reason:
            self.ignored[reason.cause.value] += 1
        return None

    def expire(self, now: float) -> None:
        """End the leases whose time is over."""
        for entry in self._books.expire(now):
            self._on_end(entry)

    def revoke(self, entry: Entry) -> None:
        """End a lease; its client is told when it asks for more time."""
        self._on_end(entry)
        self._revoked.add(entry.key)
        self._books.forget(entry)

    def _on(self, request: Message, source: IPv4Address, now: float) -> Answer | None:
        kind = request.type
        if kind is MessageType.DISCOVER:
            return self._on_discover(request, now)
        if kind is MessageType.REQUEST:
            return self._on_request(request, now)
        if kind is MessageType.INFORM:
            return self._on_inform(request, source)
        if kind is MessageType.DECLINE:
            self._on_decline(request, now)
        elif kind is MessageType.RELEASE:
            self._on_release(request, now)
        else:
            raise _IgnoredError(Cause.NOT_A_CLIENTS)
        return None

    def _on_discover(self, request: Message, now: float) -> Answer:
        key = self._key(request)
        address = self._books.choose(key, request.address(Option.REQUESTED_ADDRESS))
        if address is None:
            raise _IgnoredError(Cause.NO_ADDRESS_LEFT)
        self._books.offer(key, address, now)
        return self._grant(request, MessageType.OFFER, address)

    def _on_request(self, request: Message, now: float) -> Answer:
        key = self._key(request)
        selecting = Option.SERVER in request.options
        if selecting and request.address(Option.SERVER) != self._terms.own.ip:
            self._withdraw(key, now)
            raise _IgnoredError(Cause.FOR_ANOTHER_SERVER)
        asked = request.address(Option.REQUESTED_ADDRESS)
        address = asked if request.client == _NOBODY else request.client
        if address is None:
            raise _IgnoredError(Cause.NO_ADDRESS_IN_IT)
        if key in self._revoked and not selecting:
            return self._refuse(request, "the lease was revoked")
        if why := self._objection(key, address, selecting=selecting):
            return self._refuse(request, why)
        self._revoked.discard(key)
        return self._lease(request, key, address, now)

    def _objection(self, key: bytes, address: IPv4Address, *, selecting: bool) -> str:
        """Return why a client cannot have an address; nothing if it can."""
        if address not in self._terms.own.network:
            return f"{address} is not in {self._terms.own.network}"
        known = self._books.of(key)
        if known is not None and known.standing is not Standing.FREE:
            if known.address != address:
                return f"{known.address} is yours, not {address}"
            return ""
        if self._books.may_have(key, address):
            return ""
        entry = self._books.at(address)
        if not selecting and (entry is None or entry.standing is Standing.FREE):
            # Not ours to give: perhaps another server's. RFC 2131 section 4.3.2 has us
            # be silent about it.
            raise _IgnoredError(Cause.UNKNOWN_ADDRESS)
        return f"{address} is not to be had"

    def _lease(
        self, request: Message, key: bytes, address: IPv4Address, now: float
    ) -> Answer:
        seconds = self._terms.seconds
        until = math.inf if seconds is None else now + seconds
        entry = self._books.lease(key, address, until)
        entry.mac = request.mac
        entry.client_id = request.options.get(Option.CLIENT_ID)
        entry.name = self._name(request)
        self._on_lease(entry)
        return self._grant(request, MessageType.ACK, address)

    def _on_inform(self, request: Message, source: IPv4Address) -> Answer:
        # Nobody shall have us send to somebody else.
        if request.client != source or source not in self._terms.own.network:
            raise _IgnoredError(Cause.INFORM_FROM_ELSEWHERE)
        reply = self._reply(request, MessageType.ACK, self._chosen(request))
        return Answer(reply.pack(), source)

    def _on_decline(self, request: Message, now: float) -> None:
        entry = self._own_entry(request, request.address(Option.REQUESTED_ADDRESS))
        if entry.standing is Standing.LEASED:
            self._on_end(entry)
        self._books.decline(entry, now)

    def _on_release(self, request: Message, now: float) -> None:
        entry = self._own_entry(request, request.client)
        if entry.standing is not Standing.LEASED:
            raise _IgnoredError(Cause.OF_NO_LEASE)
        self._on_end(entry)
        self._books.free(entry, now)

    def _own_entry(self, request: Message, address: IPv4Address | None) -> Entry:
        """Return the entry of the address that a client does not want any more."""
        if request.address(Option.SERVER) != self._terms.own.ip:
            raise _IgnoredError(Cause.FOR_ANOTHER_SERVER)
        entry = self._books.of(self._key(request))
        if entry is None or entry.address != address:
            raise _IgnoredError(Cause.OF_NO_LEASE)
        return entry

    def _withdraw(self, key: bytes, now: float) -> None:
        """Have others have what a client was offered: it took another server's."""
        entry = self._books.of(key)
        if entry is not None and entry.standing is Standing.OFFERED:
            self._books.free(entry, now)

    def _key(self, request: Message) -> bytes:
        """Return what tells a client from others; RFC 2131 section 4.2."""
        by_mac = b"\1" + request.mac
        client_id = request.options.get(Option.CLIENT_ID)
        if client_id not in self._reserved and by_mac in self._reserved:
            return by_mac
        return client_id or by_mac

    # Messages

    def _grant(
        self, request: Message, kind: MessageType, address: IPv4Address
    ) -> Answer:
        seconds = self._terms.seconds
        lease = _FOREVER if seconds is None else seconds
        options: dict[int, bytes] = {Option.LEASE_TIME: lease.to_bytes(4, "big")}
        options |= self._chosen(request)
        reply = replace(self._reply(request, kind, options), yours=address)
        # One that has the address already (it wants more time) can be sent to.
        to = None if request.client == _NOBODY else address
        return Answer(reply.pack(), to)

    def _refuse(self, request: Message, why: str) -> Answer:
        reply = self._reply(
            request, MessageType.NAK, {Option.MESSAGE: why.encode("ascii", "replace")}
        )
        # To everybody: the client shall not have that address.
        return Answer(replace(reply, client=_NOBODY).pack(), None)

    def _reply(
        self, request: Message, kind: MessageType, options: Mapping[int, bytes]
    ) -> Message:
        whole: dict[int, bytes] = {
            Option.MESSAGE_TYPE: bytes([kind]),
            Option.SERVER: self._terms.own.ip.packed,
        }
        if client_id := request.options.get(Option.CLIENT_ID):
            whole[Option.CLIENT_ID] = client_id
        reply = Message(
            REPLY,
            request.xid,
            request.mac,
            {**whole, **options},
            flags=request.flags & BROADCAST,
            client=request.client,
        )
        return _shortened(reply, len(whole) + 1, request)

    def _chosen(self, request: Message) -> dict[int, bytes]:
        """Return the options that a client gets; those that it asks for, if it does."""
        asked = request.options.get(Option.PARAMETERS)
        chosen: dict[int, bytes] = {}
        if (name := request.client_name) is not None:
            full = self._full(name.name) if name.name else ""
            chosen[Option.CLIENT_NAME] = ClientName(
                full,
                # What the client wants of the DNS is what happens.
                server_adds=name.server_adds and not name.nobody_adds,
                nobody_adds=name.nobody_adds,
                encoded=name.encoded,
            ).pack(code=255)
        return chosen | {
            option: value
            for option, value in self._parameters.items()
            if asked is None or option in asked
        }

    def _name(self, request: Message) -> str | None:
        told = request.client_name
        name = told.name if told is not None and told.name else request.host_name
        return None if not name else self._full(name).lower()

    def _full(self, name: str) -> str:
        """Return a name with our domain, if it has none."""
        if "." in name or not self._terms.domains:
            return name
        full = f"{name}.{self._terms.domains[0]}"
        return full if len(full) <= _LONGEST_NAME else name


def _parse(data: bytes) -> Message:
    try:
        request = Message.parse(data)
    except ValueError:
        raise _IgnoredError(Cause.MALFORMED) from None
    if request.op != REQUEST:
        raise _IgnoredError(Cause.NOT_A_REQUEST)
    if request.hardware != ETHERNET or len(request.mac) != 6:
        raise _IgnoredError(Cause.NOT_ETHERNET)
    if request.relay != _NOBODY:
        raise _IgnoredError(Cause.RELAYED)
    if len(request.options.get(Option.CLIENT_ID, b"")) > _LONGEST_ID:
        raise _IgnoredError(Cause.MALFORMED)
    return request


def _shortened(reply: Message, least: int, request: Message) -> Message:
    """Return a message without its last options, if the client cannot take it whole."""
    told = request.number(Option.MAX_SIZE, 2) or 0
    room = min(max(told, _LEAST_PACKET), _MOST_PACKET) - _HEADERS
    options = list(reply.options.items())
    while len(options) > least and len(reply.pack()) > room:
        options.pop()
        reply = replace(reply, options=dict(options))
    return reply
