"""What the DHCPv4 server answers, and its books, on a clock of the tests'."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

import pytest

import aioioth
from aioioth.errors import ConfigurationError
from aioioth.servers import _dhcp4_leases
from aioioth.servers._dhcp4_answers import Answer, Answers, Terms
from aioioth.servers._dhcp4_leases import Books, Entry, Pool, Standing
from aioioth.servers._dhcp4_settings import (
    check_reserved,
    make_pool,
    parse_pool,
    parse_reservations,
)
from aioioth.servers.dhcp4 import Dhcp4Server
from aioioth.wire.dhcp4 import (
    BROADCAST,
    REPLY,
    REQUEST,
    ClientName,
    Message,
    MessageType,
    Option,
)

OWN = IPv4Interface("10.0.0.1/24")
NOBODY = IPv4Address(0)
DISCOVER, OFFER = MessageType.DISCOVER, MessageType.OFFER
ASK, ACK, NAK = MessageType.REQUEST, MessageType.ACK, MessageType.NAK


def at(last: int) -> IPv4Address:
    return IPv4Address(f"10.0.0.{last}")


def mac(number: int) -> bytes:
    return b"\2\0\0\0\0" + bytes([number])


class Lan:
    """A server whose clock and clients are the test's."""

    def __init__(
        self, *, first: int = 10, last: int = 12, reserved: Any = None, **terms: Any
    ) -> None:
        self.now = 0.0
        self.reserved = parse_reservations(reserved or {})
        self.books = Books(Pool(at(first), at(last)), self.reserved)
        self.leased: list[IPv4Address] = []
        self.ended: list[IPv4Address] = []
        self.ended_at: list[float] = []
        self.answers = Answers(
            Terms(OWN, **{"seconds": 60, **terms}),
            self.books,
            frozenset(self.reserved),
            lambda entry: self.leased.append(entry.address),
            self.end,
        )

    def end(self, entry: Entry) -> None:
        self.ended.append(entry.address)
        self.ended_at.append(entry.until)

    def say(
        self,
        kind: MessageType,
        who: int = 1,
        *,
        source: IPv4Address = NOBODY,
        options: Any = None,
        **fields: Any,
    ) -> Answer | None:
        told = {Option.MESSAGE_TYPE: bytes([kind]), **(options or {})}
        message = Message(REQUEST, 7, mac(who), told, **fields)
        return self.answers.answer(message.pack(), source, self.now)

    def ask(self, kind: MessageType, who: int = 1, **more: Any) -> Message:
        answer = self.say(kind, who, **more)
        assert answer is not None, self.answers.ignored
        return Message.parse(answer.data)

    def lease(self, who: int = 1, **more: Any) -> IPv4Address:
        """Have a client discover and request; returns its address."""
        offer = self.ask(DISCOVER, who, **more)
        assert offer.type is OFFER
        options = {
            **more.pop("options", {}),
            Option.REQUESTED_ADDRESS: offer.yours.packed,
            Option.SERVER: OWN.ip.packed,
        }
        ack = self.ask(ASK, who, options=options, **more)
        assert ack.type is ACK
        assert ack.yours == offer.yours
        return ack.yours

    def renew(self, address: IPv4Address, who: int = 1) -> Message:
        return self.ask(ASK, who, client=address)

    def reboot(self, address: IPv4Address, who: int = 1) -> Message:
        return self.ask(ASK, who, options={Option.REQUESTED_ADDRESS: address.packed})

    def ignored(self) -> str:
        """Return why a message was ignored, and forget it."""
        [(cause, count)] = self.answers.ignored.items()
        assert count == 1
        self.answers.ignored.clear()
        return cause


# Leases


def test_what_is_told() -> None:
    lan = Lan(
        routers=(OWN.ip, at(2)),
        dns=(at(3),),
        domains=("example", "example.org"),
        mtu=1400,
    )
    offer = lan.ask(DISCOVER, flags=BROADCAST)
    assert offer.op == REPLY
    assert (offer.xid, offer.mac, offer.flags) == (7, mac(1), BROADCAST)
    assert offer.yours == at(10)
    assert offer.address(Option.SERVER) == OWN.ip
    assert offer.number(Option.LEASE_TIME, 4) == 60
    assert offer.prefix_length == 24
    assert offer.addresses(Option.ROUTERS) == (OWN.ip, at(2))
    assert offer.addresses(Option.DNS) == (at(3),)
    assert offer.domains == ("example", "example.org")
    assert offer.options[Option.DOMAIN] == b"example"
    assert offer.number(Option.MTU, 2) == 1400
    assert lan.leased == []


