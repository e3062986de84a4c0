"""All that a name server knows itself, in the order in which it is looked at."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import dns.name
import dns.rcode
import dns.rdatatype

from aioioth.servers._dns.answer import (
    Answer,
    Question,
    at_node,
    failure,
    made_up_soa,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from dns.rrset import RRset

    from aioioth._ip import IPAddress
    from aioioth.servers._dns.access import Services
    from aioioth.servers._dns.answer import Labels, Node
    from aioioth.servers._dns.hash import HashZones
    from aioioth.servers._dns.static import HostTable, Records

_ROOT: Labels = (b"",)


class Zones:
    """Records, hosts and hash addresses together.

    Args:
        hosts: For their names they win over records of the same type.
        records: Of any type.
        hashed: For names that have no AAAA record otherwise.
        ttl: In seconds, of "there is nothing" where no zone says it.
    """

    def __init__(
        self, hosts: HostTable, records: Records, hashed: HashZones, ttl: int
    ) -> None:
        self._hosts = hosts
        self._records = records
        self._hashed = hashed
        self._ttl = ttl

    def look_up(
        self, question: Question, client: IPAddress, services: Services
    ) -> Answer | None:
        """Return what we know; None if it is not for us to know.

        Args:
            question: What is asked.
            client: Who asks.
            services: What he may have.
        """
        found = self._find(question, client)
        if found is None:
            return None
        needed, answer = found
        return answer() if needed in services else failure(dns.rcode.REFUSED)

    def _find(
        self, question: Question, client: IPAddress
    ) -> tuple[str, Callable[[], Answer]] | None:
        """Return which service the answer is, and what makes it."""
        labels = question.labels
        hosts = self._hosts.node(question)
        apex = self._records.apex(labels)
        if apex is not None and not hosts:
            referral = self._records.referral(labels, apex)
            if referral is not None:
                return "static", lambda: referral
        node = {**self._records.node(labels), **hosts}
        if hosts:
            node.pop(dns.rdatatype.CNAME, None)
        domain = self._hash_domain(labels, apex, node)
        if domain is not None:
            static = question.rdtype in node
            needed = "static" if static else self._hashed.service(domain)
            return needed, partial(self._hash_answer, question, client, domain, node)
        soa = self._soa(question, apex)
        if not node and (learned := self._hashed.pointer(question)):
            return "reverse", partial(at_node, learned, question, soa)
        if node := node or self._wildcard(labels, apex):
            return "static", partial(at_node, node, question, soa)
        if apex is not None:
            return "static", lambda: self._nothing(labels, soa)
        return None

    def nobody(self, question: Question) -> Answer:
        """Return what to say of a name that nobody knows."""
        soa = made_up_soa(dns.name.root, self._ttl)
        return replace(self._nothing(question.labels, soa), authoritative=False)

    def _wildcard(self, labels: Labels, apex: Labels | None) -> Node:
        """Return what stands for a name without records; empty if nothing does."""
        node, nothing = self._records.wildcard(labels, apex or _ROOT)
        return {} if node and self._hosts.is_there(nothing) else node

    def _nothing(self, labels: Labels, soa: RRset) -> Answer:
        # That there is no "b" would mean for some resolvers that there is no "a.b".
        rcode = dns.rcode.NOERROR if self._is_there(labels) else dns.rcode.NXDOMAIN
        return Answer(rcode, authority=[soa])

    def _is_there(self, labels: Labels) -> bool:
        return self._records.is_there(labels) or self._hosts.is_there(labels)

    def _hash_domain(
        self, labels: Labels, apex: Labels | None, node: Node
    ) -> Labels | None:
        """Return the hash zone that has to answer for a name, if one has to."""
        domain = self._hashed.domain(labels)
        if domain is None or {dns.rdatatype.AAAA, dns.rdatatype.CNAME} & set(node):
            return None
        if apex is not None and len(apex) > len(domain):
            return None
        return domain

    def _hash_answer(
        self, question: Question, client: IPAddress, domain: Labels, node: Node
    ) -> Answer:
        both = {**self._hashed.node(question, domain, client), **node}
        return at_node(both, question, self._hashed.soa(domain))

    def _soa(self, question: Question, apex: Labels | None) -> RRset:
        if apex is not None:
            return self._records.soa(apex)
        # A name of its own is a zone of its own.
        return made_up_soa(question.name, self._ttl)
