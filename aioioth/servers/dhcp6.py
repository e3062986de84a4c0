"""A DHCPv6 server for test and small networks.

``async with Dhcp6Server(stack):`` gives addresses to all who ask on the stack's
interface, as long as the block runs. That there is a DHCPv6 server, and what is on the
link, is for a router to tell: see `aioioth.servers.ra`.

Source: RFC 8415; RFC 3646 (DNS); RFC 4704 (names of clients).
"""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Interface, IPv6Network
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from aioioth import _listing
from aioioth._background import carried_call
from aioioth._hosts import check_domain, listed
from aioioth.errors import ConfigurationError
from aioioth.servers._dhcp6_answers import Answers, Terms
from aioioth.servers._dhcp6_bindings import Bindings, Pool
from aioioth.servers._dhcp6_settings import (
    check_addresses,
    check_lifetimes,
    check_number_of,
    parse_pool,
    parse_prefixes,
    parse_reservations,
)
from aioioth.servers._leasing import LeaseServer
from aioioth.wire.dhcp6 import CLIENT_PORT, SERVER_PORT, SERVERS, duid_of, mac_in
from aioioth.wire.ethernet import packed_mac

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aioioth._ip import IPAddress
    from aioioth._receiver import Datagram
    from aioioth.servers._dhcp6_bindings import Binding
    from aioioth.stack import Stack

__all__ = ["Dhcp6Server", "Lease6"]

# struct in6_pktinfo and struct ipv6_mreq, <linux/ipv6.h> and <linux/in6.h>, Linux 6.1.
_PKTINFO: Final = struct.Struct("=16sI")
_GROUP: Final = struct.Struct("=16sI")

# Of the interface's own network: not where people put addresses by hand.
_FIRST_OF_OWN, _COUNT_OF_OWN = 0x1_0000, 0x1_0000


@dataclass(frozen=True)
class Lease6:
    """An address or a prefix, and the client that has it.

    Attributes:
        address: The client's; of a prefix, the first one.
        prefix: The network that is the client's to give to others; None if it has an
            address.
        duid: What the client calls itself, in hexadecimal digits.
        iaid: Its number for the interface.
        mac: Its MAC address, as ``02:00:00:00:00:01``; None if its DUID was not made of
            one. Of several interfaces it need not be the one that asked.
        name: In lower case, with the server's domain if it came without one; None if
            the client has none. Nobody has checked that it is the client's.
        expires: When it ends, by the event loop's clock (`asyncio.loop.time`), if the
            client does not come back before; infinity for never.
    """

    address: IPv6Address
    prefix: IPv6Network | None
    duid: str
    iaid: int
    mac: str | None
    name: str | None
    expires: float


