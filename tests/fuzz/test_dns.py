"""A DNS server given anything: at most one answer, of its size, and never an error."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

import dns.exception
import dns.message
import dns.rdatatype
import pytest
from hypothesis import given, settings, strategies as st

from aioioth.names import Hosts
from aioioth.servers._dns.access import Access
from aioioth.servers._dns.answering import Answerer
from aioioth.servers._dns.cache import Cache
from aioioth.servers._dns.faults import Faults
from aioioth.servers._dns.forwarding import read_reply
from aioioth.servers._dns.hash import HashZone, HashZones
from aioioth.servers._dns.service import Counts, DnsService, Waiting
from aioioth.servers._dns.static import HostTable, Records
from aioioth.servers._dns.zonefile import parse_records
from aioioth.servers._dns.zones import Zones

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioioth.servers._dns.answer import Answer, Question
    from aioioth.servers._dns.forwarding import Forwarder

ZONE = """
$ORIGIN lab.
@   60 SOA ns root 1 1 1 1 30
ns     A 10.0.0.1
*.w    CNAME x.out.
loop   CNAME loop
big    TXT {}
sub    NS ns.sub
""".format(" ".join(["x" * 200] * 10))

NAMES = [
    *("no.lab.", "lab.", "ns.lab.", "a.w.lab.", "loop.lab.", "big.lab.", "x.sub.lab."),
    *("db.", "many.", "x.hash.", "x.otip.", "out.", "localhost.", "."),
    *("5.0.0.10.in-addr.arpa.", "0." * 32 + "ip6.arpa.", "\\000\\255.hash."),
]

FUZZ = settings(database=None, deadline=None, max_examples=300)


class Others:
    """Say of each name the same: what is in the bytes that they were given."""

    def __init__(self, wire: bytes) -> None:
        self._wire = wire

    def may_ask(self, address: object) -> bool:
        return False

    async def ask(self, question: Question, but: object) -> Answer | None:
        await asyncio.sleep(0)
        try:
            reply = dns.message.from_wire(self._wire)
        except dns.exception.DNSException:
            return None
        if not isinstance(reply, dns.message.QueryMessage):
            return None
        return read_reply(reply)


async def replies(queries: list[bytes], others: bytes, *, over_tcp: bool) -> Any:
    """Give all to one server, as they would come from one client."""
    zones = Zones(
        HostTable(
            Hosts({"db": "10.0.0.5", "many": [f"10.1.1.{i}" for i in range(250)]}), 5
        ),
        Records(parse_records(ZONE, 0)),
        HashZones(
            {"hash": "fc00::/64", "otip": HashZone("fc01::/64", period=32)}, "always", 5
        ),
        5,
    )
    tasks: set[asyncio.Task[None]] = set()
    counts = Counts()
    service = DnsService(
        Answerer(zones, Cache(), Access(None), forwards=True),
        cast("Forwarder", Others(others)),
        faults=Faults(),
        counts=counts,
        spawn=lambda work, _: tasks.add(asyncio.create_task(cast("Any", work))),
    )
    client = ipaddress.ip_address("10.0.0.9")
    found = []
    for wire in queries:
        outcome = service.begin(wire, client, over_tcp=over_tcp)
        if isinstance(outcome, Waiting):
            outcome = await service.finish(outcome)
        found.append(outcome)
    await asyncio.gather(*tasks)
    return found, counts


@st.composite
def queries(draw: Callable[[Any], Any]) -> bytes:
    """A proper query, with something wrong here and there."""
    name = draw(st.sampled_from(NAMES))
    rdtype = draw(st.sampled_from(["A", "AAAA", "PTR", "TXT", "ANY", "SOA", "TYPE300"]))
    edns = draw(st.sampled_from([False, 0, 1]))
    payload = draw(st.integers(0, 65535))
    query = dns.message.make_query(name, rdtype, use_edns=edns, payload=payload)
    wire = bytearray(query.to_wire())
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(wire) - 1))
        wire[place] = draw(st.integers(0, 255))
    cut = draw(st.none() | st.integers(0, len(wire)))
    more: bytes = draw(st.just(b"") | st.binary(max_size=30))
    return bytes(wire[:cut]) + more


REPLY = dns.message.from_text(
    """id 1
flags QR RD RA
;QUESTION
x.out. IN A
;ANSWER
x.out. 60 IN CNAME y.out.
y.out. 60 IN A 192.0.2.1
;AUTHORITY
out. 60 IN SOA . . 1 1 1 1 1
"""
).to_wire()


@st.composite
def spoiled_replies(draw: Callable[[Any], Any]) -> bytes:
    wire = bytearray(REPLY)
    for _ in range(draw(st.integers(0, 6))):
        wire[draw(st.integers(0, len(wire) - 1))] = draw(st.integers(0, 255))
    return bytes(wire)


def limit_of(wire: bytes, *, over_tcp: bool) -> int:
    if over_tcp:
        return 65535
    try:
        message = dns.message.from_wire(wire)
    except dns.exception.DNSException:
        return 512
    return max(512, min(message.payload, 1232)) if message.edns >= 0 else 512


@pytest.mark.parametrize("over_tcp", [False, True], ids=["udp", "tcp"])
@FUZZ
@given(
    asked=st.lists(queries() | queries() | st.binary(max_size=100), max_size=8),
    others=st.binary(max_size=100) | spoiled_replies(),
)
def test_anything_is_answered_once(
    over_tcp: bool, asked: list[bytes], others: bytes
) -> None:
    found, counts = asyncio.run(replies(asked, others, over_tcp=over_tcp))
    for wire, reply in zip(asked, found, strict=True):
        is_query = len(wire) >= 12 and not wire[2] & 0x80
        assert (reply is not None) == is_query
        if reply is None:
            continue
        assert len(reply) <= limit_of(wire, over_tcp=over_tcp)
        assert reply[:2] == wire[:2]
        assert reply[2] & 0xF8 == wire[2] & 0xF8 | 0x80
        message = dns.message.from_wire(reply)  # itself beyond doubt
        if message.question:
            end = 12 + sum(len(each) + 1 for each in message.question[0].name.labels)
            assert reply[12:end] == wire[12:end]  # the case, too
    # No answer is answered.
    again, _ = asyncio.run(
        replies([each for each in found if each], b"", over_tcp=over_tcp)
    )
    assert set(again) <= {None}
    assert sum(counts.answers.values()) + sum(counts.ignored.values()) == len(asked)


@FUZZ
@given(spoiled_replies() | st.binary(max_size=200))
def test_replies_of_others_lead_from_question_to_answer(wire: bytes) -> None:
    try:
        reply = dns.message.from_wire(wire)
    except dns.exception.DNSException:
        return
    if not isinstance(reply, dns.message.QueryMessage):
        return
    found = read_reply(reply)
    if found is None:
        return
    name = reply.question[0].name
    for rrset in found.answer:
        assert rrset.name == name
        if rrset.rdtype == dns.rdatatype.CNAME:
            name = cast("Any", rrset[0]).target
    assert [each.rdtype for each in found.authority] in ([], [dns.rdatatype.SOA])
    assert found.additional == []


def test_the_checks_see_something() -> None:
    """The strategies reach what is interesting."""
    plain = [dns.message.make_query(name, "A").to_wire() for name in NAMES]
    found, counts = asyncio.run(replies(plain, REPLY, over_tcp=False))
    codes = Counter(dns.message.from_wire(each).rcode().name for each in found)
    assert set(codes) >= {"NOERROR", "NXDOMAIN", "SERVFAIL"}
    assert counts.queries == {"A": len(NAMES)}
