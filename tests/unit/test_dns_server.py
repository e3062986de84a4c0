"""What a DNS server says, message by message: no sockets, and a clock of our own."""

from __future__ import annotations

import ipaddress
import socket
import sys
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, settings, strategies as st

from aioioth import Stack
from aioioth._receiver import Datagram
from aioioth.errors import ConfigurationError
from aioioth.hashes import hash_address, otip_time
from aioioth.names import Hosts
from aioioth.servers._dns.access import Access
from aioioth.servers._dns.answer import Answer, Question
from aioioth.servers._dns.answering import Answerer, Open
from aioioth.servers._dns.cache import Cache
from aioioth.servers._dns.forwarding import read_reply
from aioioth.servers._dns.hash import HashZone, HashZones
from aioioth.servers._dns.messages import Ignored, Rejected, render
from aioioth.servers._dns.static import HostTable, Records
from aioioth.servers._dns.udp import IP_PKTINFO, answering_from
from aioioth.servers._dns.zonefile import parse_records
from aioioth.servers._dns.zones import Zones
from aioioth.servers.dns import DnsServer

CLIENT = ipaddress.ip_address("10.0.0.9")

ZONE = """
$ORIGIN lab.
$TTL 60
@     IN SOA ns.lab. root.lab. 1 3600 600 86400 30
@     IN NS  ns
@        MX  10 mail
ns       A   10.0.0.1
mail  5  A   10.0.0.2
mail     AAAA fd00::2
www      CNAME mail
out      CNAME elsewhere.example.
round    CNAME again
again    CNAME round
gone     CNAME nothing
*.any    TXT "wild"
a.b.deep A   10.0.0.3
_dns._udp SRV 0 0 53 ns
sub      NS  ns.sub
ns.sub   A   10.0.0.4
"""


class Desk:
    """Asks an `Answerer`; what it would have to ask others is `outside`."""

    def __init__(
        self,
        *,
        hosts: Any = None,
        records: str = "",
        hash_zones: Any = None,
        reverse: Any = "always",
        forwards: bool = False,
        access: Any = None,
        ttl: int = 0,
        clock: Any = lambda: 0.0,
    ) -> None:
        self.hosts = Hosts(hosts)
        self.cache = Cache()
        zones = Zones(
            HostTable(self.hosts, ttl),
            Records(parse_records(records, ttl)),
            HashZones(hash_zones or {}, reverse, ttl, clock),
            ttl,
        )
        self.answerer = Answerer(zones, self.cache, Access(access), forwards=forwards)
        self.outside: list[str] = []
        self.now = 0.0

    def wire(
        self,
        wire: bytes,
        client: Any = CLIENT,
        *,
        over_tcp: bool = False,
        found: Answer | None = None,
    ) -> bytes | None:
        try:
            query = self.answerer.read(wire, client, over_tcp=over_tcp)
        except Ignored:
            return None
        except Rejected as rejected:
            return rejected.wire
        outcome = self.answerer.resolve(query, self.now)
        while isinstance(outcome, Open):
            self.outside.append(
                f"{outcome.question.name} {outcome.question.rdtype.name}"
            )
            outcome = self.answerer.resume(query, outcome, found, self.now)
        return render(query, outcome)

    def ask(
        self,
        name: str,
        rdtype: str = "A",
        *,
        client: str = "10.0.0.9",
        found: Answer | None = None,
        over_tcp: bool = False,
        **options: Any,
    ) -> dns.message.Message:
        query = dns.message.make_query(name, rdtype, **options)
        wire = self.wire(
            query.to_wire(),
            ipaddress.ip_address(client),
            over_tcp=over_tcp,
            found=found,
        )
        assert wire is not None
        reply = dns.message.from_wire(wire)
        assert query.is_response(reply)
        return reply

    def texts(self, name: str, rdtype: str = "A", **options: Any) -> list[str]:
        """Return what the reply has, as "TYPE value", and its code if it is not 0."""
        reply = self.ask(name, rdtype, **options)
        rcode = [] if not reply.rcode() else [reply.rcode().name]
        return rcode + [
            f"{rdata.rdtype.name} {rdata}" for rrset in reply.answer for rdata in rrset
        ]


def soa_of(reply: dns.message.Message) -> str:
    [rrset] = reply.authority
    assert rrset.rdtype == dns.rdatatype.SOA
    return f"{rrset.name} {rrset.ttl}"


def answer(*lines: str, rcode: Any = dns.rcode.NOERROR, soa: str = "") -> Answer:
    """What others say; each line is "name ttl type value"."""

    def rrsets(texts: Any) -> list[dns.rrset.RRset]:
        return [
            dns.rrset.from_text(name, int(ttl), "IN", kind, value)
            for name, ttl, kind, value in (text.split(maxsplit=3) for text in texts)
        ]

    return Answer(
        rcode, rrsets(lines), rrsets([soa] if soa else []), authoritative=False
    )