class Dhcp6Server(LeaseServer[Lease6, Answers]):
    """A DHCPv6 server on one interface of a stack.

    Use it as ``async with Dhcp6Server(stack) as server:``, or call `open` and `aclose`.
    It hears what comes to UDP port 547. Messages from relay agents are ignored: clients
    are on the same link. A client gets the same address again whenever it comes back,
    unless somebody else got it meanwhile; what clients have is forgotten when the
    server closes. There are never more than 4096 leases of addresses, and as many of
    prefixes.

    Args:
        stack: Where it listens; see also `Server`.
        dev: Name of the interface. None: the stack's first.
        pool: What is given to clients: ``fd00::100-fd00::1ff``, or a network,
            ``fd00::/64``; ``()`` for nothing, so that clients are only told about DNS.
            None: of the first of the interface's networks of 64 bits, the addresses
            ``::1:0`` to ``::1:ffff``. Addresses of the interface are never given.
        lease_time: How long an address is a client's if it does not ask for more time,
            in seconds, from 1; None for ever.
        preferred: How long clients shall use it for new connections, in seconds; it is
            renewed after half of that. None: `lease_time`.
        dns: IPv6 addresses of DNS servers.
        domain: Where clients search for names that have no dot in them.
        prefixes: Network of which parts are given to clients that are routers:
            ``fd00:1::/48``. Routes to them are not made. None for none.
        delegated_length: Of each of these parts, in bits.
        rapid_commit: Whether clients that want to get it by two messages instead of
            four.
        reservations: Addresses that always one client gets, and nobody else: by its MAC
            address, or by its DUID in hexadecimal digits.
        on_lease: Called with each lease that is new, or good for longer. This, and
            `on_end`, is called on the stack's event loop soon after, as by
            `asyncio.loop.call_soon`.
        on_end: Called with each lease that has ended: it was released, declined or
            revoked, or its time was over. Closing the server ends no lease.

    Raises:
        ConfigurationError: An argument cannot be right. What has to do with the
            interface is found when it is opened.
    """

    def __init__(  # noqa: PLR0913  (one keyword for each thing that can be chosen)
        self,
        stack: Stack,
        *,
        dev: str | None = None,
        pool: str | IPv6Network | Sequence[object] | None = None,
        lease_time: float | None = 3600,
        preferred: float | None = None,
        dns: str | IPAddress | Sequence[str | IPAddress] = (),
        domain: str | Sequence[str] = (),
        prefixes: str | IPv6Network | None = None,
        delegated_length: int = 64,
        rapid_commit: bool = True,
        reservations: Mapping[str, str | IPv6Address] | None = None,
        on_lease: Callable[[Lease6], None] | None = None,
        on_end: Callable[[Lease6], None] | None = None,
    ) -> None:
        super().__init__(stack, dev, on_lease, on_end)
        self._has_pool = pool is None or bool(pool)
        self._pool = parse_pool(pool) if pool else None
        self._valid, self._preferred = check_lifetimes(lease_time, preferred)
        self._dns = check_addresses("dns", dns)
        names = tuple(check_domain("domain", each) for each in listed(domain))
        self._domains = check_number_of("domain", names)
        self._prefixes = parse_prefixes(prefixes, delegated_length)
        self._rapid_commit = rapid_commit
        self._reserved = parse_reservations(reservations or {})
        self._bindings: tuple[Bindings, Bindings] | None = None
        self._index = 0

    @override
    def __str__(self) -> str:
        return f"DHCPv6 server on {self._stack}"

    @property
    @override
    def leases(self) -> tuple[Lease6, ...]:
        """What clients have: addresses, the lowest one first, and then prefixes.

        Those of the last time if it is closed.
        """
        if self._bindings is None:
            return ()
        return tuple(
            self._lease_of(binding, prefixes=prefixes)
            for prefixes, bindings in zip((False, True), self._bindings, strict=True)
            for binding in sorted(bindings, key=lambda each: each.address)
        )

    @carried_call
    def revoke(self, address: str | IPv6Address) -> None:
        """End a lease, as a network does that has to change its addresses.

        DHCPv6 has no message for it: when the client asks for more time, it is told
        that the address is no good any more, and has to begin anew.

        Args:
            address: The client's; of a prefix, the first one.

        Raises:
            ConfigurationError: Nobody has it; the message names those that clients
                have.
            ClosedError: The server is not open.
        """
        answers = self._opened()
        [wanted] = check_addresses("address", address)
        if not answers.revoke(wanted):
            raise self._unknown(wanted, [each.address for each in self.leases])
        self._settle()

    @override
    async def _start(self) -> None:
        place = self._find_place()
        dev, self._index = place.dev, place.index
        own = await self._own_addresses(dev)
        self._check_reserved({each.ip for each in own})
        pool = self._pool
        if pool is None and self._has_pool:
            pool = self._pool_of(own, dev)
        terms = Terms(
            duid_of(packed_mac(place.mac)),
            tuple(dict.fromkeys(each.network for each in own)),
            self._valid,
            self._preferred,
            self._dns,
            self._domains,
            self._rapid_commit,
        )
        addresses = Bindings(pool, self._reserved, [each.ip for each in own])
        self._bindings = addresses, Bindings(self._prefixes)
        answers = Answers(terms, *self._bindings)
        self._answer_with(answers, self._open_socket(dev))

    async def _own_addresses(self, dev: str) -> list[IPv6Interface]:
        return [
            each.address
            for each in await _listing.addresses(self._space(), dev)
            if isinstance(each.address, IPv6Interface)
            if not each.address.is_link_local
        ]

    def _check_reserved(self, own: set[IPv6Address]) -> None:
        for address in own & set(self._reserved.values()):
            msg = f"{self}: reservations: {address} is the interface's own"
            raise ConfigurationError(msg)

    def _pool_of(self, own: list[IPv6Interface], dev: str) -> Pool:
        for each in own:
            if each.network.prefixlen == 64:
                first = each.network.network_address + _FIRST_OF_OWN
                return Pool(first, _COUNT_OF_OWN)
        msg = (
            f"{self}: {dev} has no address in an IPv6 network of 64 bits; give it one, "
            f"ip='fd00::1/64', or say pool="
        )
        raise ConfigurationError(msg)

    def _open_socket(self, dev: str) -> socket.socket:
        sock = self._space().socket(socket.AF_INET6, socket.SOCK_DGRAM, 0)
        self._listen(sock, self._take)
        ipv6 = socket.IPPROTO_IPV6
        sock.setsockopt(ipv6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(ipv6, socket.IPV6_RECVPKTINFO, 1)
        # One server for each interface.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, dev.encode())
        sock.bind(("::", SERVER_PORT))
        group = _GROUP.pack(SERVERS.packed, self._index)
        sock.setsockopt(ipv6, socket.IPV6_JOIN_GROUP, group)
        return sock

    # From here on nothing waits

    def _take(self, datagram: Datagram) -> None:
        answers, sock = self._answers, self._sock
        if answers is None or sock is None:
            return  # between the socket's being opened and the end of it
        client = datagram.source[0].partition("%")[0]
        if not IPv6Address(client).is_link_local:
            answers.ignored["not from a link-local address"] += 1
            return
        answer = answers.answer(
            datagram.data,
            asyncio.get_running_loop().time(),
            was_multicast=_destination(datagram) == SERVERS,
        )
        if answer is not None:
            try:
                sock.sendto(answer, (client, CLIENT_PORT, 0, self._index))
            except OSError:
                # The interface is down, or its queue is full; clients ask again.
                answers.ignored["not sent"] += 1
        self._settle()

    @override
    def _settle(self) -> None:
        assert self._answers is not None, "only while it is open"
        for change in self._answers.take_changes():
            lease = self._lease_of(change.binding, prefixes=change.prefixes)
            self._call(lease, ended=change.ended)
        super()._settle()

    def _lease_of(self, binding: Binding, *, prefixes: bool) -> Lease6:
        prefix = None
        if prefixes:
            assert self._prefixes is not None, "or there would be no lease of them"
            prefix = self._prefixes.network(binding.address)
        duid, iaid = binding.key
        mac = mac_in(duid)
        return Lease6(
            binding.address,
            prefix,
            duid.hex(),
            iaid,
            None if mac is None else mac.hex(":"),
            binding.name,
            binding.until,
        )


def _destination(datagram: Datagram) -> IPv6Address | None:
    for level, kind, data in datagram.ancillary:
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            return IPv6Address(_PKTINFO.unpack(data)[0])
    return None
