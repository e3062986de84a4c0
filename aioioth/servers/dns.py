"""A DNS server on a stack, for tests and small networks.

``async with DnsServer(stack, hosts={"db.lab": "10.0.0.5"}):`` answers on all addresses
of the stack. It knows a table of hosts that may change while it runs, records of any
type, and zones in which every name has an address that is made of it; it asks other
servers about other names, and remembers what they say. Faults can be put in: a server
that is slow, silent or wrong when a test wants it to be.

It is the iothnamed of the Internet of Threads. It does not know DNSSEC, transfers of
zones, or dynamic updates.

This module takes half a second to import, for dnspython does, so ``import aioioth``
does not import it.

Source: RFC 1034, 1035, 2181, 2308, 4592, 5452, 6891, 7766, 8482; VirtualSquare's
iothnamed for hash zones and their options.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from typing_extensions import override

from aioioth._background import carried_call
from aioioth._hosts import HostAddresses, Hosts, as_hosts, check_address, listed
from aioioth._ip import IPAddress
from aioioth._listening import bind_all
from aioioth._said import number
from aioioth.errors import ConfigurationError
from aioioth.servers._dns import udp
from aioioth.servers._dns.access import Access, Service
from aioioth.servers._dns.answering import Answerer
from aioioth.servers._dns.cache import Cache
from aioioth.servers._dns.faults import DnsFault, Faults
from aioioth.servers._dns.forwarding import Forwarder
from aioioth.servers._dns.hash import HashBase, HashZone, HashZones, Reverse
from aioioth.servers._dns.service import Counts, DnsService, Waiting
from aioioth.servers._dns.static import HostTable, Records
from aioioth.servers._dns.tcp import TcpPort
from aioioth.servers._dns.zonefile import parse_records
from aioioth.servers._dns.zones import Zones
from aioioth.servers._server import Server

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from aioioth._receiver import Datagram
    from aioioth.names import AddressInfo
    from aioioth.stack import Stack

__all__ = ["DnsFault", "DnsServer", "DnsStats", "HashZone"]

_Address = str | IPAddress
_LONGEST_TTL = 2**31 - 1  # RFC 2181 section 8


@dataclass(frozen=True)
class DnsStats:
    """What a server has done so far.

    Attributes:
        queries: That were understood, by type of record: ``{"A": 3, "AAAA": 2}``.
        answers: By what they said: ``{"NOERROR": 4, "NXDOMAIN": 1}``.
        ignored: What got no answer, by cause: ``short`` or ``response``, which are no
            queries; ``group``, sent to a multicast or broadcast address; ``fault``, on
            purpose; ``send``, the kernel did not take it; ``connections``, too many.
            ``overload``, too many that wait, were answered with SERVFAIL.
        forwarded: What others were asked: ``questions``, and how many of those got
            ``answers`` or stayed ``unanswered``; and of single tries, ``timeouts``,
            ``errors`` of the network, and ``failures`` that the others told of.
    """

    queries: Mapping[str, int]
    answers: Mapping[str, int]
    ignored: Mapping[str, int]
    forwarded: Mapping[str, int]


class DnsServer(Server):
    """Answers DNS queries on a stack, over UDP and TCP.

    Where a name is looked for, in this order:

    1. ``hosts``, ``localhost``, and ``records``: a name that is there has what is there
       and nothing else, but for the AAAA record that a hash zone gives it.
    2. The zones that begin with a SOA record in ``records``: all other names in them do
       not exist, unless there is a wildcard. A wildcard may stand outside of zones.
    3. ``hash_zones``: all names below such a domain have an AAAA record, and only that.
       Of two zones, one in the other, the inner one answers.
    4. The other servers, ``forward``, or what they said before. Without such servers,
       a name that nobody knows does not exist: there is no outside.

    Aliases (CNAME) are followed through all of this. Names are compared without case,
    and come back as they were written. What is asked for with "any type" gets one set
    of records at most.

    Args:
        stack: Where it listens.
        address: Addresses of the stack to listen on, text or `ipaddress` objects; None:
            on all, and answers come from the one that was asked.
        port: For UDP and TCP.
        hosts: Names and their addresses. A `aioioth.names.Hosts` is used as it is, and
            may be changed at any time; a mapping is copied. Addresses have their names
            back (PTR).
        records: Lines of a zone file, as ``db.example. 60 IN A 10.0.0.5``, with
            ``$ORIGIN`` and ``$TTL``. Names are complete with or without a dot at the
            end, unless there is a ``$ORIGIN``.
        hash_zones: Domains, and how addresses are made of the names below them; a text
            like ``"fd00::/64"``, or a network of `ipaddress`, stands for a `HashZone`
            without a password. Names count in lower case.
        reverse: Whose questions for hash addresses teach the names for reverse lookups:
            ``always`` everybody's; ``net``, those from the address's own /64; ``same``,
            only those from that address; ``never``. One-time addresses have no names.
        forward: Addresses of other name servers, asked one after the other.
        forward_on: The stack to ask them from; None: the same one.
        forward_timeout: Seconds that each of them has to answer; each is asked twice.
        cache: Whether to remember what they say, for as long as they say.
        access: Which networks may have what: ``{"10.0.0.0/24": {"static", "cache"}}``.
            The services are ``static`` (hosts and records), ``hash``, ``reverse`` (of
            hash addresses), ``otip``, ``cache`` and ``forward``. The smallest network
            that a client is in counts. What he may not have is REFUSED, and so is
            everything to clients in no network. None: everybody may have everything.
        ttl: Seconds that clients may remember what is in ``hosts``, a hash zone, or
            not there at all; also for ``records`` that do not say. With 0 each change
            is seen at once.

    Raises:
        ConfigurationError: An argument cannot be right; for ``records``, the message
            has the line.
    """

    def __init__(  # noqa: PLR0913  (one keyword for each thing that can be chosen)
        self,
        stack: Stack,
        *,
        address: _Address | Sequence[_Address] | None = None,
        port: int = 53,
        hosts: Hosts | Mapping[str, HostAddresses] | None = None,
        records: str = "",
        hash_zones: Mapping[str, HashZone | HashBase] | None = None,
        reverse: Reverse = "always",
        forward: _Address | Sequence[_Address] = (),
        forward_on: Stack | None = None,
        forward_timeout: float = 2.0,
        cache: bool = True,
        access: Mapping[str, Collection[Service]] | None = None,
        ttl: int = 0,
    ) -> None:
        super().__init__(stack)
        _check_numbers(port, forward_timeout, ttl)
        self._addresses = _addresses("address", address)
        self._port = port
        self._hosts = as_hosts(hosts)
        self._zones = Zones(
            HostTable(self._hosts, ttl),
            Records(parse_records(records, ttl)),
            HashZones(hash_zones or {}, reverse, ttl),
            ttl,
        )
        self._access = Access(access)
        self._servers = _addresses("forward", forward)
        self._forward_on = stack if forward_on is None else forward_on
        self._forward_timeout = forward_timeout
        self._cache = Cache() if cache else None
        self._faults = Faults()
        self._counts = Counts()

    @property
    def hosts(self) -> Hosts:
        """The table of names and addresses; may be changed at any time."""
        return self._hosts

    @property
    def faults(self) -> tuple[DnsFault, ...]:
        """What goes wrong on purpose, and is not over yet."""
        return self._faults.faults

    def add_fault(self, fault: DnsFault) -> None:
        """Have something go wrong from now on; with an equal fault, from anew.

        Of several that are about a query, the oldest one happens.
        """
        self._faults.add(fault)

    def remove_fault(self, fault: DnsFault) -> None:
        """Have it go right again. Idempotent."""
        self._faults.remove(fault)

    @property
    def stats(self) -> DnsStats:
        """What was asked and answered so far."""
        return DnsStats(
            **{name: dict(each) for name, each in vars(self._counts).items()}
        )

    @carried_call
    def forget(self) -> None:
        """Empty the cache: other servers are asked anew."""
        if self._cache is not None:
            self._cache.clear()

    @override
    def __str__(self) -> str:
        return f"DNS server on {self._stack}"

    @override
    async def _start(self) -> None:
        service = self._service()
        wanted = await self._wanted()
        sockets = bind_all(self._stack, wanted, {})
        for sock in sockets:
            self._at_end(sock.close)
        if self._addresses and len(sockets) < len(wanted):
            # From Python 3.13 on, what the stack does not have is passed over.
            msg = f"{self._stack} has not all of the addresses to listen on"
            raise OSError(errno.EADDRNOTAVAIL, msg)
        for sock in sockets:
            udp.ask_for_destinations(sock)
            self._listen(sock, partial(self._take, service, sock))
        tcp = TcpPort(service, self._counts.ignored, self._spawn)
        self._at_end(tcp.close)
        hosts = [str(each) for each in self._addresses] or None
        server = await self._stack.start_server(tcp.connected, hosts, self._port)
        self._at_end(server.close)

    def _service(self) -> DnsService:
        answerer = Answerer(
            self._zones, self._cache, self._access, forwards=bool(self._servers)
        )
        forwarder = Forwarder(
            self._forward_on,
            self._servers,
            self._forward_timeout,
            is_own=self._is_own,
            counts=self._counts.forwarded,
        )
        return DnsService(
            answerer,
            forwarder,
            faults=self._faults,
            counts=self._counts,
            spawn=self._spawn,
        )

    async def _wanted(self) -> list[AddressInfo]:
        """Return the socket addresses to have UDP on."""
        hosts: list[str | None] = [str(each) for each in self._addresses] or [None]
        return [
            info
            for host in hosts
            for info in await self._stack.getaddrinfo(
                host, self._port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE
            )
        ]

    def _is_own(self, address: IPAddress) -> bool:
        """Whether this server is at an address of its stack, port 53."""
        if self._port != 53 or self._forward_on is not self._stack:
            return False
        return (
            not self._addresses
            or address in self._addresses
            or any(each.is_unspecified for each in self._addresses)
        )

    def _take(
        self, service: DnsService, sock: socket.socket, datagram: Datagram
    ) -> None:
        ancillary = udp.answering_from(datagram)
        if ancillary is None:
            self._counts.ignored["group"] += 1
            return

        def reply(wire: bytes) -> None:
            try:
                sock.sendmsg([wire], ancillary, 0, datagram.source)
            except OSError:  # no room, no route, port 0
                self._counts.ignored["send"] += 1

        async def reply_later(waiting: Waiting) -> None:
            reply(await service.finish(waiting))

        client = udp.address_of(datagram.source)
        outcome = service.begin(datagram.data, client, over_tcp=False)
        if isinstance(outcome, Waiting):
            self._spawn(reply_later(outcome), "DNS over UDP")
        elif outcome is not None:
            reply(outcome)


def _addresses(keyword: str, value: object) -> list[IPAddress]:
    """Return addresses, each once."""
    return list(dict.fromkeys(check_address(keyword, each) for each in listed(value)))


def _check_numbers(port: int, forward_timeout: object, ttl: int) -> None:
    number("port", port, 1, 65535)
    number("ttl", ttl, 0, _LONGEST_TTL)
    seconds = forward_timeout if isinstance(forward_timeout, (int, float)) else 0
    if not 0 < seconds < float("inf"):
        msg = f"forward_timeout={forward_timeout!r}: expected seconds"
        raise ConfigurationError(msg)
