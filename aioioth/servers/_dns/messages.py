"""A name server's messages: what a query may be, and how a reply is written.

Source: RFC 1035 section 4, RFC 6891 (EDNS), RFC 7766 (TCP), RFC 8482 (ANY), RFC 9619
(one question).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype

from aioioth._dnsexchange import PAYLOAD
from aioioth.servers._dns.answer import Answer, Question, failure

if TYPE_CHECKING:
    from dns.rcode import Rcode

    from aioioth._ip import IPAddress
    from aioioth.servers._dns.access import Services

_WITHOUT_EDNS = 512
LARGEST = 65_535

# A name, and a few options: cookies, a client's network, padding. There is no query of
# this size; one that is full of pointers to pointers would take long to read.
_LARGEST_QUERY = 4096

_HEADER = 12
_QR, _RD, _OPCODE = 0x8000, 0x0100, 0x7800


class Ignored(Exception):  # noqa: N818  (no error: there is nothing to answer)
    """What came gets no reply.

    Attributes:
        cause: In a word.
    """

    def __init__(self, *, cause: str) -> None:
        self.cause = cause
        super().__init__(cause)


class Rejected(Exception):  # noqa: N818
    """What came is no query that could be read, but gets a reply.

    Attributes:
        rcode: What the reply says.
        wire: The reply.
    """

    def __init__(self, rcode: Rcode, wire: bytes) -> None:
        self.rcode = rcode
        self.wire = wire
        super().__init__(rcode.name)


@dataclass(frozen=True)
class Query:
    """A query, and who asks.

    Attributes:
        message: As it came.
        question: What is asked.
        client: Who asks.
        services: What he may have.
        limit: Bytes that the reply may have.
        over_tcp: Whether it came over TCP.
    """

    message: dns.message.QueryMessage
    question: Question
    client: IPAddress
    services: Services
    limit: int
    over_tcp: bool

    @property
    def wants_recursion(self) -> bool:
        """Whether others shall be asked for him."""
        return bool(self.message.flags & dns.flags.RD)


def read_query(wire: bytes) -> dns.message.QueryMessage:
    """Return a message that asks one question.

    Raises:
        Ignored: It is no query.
        Rejected: It is a query, but not of that kind.
    """
    if len(wire) < _HEADER:
        raise Ignored(cause="short")
    flags = int.from_bytes(wire[2:4])
    if flags & _QR:  # two servers would never stop to answer each other
        raise Ignored(cause="response")
    if flags & _OPCODE:
        raise _rejected(wire, dns.rcode.NOTIMP)
    counts = [int.from_bytes(wire[i : i + 2]) for i in (4, 6, 8, 10)]
    # In the third section IXFR has a SOA record; in the fourth are EDNS and TSIG.
    fitting = counts[0] == 1 and not counts[1] and counts[2] <= 1 and counts[3] <= 2
    if not fitting or len(wire) > _LARGEST_QUERY:
        raise _rejected(wire, dns.rcode.FORMERR)
    try:
        message = dns.message.from_wire(wire)
    except dns.exception.DNSException:
        raise _rejected(wire, dns.rcode.FORMERR) from None
    assert isinstance(message, dns.message.QueryMessage)
    if not message.question:  # one in a class or of a type that stands for none
        raise _rejected(wire, dns.rcode.FORMERR)
    return message


def refusal(message: dns.message.QueryMessage) -> Answer | None:
    """Return the answer to a question that is never looked up; None for others."""
    [question] = message.question
    rdtype = question.rdtype
    if message.edns > 0:
        return failure(dns.rcode.BADVERS)
    if question.rdclass != dns.rdataclass.IN:
        return failure(dns.rcode.REFUSED)
    if rdtype in {dns.rdatatype.AXFR, dns.rdatatype.IXFR}:
        return failure(dns.rcode.REFUSED)
    if rdtype in {dns.rdatatype.OPT, dns.rdatatype.TSIG, dns.rdatatype.NONE}:
        return failure(dns.rcode.FORMERR)
    if dns.rdatatype.is_metatype(rdtype) and rdtype != dns.rdatatype.ANY:
        return failure(dns.rcode.NOTIMP)
    return None


def reply_limit(message: dns.message.Message, *, over_tcp: bool) -> int:
    """Return how many bytes the reply may have."""
    if over_tcp:
        return LARGEST
    if message.edns < 0:
        return _WITHOUT_EDNS
    return max(_WITHOUT_EDNS, min(message.payload, PAYLOAD))


def render(query: Query, answer: Answer) -> bytes:
    """Return the reply, cut off if it is too long; over TCP there is no way to cut."""
    reply = _skeleton(query)
    reply.set_rcode(answer.rcode)
    if answer.authoritative:
        reply.flags |= dns.flags.AA
    reply.answer = answer.answer
    reply.authority = answer.authority
    reply.additional = answer.additional
    try:
        return reply.to_wire(max_size=query.limit)
    except dns.exception.TooBig:
        if not query.over_tcp:
            return truncated(query)
    reply = _skeleton(query)
    reply.set_rcode(dns.rcode.SERVFAIL)
    return reply.to_wire(max_size=query.limit)


def truncated(query: Query) -> bytes:
    """Return the reply that has to be fetched over TCP."""
    # Half a set of records would be worse than none (RFC 2181 section 9).
    reply = _skeleton(query)
    reply.flags |= dns.flags.TC
    return reply.to_wire(max_size=query.limit)


def _skeleton(query: Query) -> dns.message.Message:
    return dns.message.make_response(
        query.message, recursion_available=True, our_payload=PAYLOAD, pad=0
    )


def _rejected(wire: bytes, rcode: Rcode) -> Rejected:
    """Return a reply that is a header only: what else there is may be anything."""
    flags = int.from_bytes(wire[2:4]) & (_OPCODE | _RD) | _QR | rcode
    return Rejected(rcode, wire[:2] + flags.to_bytes(2) + bytes(8))