# Hosts


def test_hosts() -> None:
    desk = Desk(hosts={"db.lab": ["10.0.0.5", "10.0.0.6", "fd00::5"]}, ttl=7)
    reply = desk.ask("DB.lab.")
    assert reply.flags & dns.flags.AA
    assert reply.flags & dns.flags.RA
    [rrset] = reply.answer
    assert rrset.ttl == 7
    assert {str(each) for each in rrset} == {"10.0.0.5", "10.0.0.6"}
    assert desk.texts("db.lab", "AAAA") == ["AAAA fd00::5"]


def test_hosts_may_change() -> None:
    desk = Desk()
    assert desk.texts("db.lab") == ["NXDOMAIN"]
    desk.hosts["db.lab"] = "10.0.0.5"
    assert desk.texts("db.lab") == ["A 10.0.0.5"]
    assert desk.texts("5.0.0.10.in-addr.arpa", "PTR") == ["PTR db.lab."]
    del desk.hosts["db.lab"]
    assert desk.texts("db.lab") == ["NXDOMAIN"]
    assert desk.texts("5.0.0.10.in-addr.arpa", "PTR") == ["NXDOMAIN"]


def test_a_host_without_an_address_of_the_family_exists() -> None:
    desk = Desk(hosts={"db": "10.0.0.5"}, ttl=3)
    reply = desk.ask("db", "AAAA")
    assert reply.rcode() == dns.rcode.NOERROR
    assert reply.answer == []
    assert soa_of(reply) == "db. 3"


def test_back_from_both_families() -> None:
    desk = Desk(hosts={"db": ["10.0.0.5", "fd00::5"]})
    for address in "10.0.0.5", "fd00::5":
        name = ipaddress.ip_address(address).reverse_pointer
        assert desk.texts(name, "PTR") == ["PTR db."]
        assert desk.texts(name.upper(), "A") == []


def test_a_scope_stays_here() -> None:
    assert Desk(hosts={"ll": "fe80::1%vde0"}).texts("ll", "AAAA") == ["AAAA fe80::1"]


@pytest.mark.parametrize(
    "name",
    [
        "x.0.0.10.in-addr.arpa",
        "300.0.0.10.in-addr.arpa",
        "g." + "0." * 31 + "ip6.arpa",
        "0." * 33 + "ip6.arpa",
        "x.arpa",
    ],
)
def test_no_address_backwards(name: str) -> None:
    assert Desk(hosts={"db": "10.0.0.5"}).texts(name, "PTR") == ["NXDOMAIN"]


@pytest.mark.parametrize(
    "name", ["0.0.10.in-addr.arpa", "0." * 20 + "ip6.arpa", "in-addr.arpa", "arpa", "."]
)
def test_what_is_above_addresses_exists(name: str) -> None:
    """If it did not, resolvers would not believe that there is anything below."""
    for records in "", ". 60 SOA . . 1 1 1 1 1":
        desk = Desk(hosts={"db": "10.0.0.5"}, records=records)
        assert desk.texts(name, "PTR") == []


def test_localhost_is_known() -> None:
    desk = Desk(forwards=True)
    assert desk.texts("localhost") == ["A 127.0.0.1"]
    assert desk.texts("x.LocalHost", "AAAA") == ["AAAA ::1"]
    assert desk.texts("1.0.0.127.in-addr.arpa", "PTR") == ["PTR localhost."]
    assert desk.outside == []


# Records


def test_records_of_every_type() -> None:
    desk = Desk(records=ZONE)
    assert desk.texts("mail.lab") == ["A 10.0.0.2"]
    assert desk.texts("lab", "MX") == ["MX 10 mail.lab."]
    assert desk.texts("_dns._udp.lab", "SRV") == ["SRV 0 0 53 ns.lab."]
    assert desk.texts("lab", "NS") == ["NS ns.lab."]
    assert desk.texts("lab", "SOA")[0].startswith("SOA ns.lab. root.lab. 1 ")
    assert [each.ttl for each in desk.ask("mail.lab").answer] == [5]
    assert [each.ttl for each in desk.ask("ns.lab").answer] == [60]


def test_what_a_zone_does_not_have() -> None:
    desk = Desk(records=ZONE, forwards=True)
    for name, rdtype, rcode in [
        ("no.lab", "A", dns.rcode.NXDOMAIN),
        ("x.mail.lab", "A", dns.rcode.NXDOMAIN),
        ("mail.lab", "TXT", dns.rcode.NOERROR),
        ("b.deep.lab", "A", dns.rcode.NOERROR),
        ("deep.lab", "A", dns.rcode.NOERROR),
    ]:
        reply = desk.ask(name, rdtype)
        assert (reply.rcode(), reply.answer) == (rcode, [])
        assert reply.flags & dns.flags.AA
        assert soa_of(reply) == "lab. 30"
    assert desk.outside == []


