"""A DHCPv4 server for test and small networks: ``Dhcp4Server(stack)``.

It gives the stacks, and everybody else, on one interface's network their addresses. It
takes itself for the only server there: a client that comes back with an address that is
free gets it again, also if the server has begun anew and never heard of it. What it
knows is in memory and ends with it.

Source: RFC 2131, RFC 2132, RFC 4702; see `aioioth.wire.dhcp4`.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from typing_extensions import override

from aioioth._background import carried_call
from aioioth._hosts import check_domain, listed
from aioioth._iproute import control_socket
from aioioth._linux.addresses import addresses
from aioioth._linux.ipv4 import ipv4_address
from aioioth.errors import ConfigurationError
from aioioth.servers._dhcp4_answers import Answers, Cause, Terms
from aioioth.servers._dhcp4_leases import Books, Standing
from aioioth.servers._dhcp4_settings import (
    check_addresses,
    check_number,
    check_reserved,
    make_pool,
    parse_pool,
    parse_reservations,
)
from aioioth.servers._leasing import LeaseServer
from aioioth.wire.dhcp4 import CLIENT_PORT, SERVER_PORT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from ipaddress import IPv4Interface, IPv4Network

    from aioioth._receiver import Datagram
    from aioioth.servers._dhcp4_leases import Entry
    from aioioth.stack import Stack

    Address = str | IPv4Address
    Addresses = Address | Sequence[Address]

__all__ = ["Dhcp4Server", "Lease"]

_MOST_SECONDS = 0xFFFFFFFE
_LEAST_MTU = 68  # RFC 2132 section 5.1

_EVERYBODY = "255.255.255.255"
# struct in_pktinfo, <linux/in.h>, Linux 6.1: interface, our address, and a third one.
_IP_PKTINFO = 8
_PKTINFO = struct.Struct("=i4s4x")


@dataclass(frozen=True)
class Lease:
    """An address, and the client that has it.

    Attributes:
        address: The client's.
        mac: Its MAC address, as ``02:00:00:00:00:01``.
        client_id: What it calls itself (option 61), at most 255 bytes; None if it does
            not. It is what tells clients from each other, before the MAC address.
        name: In lower case, with the server's domain if it came without one; None if
            the client has none. Nobody has checked that it is the client's.
        expires: When it ends, by the event loop's clock (`asyncio.loop.time`), if the
            client does not come back before; infinity for never.
    """

    address: IPv4Address
    mac: str
    client_id: bytes | None
    name: str | None
    expires: float


class Dhcp4Server(LeaseServer[Lease, Answers]):
    """A DHCPv4 server on one interface of a stack.

    Use it as ``async with Dhcp4Server(stack) as server:``, or call `open` and `aclose`.
    It hears what comes to UDP port 67. Messages from relay agents are ignored: clients
    are on the same link.

    Args:
        stack: Where it listens; see also `Server`.
        dev: Name of the interface. None: the stack's first.
        pool: What is given to clients: ``10.0.0.100-10.0.0.199``, or a network,
            ``10.0.0.128/25``. None: all of the interface's network. Never given are
            addresses of the interface itself, and those of `router` and `dns`; of a
            large one, only the first 65536 are.
        lease_time: How long an address is a client's if it does not ask for more time,
            in seconds, from 1; None for ever.
        router: What clients take for the way to everywhere else. None: this stack;
            ``()``: there is none.
        dns: Addresses of DNS servers.
        domain: Where clients search for names that have no dot in them.
        mtu: That clients shall have, in bytes. None: nothing is said.
        reservations: Addresses that always one client gets, and nobody else: by its MAC
            address, or by its client identifier as text.
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
        pool: str | IPv4Network | None = None,
        lease_time: int | None = 3600,
        router: Addresses | None = None,
        dns: Addresses = (),
        domain: str | Sequence[str] = (),
        mtu: int | None = None,
        reservations: Mapping[str, Address] | None = None,
        on_lease: Callable[[Lease], None] | None = None,
        on_end: Callable[[Lease], None] | None = None,
    ) -> None:
        super().__init__(stack, dev, on_lease, on_end)
        self._wanted_pool = None if pool is None else parse_pool(pool)
        self._seconds = check_number("lease_time", lease_time, 1, _MOST_SECONDS)
        self._router = None if router is None else check_addresses("router", router)
        self._dns = check_addresses("dns", dns)
        self._domains = tuple(check_domain("domain", each) for each in listed(domain))
        self._mtu = check_number("mtu", mtu, _LEAST_MTU, 65535)
        self._reserved = parse_reservations(reservations or {})
        self._books: Books | None = None
        self._from: bytes = b""

    @override
    def __str__(self) -> str:
        return f"DHCPv4 server on {self._stack}"

    @property
    @override
    def leases(self) -> tuple[Lease, ...]:
        """The addresses that clients have, the lowest one first.

        Those of the last time if it is closed.
        """
        entries = [] if self._books is None else self._books.leased
        return tuple(
            sorted(map(_lease_of, entries), key=lambda each: int(each.address))
        )

    @carried_call
    def revoke(self, address: Address) -> None:
        """End a lease, as a network does that has to change its addresses.

        The client is refused when it asks for more time, and has to begin anew.

        Args:
            address: The client's.

        Raises:
            ConfigurationError: Nobody has it; the message names those that clients
                have.
            ClosedError: The server is not open.
        """
        answers = self._opened()
        assert self._books is not None, "or it would not be open"
        [wanted] = check_addresses("address", address)
        entry = self._books.at(wanted)
        if entry is None or entry.standing is not Standing.LEASED:
            raise self._unknown(wanted, [each.address for each in self.leases])
        answers.revoke(entry)

    @override
    async def _start(self) -> None:
        dev = self._find_place().dev
        own = self._own_address(dev)
        terms = Terms(
            own,
            self._seconds,
            (own.ip,) if self._router is None else self._router,
            self._dns,
            self._domains,
            self._mtu,
        )
        check_reserved(terms, self._reserved)
        pool = make_pool(terms, self._wanted_pool, self._all_own())
        books = Books(pool, self._reserved)
        self._books = books
        answers = Answers(
            terms, books, frozenset(self._reserved), self._leased, self._ended
        )
        sock = self._space().socket(socket.AF_INET, socket.SOCK_DGRAM, 0)
        self._listen(sock, self._take)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, dev.encode())
        sock.bind(("", SERVER_PORT))
        # From the address that we call ourselves, if there are several.
        self._from = _PKTINFO.pack(0, own.ip.packed)
        self._answer_with(answers, sock)

    def _own_address(self, dev: str) -> IPv4Interface:
        try:
            with control_socket(self._space()) as control:
                return ipv4_address(control, dev)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            msg = f"{self}: {dev} has no IPv4 address; give it one, ip='10.0.0.1/24'"
            raise ConfigurationError(msg) from None

    def _all_own(self) -> list[IPv4Address]:
        family, protocol = socket.AF_NETLINK, socket.NETLINK_ROUTE
        with self._space().socket(family, socket.SOCK_RAW, protocol) as sock:
            found = addresses(sock)
        return [each for each in found if isinstance(each, IPv4Address)]

    # From here on nothing waits

    def _take(self, datagram: Datagram) -> None:
        assert self._answers is not None
        now = asyncio.get_running_loop().time()
        source = IPv4Address(datagram.source[0])
        answer = self._answers.answer(datagram.data, source, now)
        self._settle()
        if answer is None or self._sock is None:
            return
        to = _EVERYBODY if answer.to is None else str(answer.to)
        ancillary = [(socket.IPPROTO_IP, _IP_PKTINFO, self._from)]
        try:
            self._sock.sendmsg([answer.data], ancillary, 0, (to, CLIENT_PORT))
        except OSError:
            # The interface is down, or its queue is full; clients ask again.
            self._answers.ignored[Cause.NOT_SENT.value] += 1

    def _leased(self, entry: Entry) -> None:
        self._call(_lease_of(entry), ended=False)

    def _ended(self, entry: Entry) -> None:
        self._call(_lease_of(entry), ended=True)


def _lease_of(entry: Entry) -> Lease:
    return Lease(
        entry.address, entry.mac.hex(":"), entry.client_id, entry.name, entry.until
    )