def test_only_what_is_asked_for() -> None:
    lan = Lan(routers=(OWN.ip,), dns=(at(3),), domains=("example",))
    wanted = bytes([Option.DNS, Option.NETMASK])
    offer = lan.ask(DISCOVER, options={Option.PARAMETERS: wanted})
    assert Option.DNS in offer.options
    assert Option.NETMASK in offer.options
    assert not {Option.ROUTERS, Option.DOMAIN} & offer.options.keys()


def test_what_is_not_there_is_not_told() -> None:
    offer = Lan().ask(DISCOVER)
    assert offer.options.keys() == {
        Option.MESSAGE_TYPE,
        Option.SERVER,
        Option.LEASE_TIME,
        Option.NETMASK,
    }


def test_for_ever() -> None:
    lan = Lan(seconds=None)
    assert lan.ask(DISCOVER).options[Option.LEASE_TIME] == b"\xff" * 4
    lan.lease()
    lan.now = 1e9
    lan.answers.expire(lan.now)
    assert lan.ended == []


def test_each_gets_its_own_and_keeps_it() -> None:
    lan = Lan()
    assert [lan.lease(number) for number in (1, 2, 3)] == [at(10), at(11), at(12)]
    assert [lan.lease(number) for number in (3, 1, 2)] == [at(12), at(10), at(11)]
    assert lan.say(DISCOVER, 4) is None
    assert lan.ignored() == "no address left"


def test_what_a_client_asks_for() -> None:
    lan = Lan()
    wanted = {Option.REQUESTED_ADDRESS: at(11).packed}
    assert lan.ask(DISCOVER, 1, options=wanted).yours == at(11)
    assert lan.ask(DISCOVER, 2, options=wanted).yours == at(10)
    other = {Option.REQUESTED_ADDRESS: at(99).packed}
    assert lan.ask(DISCOVER, 3, options=other).yours == at(12)


def test_an_offer_does_not_last() -> None:
    lan = Lan(last=10)
    assert lan.ask(DISCOVER, 1).yours == at(10)
    assert lan.say(DISCOVER, 2) is None
    lan.now += _dhcp4_leases.OFFER_SECONDS
    assert lan.lease(2) == at(10)
    assert lan.ended == []


def test_another_servers_offer_was_taken() -> None:
    lan = Lan(last=10)
    lan.ask(DISCOVER, 1)
    elsewhere = {Option.SERVER: at(2).packed, Option.REQUESTED_ADDRESS: at(9).packed}
    assert lan.say(ASK, 1, options=elsewhere) is None
    assert lan.answers.ignored["for another server"] == 1
    assert lan.lease(2) == at(10)


def test_more_time_and_its_end() -> None:
    lan = Lan()
    address = lan.lease()
    lan.now = 59
    assert lan.renew(address).type is ACK
    lan.now = 118
    lan.answers.expire(lan.now)
    assert lan.ended == []
    assert lan.books.next_due <= 119
    lan.now = 130  # the loop was busy
    lan.answers.expire(lan.now)
    assert lan.ended == [address]
    assert lan.ended_at == [119]
    assert lan.books.leased == []


def test_more_time_goes_to_the_client_alone() -> None:
    lan = Lan()
    address = lan.lease()
    message = Message(REQUEST, 7, mac(1), {53: bytes([ASK])}, client=address)
    answer = lan.answers.answer(message.pack(), address, lan.now)
    assert answer is not None
    assert answer.to == address


def test_the_remembered_one_again_after_the_end() -> None:
    lan = Lan()
    lan.lease(1)
    address = lan.lease(2)
    lan.now = 100
    assert lan.lease(2) == address


def test_fresh_ones_first_then_the_oldest() -> None:
    lan = Lan()
    lan.lease(1)
    lan.now = 30
    lan.lease(2)
    lan.now = 100  # both are over, the first one for longer
    assert lan.lease(3) == at(12)
    assert lan.lease(4) == at(10)
    assert lan.lease(5) == at(11)