def test_wildcards() -> None:
    desk = Desk(records=ZONE)
    reply = desk.ask("x.y.any.lab", "TXT")
    [rrset] = reply.answer
    assert str(rrset.name) == "x.y.any.lab."
    assert desk.texts("x.any.lab", "A") == []
    assert desk.texts("any.lab", "TXT") == []


WILD = """
$ORIGIN lab.
@     60 SOA ns root 1 3600 600 86400 30
*        A   10.9.9.9
mail     A   10.0.0.2
a.b      A   10.0.0.3
*.w      A   10.8.8.8
"""


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("x.lab", ["A 10.9.9.9"]),
        ("x.y.lab", ["A 10.9.9.9"]),
        ("x.w.lab", ["A 10.8.8.8"]),
        ("x.mail.lab", ["NXDOMAIN"]),  # "mail" is there, and has nothing below it
        ("b.lab", []),
        ("x.b.lab", ["NXDOMAIN"]),
        ("x.host.lab", ["NXDOMAIN"]),
        ("c.lab", []),
        ("x.c.lab", ["NXDOMAIN"]),
    ],
)
@pytest.mark.parametrize("in_zone", [True, False], ids=["zone", "no-zone"])
def test_wildcards_stand_for_what_is_not_there(
    in_zone: bool, name: str, wanted: list[str]
) -> None:
    """RFC 4592 section 2.2.1: the closest name that is there counts; hosts, too."""
    text = WILD if in_zone else WILD.replace("@ ", ";")
    desk = Desk(
        records=text, hosts={"host.lab": "10.0.0.5", "d.c.lab": "10.0.0.6"}, ttl=1
    )
    reply = desk.ask(name)
    assert desk.texts(name) == wanted
    assert bool(reply.authority) == (not reply.answer)
    if in_zone and not reply.answer:
        assert soa_of(reply) == "lab. 30"


def test_a_wildcard_for_everything() -> None:
    desk = Desk(records="* A 10.0.0.1", forwards=True, hosts={"db.lab": "10.0.0.5"})
    assert desk.texts("www.example") == ["A 10.0.0.1"]
    assert desk.texts("db.lab") == ["A 10.0.0.5"]
    assert desk.texts("www.example", "MX") == []
    assert desk.outside == []


def test_aliases() -> None:
    desk = Desk(records=ZONE)
    assert desk.texts("www.lab") == ["CNAME mail.lab.", "A 10.0.0.2"]
    assert desk.texts("www.lab", "CNAME") == ["CNAME mail.lab."]
    assert desk.texts("www.lab", "TXT") == ["CNAME mail.lab."]
    assert desk.texts("gone.lab") == ["NXDOMAIN", "CNAME nothing.lab."]
    assert desk.texts("round.lab") == ["SERVFAIL"]
    assert desk.texts("out.lab") == ["NXDOMAIN", "CNAME elsewhere.example."]


def test_an_alias_that_leads_outside() -> None:
    desk = Desk(records=ZONE, forwards=True)
    found = answer("elsewhere.example. 9 A 192.0.2.1")
    reply = desk.ask("out.lab", found=found)
    assert [str(each[0]) for each in reply.answer] == [
        "elsewhere.example.",
        "192.0.2.1",
    ]
    assert reply.flags & dns.flags.AA  # it is about the first name
    assert desk.outside == ["elsewhere.example. A"]


def test_a_zone_that_others_have() -> None:
    reply = Desk(records=ZONE).ask("x.sub.lab")
    assert reply.answer == []
    assert [str(each.name) for each in reply.authority] == ["sub.lab."]
    assert [str(each.name) for each in reply.additional] == ["ns.sub.lab."]
    assert not reply.flags & dns.flags.AA


def test_records_without_a_zone() -> None:
    desk = Desk(records="txt.example 5 TXT hello\nb.a.example A 10.0.0.7", ttl=9)
    assert desk.texts("txt.example", "TXT") == ['TXT "hello"']
    assert soa_of(desk.ask("txt.example", "A")) == "txt.example. 9"
    assert desk.texts("other.example") == ["NXDOMAIN"]
    assert soa_of(desk.ask("other.example")) == ". 9"
    assert desk.texts("a.example") == []  # there is something below


def test_hosts_before_records() -> None:
    records = ZONE + "www2.lab. CNAME mail.lab.\nmail TXT post\n"
    desk = Desk(records=records, hosts={"mail.lab": "10.9.9.9", "www2.lab": "10.9.9.8"})
    assert desk.texts("mail.lab") == ["A 10.9.9.9"]
    assert desk.texts("mail.lab", "TXT") == ['TXT "post"']
    assert desk.texts("www2.lab") == ["A 10.9.9.8"]
    assert soa_of(desk.ask("www2.lab", "TXT")) == "lab. 30"


