"""What a name server was told: records, and a table of hosts.

Source: RFC 1034 section 4.3.2 (zones, delegations), RFC 4592 (wildcards), RFC 6761
section 6.3 (localhost).
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import dns.exception
import dns.rdatatype
import dns.reversename
from dns.name import Name

from aioioth import _names
from aioioth.servers._dns.answer import (
    Answer,
    Labels,
    Node,
    Question,
    labels_of,
    negative,
    records,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dns.rrset import RRset

    from aioioth._hosts import Hosts
    from aioioth._ip import IPAddress

_A = dns.rdatatype.A
_AAAA = dns.rdatatype.AAAA
_NS = dns.rdatatype.NS
_SOA = dns.rdatatype.SOA

# Where addresses have their names (RFC 1035 section 3.5, RFC 3596 section 2.5).
_IPV4: Labels = (b"in-addr", b"arpa", b"")
_IPV6: Labels = (b"ip6", b"arpa", b"")


class Records:
    """Records of any type; a zone begins where there is a SOA record.

    Args:
        rrsets: Each name and type at most once.
    """

    def __init__(self, rrsets: Iterable[RRset]) -> None:
        self._nodes: dict[Labels, Node] = {}
        self._above: set[Labels] = set()  # names that have something below them
        for rrset in rrsets:
            labels = labels_of(rrset.name)
            self._nodes.setdefault(labels, {})[rrset.rdtype] = rrset
            self._above.update(labels[i:] for i in range(1, len(labels)))

    def node(self, labels: Labels) -> Node:
        """Return what a name has itself."""
        return self._nodes.get(labels, {})

    def is_there(self, labels: Labels) -> bool:
        """Whether there are records of a name, or of one below it."""
        return labels in self._nodes or labels in self._above

    def apex(self, labels: Labels) -> Labels | None:
        """Return the name of the zone that a name is in; None if it is in none."""
        for i in range(len(labels)):
            if _SOA in self._nodes.get(labels[i:], ()):
                return labels[i:]
        return None

    def soa(self, apex: Labels) -> RRset:
        """Return a zone's SOA record, to go with the answer that there is nothing."""
        return negative(self._nodes[apex][_SOA])

    def referral(self, labels: Labels, apex: Labels) -> Answer | None:
        """Return who knows more about a name; None if nobody does."""
        for i in range(len(labels) - len(apex) - 1, -1, -1):
            servers = self._nodes.get(labels[i:], {}).get(_NS)
            if servers is not None:
                glue = [
                    rrset
                    for server in servers
                    for rrset in self.node(labels_of(server.target)).values()
                    if rrset.rdtype in {_A, _AAAA}
                ]
                return Answer(authority=[servers], additional=glue, authoritative=False)
        return None

    def wildcard(self, labels: Labels, apex: Labels) -> tuple[Node, Labels]:
        """Return what stands for a name that is not there; an empty node if nothing.

        Only what is right below the closest name that is there (RFC 4592 section
        3.3.1). The other half of the result is a name that must not be there either.

        Args:
            labels: The name.
            apex: Of its zone.
        """
        for i in range(len(labels) - len(apex)):
            if self.is_there(labels[i:]):
                break
            if node := self.node((b"*", *labels[i + 1 :])):
                return node, labels[i:]
        return {}, labels


class HostTable:
    """A table of hosts as records: A, AAAA, and PTR for the addresses.

    Args:
        hosts: May change at any time.
        ttl: In seconds.
    """

    def __init__(self, hosts: Hosts, ttl: int) -> None:
        self._hosts = hosts
        self._ttl = ttl

    def node(self, question: Question) -> Node:
        """Return what a name has; empty if it is not in the table."""
        text = question.name.to_text(omit_final_dot=True)
        addresses = _names.loopback(text)
        if not addresses and text in self._hosts:
            addresses = self._hosts[text]
        if addresses:
            return self._forward(question.name, addresses)
        address = reversed_address(question.name)
        if address is None:
            return {}
        loopback = address in _names.LOOPBACKS
        name = "localhost" if loopback else self._hosts.name_of(address)
        return {} if name is None else pointer(question.name, name, self._ttl)

    def is_there(self, labels: Labels) -> bool:
        """Whether there is a host of a name, or of one below it."""
        if len(labels) == 1 or _is_above_addresses(labels):
            return True  # localhost, and its addresses
        text = Name(labels).to_text(omit_final_dot=True).lower()
        below = "." + text
        return any(each == text or each.endswith(below) for each in self._hosts)

    def _forward(self, name: Name, addresses: Iterable[IPAddress]) -> Node:
        node: Node = {}
        for rdtype, version in (_A, 4), (_AAAA, 6):
            # What is behind a % is of no use to others.
            of_type = [
                str(each).partition("%")[0]
                for each in addresses
                if each.version == version
            ]
            if of_type:
                node[rdtype] = records(name, self._ttl, rdtype, *of_type)
        return node


def _is_above_addresses(labels: Labels) -> bool:
    """Whether the names of addresses, 5.0.0.10.in-addr.arpa, are below a name."""
    if labels[-3:] == _IPV4:
        return len(labels) < len(_IPV4) + 4
    if labels[-3:] == _IPV6:
        return len(labels) < len(_IPV6) + 32
    return labels == _IPV4[1:]


def pointer(owner: Name, name: str, ttl: int) -> Node:
    """Return what the name of an address has: its host's name."""
    rrset = records(owner, ttl, dns.rdatatype.PTR, f"{name}.")
    return {dns.rdatatype.PTR: rrset}


def reversed_address(name: Name) -> IPAddress | None:
    """Return which address is asked about; None if it is none."""
    try:
        return ipaddress.ip_address(dns.reversename.to_address(name))
    except (dns.exception.DNSException, ValueError):
        return None