def test_releasing() -> None:
    lan = Lan(last=10)
    address = lan.lease()
    server = {Option.SERVER: OWN.ip.packed}
    assert lan.say(MessageType.RELEASE, 2, client=address, options=server) is None
    assert lan.ignored() == "of no lease"
    assert lan.say(MessageType.RELEASE, 1, client=at(11), options=server) is None
    assert lan.ignored() == "of no lease"
    assert lan.say(MessageType.RELEASE, 1, client=address, options=server) is None
    assert not lan.answers.ignored
    assert lan.ended == [address]
    assert lan.say(MessageType.RELEASE, 1, client=address, options=server) is None
    assert lan.ignored() == "of no lease"
    assert lan.lease(2) == address


def test_declining() -> None:
    lan = Lan(last=11)
    address = lan.lease()
    options = {
        Option.SERVER: OWN.ip.packed,
        Option.REQUESTED_ADDRESS: address.packed,
    }
    assert lan.say(MessageType.DECLINE, 2, options=options) is None
    assert lan.ignored() == "of no lease"
    assert lan.say(MessageType.DECLINE, 1, options=options) is None
    assert lan.ended == [address]
    # Nobody gets it for a while.
    assert lan.lease(1) == at(11)
    assert lan.say(DISCOVER, 2) is None
    assert lan.reboot(address, 2).type is NAK
    lan.now += _dhcp4_leases.DECLINED_SECONDS
    assert lan.lease(1) == at(11)
    assert lan.lease(2) == address


def test_declining_an_offer() -> None:
    lan = Lan()
    offer = lan.ask(DISCOVER)
    options = {
        Option.SERVER: OWN.ip.packed,
        Option.REQUESTED_ADDRESS: offer.yours.packed,
    }
    lan.say(MessageType.DECLINE, options=options)
    entry = lan.books.at(offer.yours)
    assert entry is not None
    assert entry.standing is Standing.DECLINED
    assert lan.ended == []


def test_revoking() -> None:
    lan = Lan()
    address = lan.lease()
    entry = lan.books.at(address)
    assert entry is not None
    lan.answers.revoke(entry)
    assert lan.ended == [address]
    for refused in (lan.renew(address), lan.reboot(address), lan.renew(address)):
        assert refused.type is NAK
        assert refused.text == "the lease was revoked"
    again = lan.lease()
    assert again != address
    assert lan.renew(again).type is ACK


# Coming back


def test_coming_back() -> None:
    lan = Lan()
    address = lan.lease()
    back = lan.reboot(address)
    assert back.type is ACK
    assert back.yours == address
    assert back.number(Option.LEASE_TIME, 4) == 60


def test_coming_back_to_a_server_that_has_begun_anew() -> None:
    assert Lan().reboot(at(11)).type is ACK
    assert Lan().renew(at(11)).type is ACK


@pytest.mark.parametrize("how", ["renew", "reboot"])
def test_coming_back_with_a_wrong_address(how: str) -> None:
    lan = Lan()
    lan.lease(1)
    lan.lease(2)
    back = getattr(lan, how)
    for address, why in (
        (IPv4Address("10.1.0.10"), "10.1.0.10 is not in 10.0.0.0/24"),
        (at(11), "10.0.0.10 is yours, not 10.0.0.11"),
    ):
        refused = back(address, 1)
        assert refused.type is NAK
        assert refused.text == why
        assert refused.yours == NOBODY
        assert Option.LEASE_TIME not in refused.options
    assert back(at(11), 3).text == "10.0.0.11 is not to be had"
    assert lan.ended == []


def test_coming_back_with_an_address_that_is_not_ours_to_give() -> None:
    lan = Lan()
    for fields in (
        {"options": {Option.REQUESTED_ADDRESS: at(99).packed}},
        {"client": at(99)},
        {"client": OWN.ip},
    ):
        assert lan.say(ASK, **fields) is None
        assert lan.ignored() == "unknown address"


def test_requesting_what_was_not_offered() -> None:
    lan = Lan()
    options = {Option.SERVER: OWN.ip.packed, Option.REQUESTED_ADDRESS: at(99).packed}
    assert lan.ask(ASK, options=options).type is NAK
    options[Option.REQUESTED_ADDRESS] = at(10).packed
    assert lan.ask(ASK, options=options).type is ACK  # the offer was forgotten, say
    assert lan.ask(ASK, 2, options=options).type is NAK


# Who is who