def test_the_case_of_the_question_is_kept() -> None:
    reply = Desk(records=ZONE, hosts={"db.lab": "10.0.0.5"}).ask("dB.LaB")
    assert str(reply.question[0].name) == str(reply.answer[0].name) == "dB.LaB."


def test_any_is_little() -> None:
    desk = Desk(records=ZONE, forwards=True)
    assert desk.texts("mail.lab", "ANY") == ["A 10.0.0.2"]
    assert desk.texts("no.lab", "ANY") == ["NXDOMAIN"]
    assert desk.texts("example.org", "ANY") == ['HINFO "RFC8482" ""']
    assert desk.outside == []


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("\ndb A 10.0.0\n", 2, "malformed"),
        ("a A 10.0.0.1\r\ndb A 10.0.0\r\n", 2, "malformed"),
        ("\rdb A 10.0.0", 2, "malformed"),
        ("db A", 1, ""),
        ("a A 10.0.0.1\n; remark\nb WRONG 1\nc A 10.0.0.2", 3, "WRONG"),
        ("a CNAME b\na A 10.0.0.1", 2, "nothing else"),
        ("a A 10.0.0.1\na CNAME b", 2, "nothing else"),
        ("a CNAME b\na CNAME c", 2, "already"),
        ("a SOA ( . . 1 1 1\n 1 1 )\na SOA . . 1 1 1 1 1", 3, "already"),
        ("$INCLUDE /etc/passwd", 1, "only $ORIGIN and $TTL"),
        ("  A 10.0.0.1", 1, "needs a name"),
        ("a CH A 10.0.0.1", 1, "only class IN"),
        ("a DNAME b", 1, "not served"),
        ("a A 10.0.0.1 10.0.0.2", 1, "no proper A record"),
        ("a ANY x", 1, "class"),
        ("a OPT x", 1, "no type"),
        ("a AXFR x", 1, "no type"),
        ("a TYPE99999 x", 1, ""),
        ("a..b A 10.0.0.1", 1, "empty"),
        ("a TXT (x", 1, ""),
        ('a TXT "x', 1, ""),
        ("a 99999999999 A 10.0.0.1", 1, "TTL"),
        (f"{'x' * 64} A 10.0.0.1", 1, ""),
        ("$TTL\na A 10.0.0.1", 1, ""),
    ],
)
def test_wrong_records(text: str, line: int, why: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^records, line {line}: ") as caught:
        parse_records(text, 0)
    assert why in str(caught.value)


@settings(database=None, deadline=None)
@given(
    st.text()
    | st.lists(
        st.sampled_from(
            [*'ab.@*$;()"\\\n \t0', " A ", "10.0.0.1", "TXT", "$ORIGIN ", "IN", "1h"]
        )
    ).map("".join)
)
def test_any_records_are_taken_or_refused(text: str) -> None:
    try:
        rrsets = parse_records(text, 0)
    except ConfigurationError:
        return
    for rrset in rrsets:
        assert rrset.name.is_absolute()
        assert len(rrset) > 0


# Hash zones


def test_iothnamed_addresses() -> None:
    """The published ones."""
    desk = Desk(
        hash_zones={
            "hash.local": "fc00::/64",
            "hash.v2.cs.unibo.it": "2001:760:2e00:ff00::",
            "v2.cs.unibo.it": ipaddress.ip_network("2000:760::/64"),
        }
    )
    for name, address in [
        ("renzo.hash.local", "fc00::4cc:8049:6765:d03a"),
        ("hic_sunt_leones.hash.local", "fc00::9c8f:74b4:705f:6512"),
        ("renzo.hash.v2.cs.unibo.it", "2001:760:2e00:ff00:6066:4f84:db3e:c9cb"),
        ("test.v2.cs.unibo.it", "2000:760::68d6:2fac:95a:5a2e"),
    ]:
        assert desk.texts(name, "AAAA") == [f"AAAA {address}"]
        assert desk.texts(name.upper(), "AAAA") == [f"AAAA {address}"]
        reverse = ipaddress.ip_address(address).reverse_pointer
        assert desk.texts(reverse, "PTR") == [f"PTR {name}."]


def test_a_hash_zone_has_nothing_else() -> None:
    desk = Desk(hash_zones={"hash.local": "fc00::/64"}, ttl=8, forwards=True)
    for name, rdtype in [("renzo.hash.local", "A"), ("hash.local", "AAAA")]:
        reply = desk.ask(name, rdtype)
        assert (reply.rcode(), reply.answer) == (dns.rcode.NOERROR, [])
        assert soa_of(reply) == "hash.local. 8"
    assert desk.texts("hash.local", "SOA")[0].startswith("SOA hash.local. ")
    assert desk.outside == []


def test_a_host_in_a_hash_zone_has_both() -> None:
    desk = Desk(hash_zones={"lab": "fc00::/64"}, hosts={"db.lab": "10.0.0.5"})
    assert desk.texts("db.lab") == ["A 10.0.0.5"]
    hashed = hash_address("db.lab", "fc00::/64")
    assert desk.texts("db.lab", "AAAA") == [f"AAAA {hashed}"]
    desk.hosts["db.lab"] = ["10.0.0.5", "fd00::5"]
    assert desk.texts("db.lab", "AAAA") == ["AAAA fd00::5"]


def test_a_zone_in_a_hash_zone_and_the_other_way_round() -> None:
    inner = "$ORIGIN in.hash.\n@ SOA . . 1 1 1 1 1\nwww A 10.0.0.1"
    desk = Desk(hash_zones={"hash": "fc00::/64"}, records=inner)
    assert desk.texts("x.in.hash", "AAAA") == ["NXDOMAIN"]
    assert desk.texts("x.hash", "AAAA") != []
    outer = "$ORIGIN lab.\n@ SOA . . 1 1 1 1 1\nwww A 10.0.0.1"
    desk = Desk(hash_zones={"h.lab": "fc00::/64"}, records=outer)
    assert desk.texts("x.h.lab", "AAAA")[0].startswith("AAAA fc00::")
    assert desk.texts("x.lab", "AAAA") == ["NXDOMAIN"]


def test_one_time_addresses() -> None:
    time = 1_000_000.0
    zone = HashZone("fc00::/64", password="secret", period=32, offset=5)
    desk = Desk(hash_zones={"otip": zone}, ttl=60, clock=lambda: time)
    [rrset] = desk.ask("db.otip", "AAAA").answer
    number = otip_time(time, period=32, offset=5)
    wanted = hash_address("db.otip", "fc00::/64", password="secret", time=number)
    assert str(rrset[0]) == str(wanted)
    assert rrset.ttl == 32 - 1_000_005 % 32
    time += rrset.ttl
    assert desk.texts("db.otip", "AAAA") != [f"AAAA {wanted}"]
    assert desk.texts(wanted.reverse_pointer, "PTR") == ["NXDOMAIN"]


@pytest.mark.parametrize(
    ("reverse", "teachers"),
    [
        ("always", ["10.0.0.9", "fc00::9", "same"]),
        ("net", ["fc00::9", "same"]),
        ("same", ["same"]),
        ("never", []),
    ],
)
def test_who_teaches_names(reverse: str, teachers: list[str]) -> None:
    address = str(hash_address("db.hash", "fc00::/64"))
    for client in "10.0.0.9", "fc00::9", "same":
        desk = Desk(hash_zones={"hash": "fc00::/64"}, reverse=reverse)
        pointer = ipaddress.ip_address(address).reverse_pointer
        assert desk.texts(pointer, "PTR") == ["NXDOMAIN"]
        asks = address if client == "same" else client
        desk.ask("db.hash", "AAAA", client=asks)
        known = desk.texts(pointer, "PTR") == ["PTR db.hash."]
        assert known == (client in teachers)


def test_learned_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioioth.servers._dns.hash._LEARNED", 2)
    desk = Desk(hash_zones={"hash": "fc00::/64"})
    pointers = {}
    for name in "a.hash", "b.hash", "a.hash", "c.hash":
        desk.ask(name, "AAAA")
        pointers[name] = hash_address(name, "fc00::/64").reverse_pointer
    known = [n for n, each in pointers.items() if desk.texts(each, "PTR")[0][0] == "P"]
    assert known == ["a.hash", "c.hash"]


# Others' names


def test_others_are_asked_only_about_their_names() -> None:
    desk = Desk(hosts={"www.example.org": "10.0.0.1"}, forwards=True)
    found = answer("example.org. 60 A 192.0.2.1")
    assert desk.texts("www.example.org") == ["A 10.0.0.1"]
    assert desk.texts("www.example.org", "MX") == []
    assert desk.outside == []
    reply = desk.ask("example.org", found=found)
    assert desk.outside == ["example.org. A"]
    assert not reply.flags & dns.flags.AA


def test_nobody_answers() -> None:
    assert Desk(forwards=True).texts("example.org", found=None) == ["SERVFAIL"]


def test_who_wants_no_recursion_gets_none() -> None:
    desk = Desk(forwards=True)
    assert desk.texts("example.org", flags=0) == ["REFUSED"]
    found = answer("example.org. 60 A 192.0.2.1")
    desk.answerer.learn(question("example.org"), found, 0)
    assert desk.texts("example.org", flags=0) == ["A 192.0.2.1"]


def test_an_alias_of_others_without_its_end() -> None:
    desk = Desk(forwards=True, hosts={"db.lab": "10.0.0.5"})
    found = answer("example.org. 60 CNAME db.lab.")
    found.alias = dns.name.from_text("db.lab.")
    assert desk.texts("example.org", found=found) == ["CNAME db.lab.", "A 10.0.0.5"]
    assert not desk.ask("example.org", found=found).flags & dns.flags.AA
    # And one that never ends.
    found = answer("example.org. 60 CNAME example.org.")
    found.alias = dns.name.from_text("example.org.")
    assert desk.texts("example.org", found=found) == ["SERVFAIL"]
    assert len(desk.outside) < 20


# Who may have what


def test_access() -> None:
    desk = Desk(
        hosts={"db": "10.0.0.5"},
        hash_zones={"hash": "fc00::/64", "otip": HashZone("fc00::/64", period=32)},
        forwards=True,
        access={
            "10.0.0.0/8": {"static"},
            "10.1.0.0/16": {"hash", "reverse"},
            "10.2.0.0/16": {"otip", "cache"},
            "10.3.0.0/16": {"forward"},
            "10.4.0.0/16": (),
            "fe80::/64": "static",
        },
    )
    found = answer("org. 60 A 192.0.2.1")
    desk.answerer.learn(question("cached"), answer("cached. 60 A 192.0.2.2"), 0)
    pointer = hash_address("x.hash", "fc00::/64").reverse_pointer
    desk.ask("x.hash", "AAAA", client="10.1.0.1")
    queries = {
        "static": ("db", "A"),
        "hash": ("x.hash", "AAAA"),
        "otip": ("x.otip", "AAAA"),
        "reverse": (pointer, "PTR"),
        "cache": ("cached", "A"),
        "forward": ("org", "A"),
    }
    for client, may in [
        ("10.0.0.1", {"static"}),
        ("10.1.0.1", {"hash", "reverse"}),
        ("10.2.0.1", {"otip", "cache"}),
        ("10.3.0.1", {"forward"}),
        ("10.4.0.1", set()),
        ("192.0.2.1", set()),
        ("fe80::1", {"static"}),
        ("fe80::1%5", {"static"}),
    ]:
        gets = {
            service
            for service, asked in queries.items()
            if desk.texts(*asked, client=client, found=found) != ["REFUSED"]
        }
        # Who may forward has others asked for what he may not have from the cache.
        assert gets - {"cache"} == may - {"cache"}, client
        assert ("cache" in gets) == bool(may & {"cache", "forward"}), client


def test_an_alias_ends_where_access_does() -> None:
    desk = Desk(records=ZONE, forwards=True, access={"0.0.0.0/0": {"static"}})
    assert desk.texts("out.lab") == ["CNAME elsewhere.example."]


def test_without_others_nobody_learns_what_is_there() -> None:
    desk = Desk(hosts={"db": "10.0.0.5"}, access={"10.0.0.0/8": {"hash"}})
    assert desk.texts("db") == desk.texts("no") == ["REFUSED"]


# What others said


def question(name: str, rdtype: str = "A") -> Question:
    return Question.about(dns.name.from_text(name), dns.rdatatype.from_text(rdtype))


def test_the_cache_counts_down() -> None:
    cache, about = Cache(), question("example.org")
    cache.put(
        about,
        answer("example.org. 60 CNAME www.example.", "www.example. 40 A 192.0.2.1"),
        100.0,
    )
    found = cache.get(question("EXAMPLE.org"), 130.5)
    assert found is not None
    assert [each.ttl for each in found.answer] == [30, 10]
    assert cache.get(question("example.org", "AAAA"), 130.5) is None
    assert cache.get(about, 140.0) is None
    assert len(cache) == 0


def test_the_cache_keeps_that_there_is_nothing() -> None:
    cache, about = Cache(), question("no.example")
    soa = "example. 50 SOA . . 1 1 1 1 50"
    cache.put(about, answer(rcode=dns.rcode.NXDOMAIN, soa=soa), 0.0)
    found = cache.get(about, 20.0)
    assert found is not None
    assert found.rcode == dns.rcode.NXDOMAIN
    assert found.authority[0].ttl == 30
    assert cache.get(about, 50.0) is None


@pytest.mark.parametrize(
    "found",
    [
        answer(),
        answer(rcode=dns.rcode.NXDOMAIN),
        answer("a. 60 CNAME b.", rcode=dns.rcode.NXDOMAIN),
        answer("a. 0 A 192.0.2.1"),
        answer(soa="a. 0 SOA . . 1 1 1 1 0"),
    ],
)
def test_what_the_cache_does_not_keep(found: Answer) -> None:
    cache = Cache()
    cache.put(question("a"), found, 0.0)
    assert len(cache) == 0


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioioth.servers._dns.cache._RECORDS", 3)
    cache = Cache()
    for name in "abc":
        cache.put(question(name), answer(f"{name}. 60 A 192.0.2.1"), 0.0)
    cache.get(question("a"), 1.0)
    cache.put(question("d"), answer("d. 60 A 192.0.2.1"), 1.0)
    kept = [name for name in "abcd" if cache.get(question(name), 2.0) is not None]
    assert kept == ["a", "c", "d"]
    cache.put(question("a"), answer("a. 60 A 192.0.2.2"), 2.0)
    assert len(cache) == 3
    cache.clear()
    assert len(cache) == 0


def test_only_what_was_asked_for_is_believed() -> None:
    reply = dns.message.from_text(
        """id 1
flags QR RD RA
;QUESTION
www.example. IN A
;ANSWER
www.example. 60 IN CNAME host.example.
host.example. 60 IN A 192.0.2.1
bank.example. 60 IN A 192.0.2.66
;AUTHORITY
com. 60 IN SOA . . 1 1 1 1 1
;ADDITIONAL
bank.example. 60 IN A 192.0.2.66
"""
    )
    found = read_reply(reply)
    assert found is not None
    assert [str(each.name) for each in found.answer] == [
        "www.example.",
        "host.example.",
    ]
    assert found.authority == found.additional == []


def test_what_others_cannot_have_meant() -> None:
    head = "id 1\nflags QR RD RA\nrcode {}\n;QUESTION\na. IN A\n;ANSWER\n"
    for rcode, text in [
        ("NXDOMAIN", "a. 60 IN A 192.0.2.1"),
        ("NOERROR", "a. 60 IN CNAME a."),
        ("SERVFAIL", "a. 60 IN A 192.0.2.1"),
        ("REFUSED", ""),
    ]:
        assert read_reply(dns.message.from_text(head.format(rcode) + text)) is None


def test_a_referral_is_no_answer() -> None:
    head = "id 1\nflags QR{}\n;QUESTION\nx.sub.lab. IN A\n"
    servers = ";AUTHORITY\nsub.lab. 60 IN NS ns.sub.lab.\n"
    soa = "sub.lab. 60 IN SOA . . 1 1 1 1 1\n"
    for flags, text, is_answer in [
        ("", servers, False),
        ("", servers + soa, True),
        (" AA", servers, True),
        ("", "", True),
    ]:
        reply = dns.message.from_text(head.format(flags) + text)
        assert (read_reply(reply) is not None) == is_answer


# Messages


def test_edns() -> None:
    desk = Desk(hosts={"db": "10.0.0.5"})
    assert desk.ask("db", use_edns=False).edns == -1
    reply = desk.ask("db", use_edns=0, payload=4096, want_dnssec=True)
    assert (reply.edns, reply.payload, reply.ednsflags) == (0, 1232, 0)
    assert desk.ask("db", use_edns=1).rcode() == dns.rcode.BADVERS


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({"use_edns": False}, 512),
        ({"use_edns": 0, "payload": 100}, 512),
        ({"use_edns": 0, "payload": 800}, 800),
        ({"use_edns": 0, "payload": 65535}, 1232),
    ],
)
def test_what_is_too_long_comes_over_tcp(options: Any, limit: int) -> None:
    many = [f"10.1.{i}.{j}" for i in range(4) for j in range(100)]
    desk = Desk(hosts={"many": many, "some": many[: (limit - 60) // 16]})
    query = dns.message.make_query("many", "A", **options)
    wire = desk.wire(query.to_wire())
    assert wire is not None
    assert len(wire) <= limit
    assert dns.flags.TC in dns.flags.Flag(int.from_bytes(wire[2:4]))
    reply = desk.ask("many", over_tcp=True, **options)
    assert len(reply.answer[0]) == 400
    assert not desk.ask("some", **options).flags & dns.flags.TC


def test_where_a_datagram_was_sent_to() -> None:
    def sent(*ancillary: Any) -> Any:
        found = answering_from(Datagram(b"", ("10.0.0.9", 5), ancillary))
        return None if found is None else [data for _, _, data in found]

    v4, v6 = (socket.IPPROTO_IP, IP_PKTINFO), (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO)
    own, group = b"\x0a\0\0\1", b"\xff" * 4
    two = (2).to_bytes(4, sys.byteorder)
    assert sent((*v4, two + own + own)) == [bytes(4) + own + bytes(4)]
    assert sent((*v4, two + own + group)) is None
    for address, index in [("fd00::1", bytes(4)), ("fe80::1", two)]:
        packed = ipaddress.ip_address(address).packed
        assert sent((*v6, packed + two)) == [packed + index]
    assert sent((*v6, ipaddress.ip_address("ff02::1").packed + two)) is None
    assert sent() == []  # the kernel was not asked yet


def test_too_long_for_tcp() -> None:
    many = [str(ipaddress.ip_address("10.0.0.0") + i) for i in range(5000)]
    assert Desk(hosts={"many": many}).texts("many", over_tcp=True) == ["SERVFAIL"]


def header(flags: int, *counts: int) -> bytes:
    return b"".join(each.to_bytes(2) for each in (7, flags, *counts))


def test_what_is_no_query() -> None:
    desk = Desk(hosts={"a": "10.0.0.5"})
    asked = b"\1a\0\0\1\0\1"
    assert desk.wire(b"") is None
    assert desk.wire(header(0, 1, 0, 0)) is None  # short
    assert desk.wire(header(0x8000, 1, 0, 0, 0) + asked) is None
    for wire, rcode in [
        (header(0, 0, 0, 0, 0), dns.rcode.FORMERR),
        (header(0, 2, 0, 0, 0) + asked * 2, dns.rcode.FORMERR),
        (header(0, 1, 1, 0, 0) + asked, dns.rcode.FORMERR),
        (header(0, 1, 0, 2, 0) + asked, dns.rcode.FORMERR),
        (header(0, 1, 0, 0, 3) + asked, dns.rcode.FORMERR),
        (header(0, 1, 0, 0, 0) + b"\1a\xc0\x0c\0\1\0\1", dns.rcode.FORMERR),
        (header(0, 1, 0, 0, 0) + asked + b"junk", dns.rcode.FORMERR),
        (header(0, 1, 0, 0, 0) + asked + bytes(5000), dns.rcode.FORMERR),
        (header(0x2800, 1, 0, 0, 0) + asked, dns.rcode.NOTIMP),  # UPDATE
        (header(0x2100, 0, 0, 0, 0), dns.rcode.NOTIMP),  # NOTIFY
        (header(0x7800, 0, 0, 0, 0), dns.rcode.NOTIMP),
    ]:
        reply = desk.wire(wire)
        assert reply is not None
        assert len(reply) == 12
        assert reply[:2] == wire[:2]
        flags = int.from_bytes(reply[2:4])
        assert flags & 0x8000
        assert dns.rcode.Rcode(flags & 15) == rcode
        assert flags & 0x7900 == int.from_bytes(wire[2:4]) & 0x7900


@pytest.mark.parametrize(
    ("rdtype", "rcode"),
    [
        ("AXFR", "REFUSED"),
        ("IXFR", "REFUSED"),
        ("MAILB", "NOTIMP"),
        ("TKEY", "NOTIMP"),
        ("OPT", "FORMERR"),
        ("TYPE0", "FORMERR"),
    ],
)
def test_types_that_are_not_looked_up(rdtype: str, rcode: str) -> None:
    desk = Desk(hosts={"a": "10.0.0.5"}, forwards=True)
    assert desk.texts("a", rdtype) == [rcode]
    assert desk.outside == []


def test_types_that_nobody_knows_are_forwarded() -> None:
    desk = Desk(forwards=True)
    desk.ask("a", "TYPE65000")
    assert desk.outside == ["a. TYPE65000"]


def test_other_classes() -> None:
    reply = Desk().ask("version.bind", "TXT", rdclass="CH")
    assert reply.rcode() == dns.rcode.REFUSED


def test_the_longest_name() -> None:
    name = "a." * 127
    desk = Desk(records=ZONE, hash_zones={"a": "fc00::/64"})
    assert desk.texts(name, "AAAA")[0].startswith("AAAA fc00::")


# The server's arguments


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"address": "vde0"}, "address"),
        ({"port": 0}, "port"),
        ({"port": 65536}, "port"),
        ({"hosts": {"db": "nowhere"}}, "hosts"),
        ({"records": "nonsense"}, "records, line 1"),
        ({"hash_zones": {"a b": "fc00::/64"}}, "hash_zones"),
        ({"hash_zones": {"a": "10.0.0.0/8"}}, "base"),
        ({"hash_zones": {"a": "fc00::/48"}}, "write a network of /64"),
        ({"reverse": "sometimes"}, "reverse"),
        ({"forward": "ns.example"}, "forward"),
        ({"forward_timeout": 0}, "forward_timeout"),
        ({"access": {"here": {"static"}}}, "access"),
        ({"access": {"10.0.0.0/8": {"statik"}}}, "statik"),
        ({"ttl": -1}, "ttl"),
    ],
)
def test_wrong_arguments(arguments: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        DnsServer(Stack(), **arguments)


def test_a_wrong_period() -> None:
    with pytest.raises(ConfigurationError, match="period"):
        HashZone("fc00::/64", period=-1)


def test_a_base_may_have_a_host_part() -> None:
    zone = HashZone(ipaddress.IPv6Interface("fc00::1/64"))
    assert zone.address("db", 0) == hash_address("db", "fc00::1")
