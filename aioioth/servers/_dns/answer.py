"""What a name server asks itself, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

if TYPE_CHECKING:
    from dns.name import Name
    from dns.rcode import Rcode
    from dns.rdatatype import RdataType
    from dns.rrset import RRset

# A name's labels, lower case, the root's empty one last. dnspython's names compare and
# hash themselves letter by letter in Python, and a question can have 127 parents.
Labels = tuple[bytes, ...]

# What one name has.
Node = dict["RdataType", "RRset"]

_CHAIN = 16  # as many as dnspython follows in others' answers


def labels_of(name: Name) -> Labels:
    """Return what a name is compared by."""
    return tuple(label.lower() for label in name.labels)


@dataclass(frozen=True)
class Question:
    """A name and a type.

    Attributes:
        name: As it was written.
        labels: As it is compared.
        rdtype: Type of the wanted records; perhaps ANY.
    """

    name: Name
    labels: Labels
    rdtype: RdataType

    @classmethod
    def about(cls, name: Name, rdtype: RdataType) -> Question:
        """Return the question for a name's records of a type."""
        return cls(name, labels_of(name), rdtype)


@dataclass
class Answer:
    """What there is to say about a question.

    Attributes:
        rcode: Whether there is the name, or what is wrong.
        answer: The wanted records, aliases on the way to them first.
        authority: The zone's SOA if there are none; or who knows more.
        additional: Addresses of those who know more.
        authoritative: Whether what it says of the name is first-hand; of the first
            one, if there are aliases (RFC 1035 section 4.1.1).
        alias: What the name stands for, and still has to be asked for.
    """

    rcode: Rcode = dns.rcode.NOERROR
    answer: list[RRset] = field(default_factory=list)
    authority: list[RRset] = field(default_factory=list)
    additional: list[RRset] = field(default_factory=list)
    authoritative: bool = True
    alias: Name | None = None

    def then(self, found: Answer) -> Answer:
        """Return these aliases, and what was found about the last one's target."""
        if not self.answer:
            return found
        return replace(
            found,
            answer=[*self.answer, *found.answer],
            authoritative=self.authoritative,
        )

    @property
    def is_too_long(self) -> bool:
        """Whether aliases have been followed for long enough."""
        return len(self.answer) >= _CHAIN


def failure(rcode: Rcode) -> Answer:
    """Return the answer that there is none."""
    return Answer(rcode, authoritative=False)


def at_node(node: Node, question: Question, soa: RRset) -> Answer:
    """Return what a name that exists has to say.

    Args:
        node: What the name has.
        question: Its name becomes the records' owner.
        soa: Goes with the answer that there is nothing of the wanted type.
    """
    wanted = question.rdtype
    if wanted == dns.rdatatype.ANY and node:
        # As little as possible (RFC 8482 section 4.1).
        return Answer(answer=[owned(next(iter(node.values())), question.name)])
    rrset = node.get(wanted)
    if rrset is not None:
        return Answer(answer=[owned(rrset, question.name)])
    alias = node.get(dns.rdatatype.CNAME)
    if alias is not None:
        target: Name = alias[0].target
        return Answer(answer=[owned(alias, question.name)], alias=target)
    return Answer(authority=[soa])


def owned(rrset: RRset, name: Name) -> RRset:
    """Return a set of records as another name's; for wildcards, and for its case."""
    return dns.rrset.from_rdata_list(name, rrset.ttl, list(rrset))


def timed(rrset: RRset, ttl: int) -> RRset:
    """Return a set of records with another TTL."""
    return dns.rrset.from_rdata_list(rrset.name, ttl, list(rrset))


def records(name: Name, ttl: int, rdtype: RdataType, *values: str) -> RRset:
    """Return values of one type, as in zone files, as a name's records."""
    return dns.rrset.from_text(name, ttl, dns.rdataclass.IN, rdtype, *values)


def made_up_soa(name: Name, ttl: int) -> RRset:
    """Return a SOA record for what has none, so that "there is nothing" has a TTL."""
    value = f"{name} . 1 3600 600 86400 {ttl}"
    return records(name, ttl, dns.rdatatype.SOA, value)


def negative(soa: RRset) -> RRset:
    """Return a SOA record as it goes with "there is nothing".

    Source: RFC 2308 section 3.
    """
    return timed(soa, min(soa.ttl, soa[0].minimum))