def test_a_client_is_what_it_calls_itself() -> None:
    lan = Lan()
    one, two = ({Option.CLIENT_ID: name} for name in (b"\0one", b"\0two"))
    address = lan.lease(1, options=one)
    assert lan.lease(1, options=two) != address
    assert lan.lease(2, options=one) == address
    entry = lan.books.at(address)
    assert entry is not None
    assert (entry.mac, entry.client_id) == (mac(2), b"\0one")
    # RFC 6842
    assert lan.ask(DISCOVER, options=one).options[Option.CLIENT_ID] == b"\0one"


def test_reservations() -> None:
    lan = Lan(reserved={"02:00:00:00:00:01": at(10), "printer": "10.0.0.50"})
    assert lan.lease(2) == at(11)
    assert lan.lease(1, options={Option.CLIENT_ID: b"\xffduid"}) == at(10)
    assert lan.lease(3, options={Option.CLIENT_ID: b"\0printer"}) == at(50)
    assert lan.say(DISCOVER, 4, options={Option.CLIENT_ID: b"printer"}) is None
    assert lan.ignored() == "no address left"  # somebody has it under that name
    wanted = {Option.REQUESTED_ADDRESS: at(50).packed}
    assert lan.ask(DISCOVER, 5, options=wanted).yours == at(12)


@pytest.mark.parametrize(
    ("name", "expected", "answered"),
    [
        (
            ClientName("Web", server_adds=True),
            "web.example",
            ClientName("Web.example", server_adds=True),
        ),
        (ClientName("web.other.org"), "web.other.org", ClientName("web.other.org")),
        (
            ClientName("web", server_adds=True, nobody_adds=True, encoded=False),
            "web.example",
            ClientName("web.example", nobody_adds=True, encoded=False),
        ),
        (ClientName("", server_adds=True), "box.example", ClientName("", True)),
    ],
)
def test_names(name: ClientName, expected: str, answered: ClientName) -> None:
    lan = Lan(domains=("example",))
    options = {Option.CLIENT_NAME: name.pack(), Option.HOST_NAME: b"box"}
    address = lan.lease(options=options)
    entry = lan.books.at(address)
    assert entry is not None
    assert entry.name == expected
    offer = lan.ask(DISCOVER, options=options)
    assert offer.client_name == answered
    assert offer.options[Option.CLIENT_NAME][1:3] == b"\xff\xff"


def test_a_name_of_the_old_kind_or_none() -> None:
    lan = Lan()
    entry = lan.books.at(lan.lease(1, options={Option.HOST_NAME: b"Box"}))
    assert entry is not None
    assert entry.name == "box"
    assert Option.CLIENT_NAME not in lan.ask(DISCOVER, 1).options
    entry = lan.books.at(lan.lease(2, options={Option.HOST_NAME: b"<script>"}))
    assert entry is not None
    assert entry.name is None


def test_a_client_that_takes_little() -> None:
    lan = Lan(domains=tuple(f"{'x' * 60}{number}.example" for number in range(9)))
    assert len(lan.say(DISCOVER).data) <= 548  # type: ignore[union-attr]
    more = {Option.MAX_SIZE: (1500).to_bytes(2, "big")}
    assert len(lan.ask(DISCOVER, options=more).domains) == 9


# What is ignored


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        (Message(REPLY, 1, mac(1), {53: b"\1"}), "not a request"),
        (Message(REQUEST, 1, b"\1" * 16, {53: b"\1"}), "not Ethernet"),
        (Message(REQUEST, 1, mac(1), {53: b"\1"}, hardware=6), "not Ethernet"),
        (Message(REQUEST, 1, mac(1), {53: b"\1"}, relay=at(2)), "relayed"),
        (Message(REQUEST, 1, mac(1), {53: b"\1", 61: bytes(256)}), "malformed"),
        (Message(REQUEST, 1, mac(1), {}), "not a client's message"),
        (Message(REQUEST, 1, mac(1), {53: b"\2"}), "not a client's message"),
        (Message(REQUEST, 1, mac(1), {53: b"\x63"}), "not a client's message"),
        (Message(REQUEST, 1, mac(1), {53: b"\7"}), "for another server"),
        (Message(REQUEST, 1, mac(1), {53: b"\4"}), "for another server"),
        (Message(REQUEST, 1, mac(1), {53: b"\3"}), "no address in it"),
        (Message(REQUEST, 1, mac(1), {53: b"\x08"}), "INFORM from elsewhere"),
        (
            Message(REQUEST, 1, mac(1), {53: b"\x08"}, client=at(9)),
            "INFORM from elsewhere",
        ),
    ],
)
def test_what_is_ignored(message: Message, cause: str) -> None:
    lan = Lan()
    assert lan.answers.answer(message.pack(), at(8), 0) is None
    assert lan.ignored() == cause
    assert lan.books.size == 0


def test_informing() -> None:
    lan = Lan(domains=("example",))
    answer = lan.say(MessageType.INFORM, client=at(77), source=at(77))
    assert answer is not None
    assert answer.to == at(77)
    told = Message.parse(answer.data)
    assert told.type is ACK
    assert told.yours == NOBODY
    assert Option.LEASE_TIME not in told.options
    assert lan.books.size == 0
    far = IPv4Address("192.0.2.1")
    assert lan.say(MessageType.INFORM, client=far, source=far) is None


def test_there_is_an_end_to_it() -> None:
    """Whoever asks under any number of names gets what there is, and no memory."""
    lan = Lan(first=10, last=250)
    for number in range(2000):
        client_id = {Option.CLIENT_ID: number.to_bytes(4, "big")}
        lan.say(DISCOVER, options=client_id)
        lan.now += 0.1
    assert lan.books.size == 241
    for _ in range(2000):
        lan.renew(lan.lease(1))
        lan.now += 1
    assert len(lan.books._due) < 1000
    assert len(lan.books._idle) < 1000


# The settings


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        ("10.0.0.100-10.0.0.199", (at(100), at(199))),
        ("10.0.0.9 - 10.0.0.9", (at(9), at(9))),
        ("10.0.0.128/25", (at(128), at(255))),
        (IPv4Network("10.0.0.128/25"), (at(128), at(255))),
    ],
)
def test_pools(pool: Any, expected: Any) -> None:
    assert parse_pool(pool) == expected


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"pool": "10.0.0.9-10.0.0.1"}, "the lower address comes first"),
        ({"pool": "all"}, "write two addresses"),
        ({"pool": "10.0.0.1-10.0.0.2-10.0.0.3"}, "write two addresses"),
        ({"pool": "10.0.0.1/24"}, "host bits"),
        ({"pool": "fd00::/64"}, "write two addresses"),
        ({"lease_time": 0}, "lease_time=0: must be a number from 1"),
        ({"lease_time": 1 << 32}, "or None"),
        ({"lease_time": 1.5}, "must be a number"),
        ({"mtu": 60}, "mtu=60"),
        ({"dns": "fd00::1"}, "this is DHCP for IPv4"),
        ({"router": "nowhere"}, "is no address"),
        ({"domain": "not a name"}, "is no name"),
        ({"reservations": {"a": "10.0.0.2", "b": "10.0.0.2"}}, "twice"),
        ({"reservations": {"a": "x"}}, r"reservations\['a'\]"),
    ],
    ids=str,
)
async def test_what_cannot_be_right(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        Dhcp4Server(aioioth.Stack("null://"), **options)


def test_who_is_in_the_pool() -> None:
    terms = Terms(OWN, 60, routers=(at(2),), dns=(at(3),))
    pool = make_pool(terms, None, [at(4)])
    assert (pool.first, pool.last) == (at(1), at(254))
    assert next(iter(pool)) == at(5)
    assert len(list(pool)) == 250
    assert not {at(0), OWN.ip, at(2), at(3), at(4), at(255)} & set(pool)
    whole = parse_pool("10.0.0.0/24")
    assert list(make_pool(terms, whole, [at(4)])) == list(pool)
    two = Terms(IPv4Interface("10.0.0.4/31"), 60)
    assert list(make_pool(two, None, [])) == [at(5)]
    large = make_pool(Terms(IPv4Interface("10.0.0.1/8"), 60), None, [])
    assert len(list(large)) == 65_535


def test_who_is_no_client() -> None:
    terms = Terms(OWN, 60)
    for address in ("10.0.0.1", "10.1.0.1", "10.0.0.0", "10.0.0.255"):
        with pytest.raises(ConfigurationError, match="no client's address"):
            check_reserved(terms, parse_reservations({"me": address}))


def test_an_entry_moves_with_its_client() -> None:
    books = Books(Pool(at(10), at(12)), {})
    books.offer(b"a", at(10), 0)
    books.offer(b"a", at(11), 0)
    first, second = books.at(at(10)), books.at(at(11))
    assert isinstance(first, Entry)
    assert first.standing is Standing.FREE
    assert books.of(b"a") is second
    books.lease(b"b", at(10), 60)
    assert books.of(b"b") is first
    assert books.may_have(b"a", at(10)) is False
