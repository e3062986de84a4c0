"""DHCPv6: any bytes to the codec, any messages to the client and to the server."""

from __future__ import annotations

import math
import random
from ipaddress import IPv6Address, IPv6Network
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings, strategies as st

from aioioth._autoconf.dhcp6_exchange import Apply, Send
from aioioth._autoconf.dhcp6_machine import Machine
from aioioth.servers._dhcp6_answers import Answers, Terms
from aioioth.servers._dhcp6_bindings import Bindings, Pool
from aioioth.wire.dhcp6 import Kind, Message, Option, duid_of
from aioioth.wire.domains import parse_names

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import SearchStrategy

    from aioioth._autoconf.dhcp6_exchange import Action

FUZZ = settings(database=None, deadline=None, max_examples=100)

MAC = b"\2\0\0\0\0\1"
CLIENT, SERVER = duid_of(MAC), duid_of(b"\2\0\0\0\0\2")
ADDRESS = IPv6Address("fd00::100").packed
PREFIX = IPv6Network("fd00:1::/64")


def option(code: int, body: bytes) -> bytes:
    return code.to_bytes(2, "big") + len(body).to_bytes(2, "big") + body


# Little to choose from, so that something happens.
TIMES = st.sampled_from([0, 1, 2, 60, 0xFFFF_FFFF]).map(lambda n: n.to_bytes(4, "big"))
CODES = st.integers(0, 7).map(lambda n: n.to_bytes(2, "big") + b"so")
ADDRESSES = st.sampled_from(
    [ADDRESS, IPv6Address("fd00::101").packed, bytes(16), b"\xff" * 16]
)
NAMES = st.sampled_from([b"\3web", b"\3web\3lab\0", b"\0", b"\xc0\0", b"\4a b\n\0"])


@st.composite
def associations(draw: Callable[[SearchStrategy[Any]], Any], prefixes: bool) -> bytes:
    body = draw(st.sampled_from([MAC[-4:], b"abcd"])) + draw(TIMES) + draw(TIMES)
    for _ in range(draw(st.integers(0, 2))):
        times = draw(TIMES) + draw(TIMES)
        if prefixes:
            length = bytes([draw(st.sampled_from([0, 64, 128, 129]))])
            inner = times + length + draw(ADDRESSES)
        else:
            inner = draw(ADDRESSES) + times
        if draw(st.integers(0, 5)) == 0:
            inner += option(Option.STATUS, draw(CODES))
        body += option(Option.PREFIX if prefixes else Option.ADDRESS, inner)
    if draw(st.integers(0, 3)) == 0:
        body += option(Option.STATUS, draw(CODES))
    result: bytes = body
    return result


BODIES: dict[int, SearchStrategy[bytes]] = {
    Option.CLIENT_ID: st.just(CLIENT),
    Option.SERVER_ID: st.just(SERVER),
    Option.IA_NA: associations(prefixes=False),
    Option.IA_PD: associations(prefixes=True),
    Option.REQUESTED: st.just(b"\0\x17\0\x18\0\x27"),
    Option.PREFERENCE: st.sampled_from([b"\0", b"\xff"]),
    Option.ELAPSED: st.just(b"\0\0"),
    Option.STATUS: CODES,
    Option.RAPID_COMMIT: st.just(b""),
    Option.DNS: st.lists(ADDRESSES, max_size=2).map(b"".join),
    Option.DOMAINS: st.lists(NAMES, max_size=2).map(b"".join),
    Option.REFRESH: TIMES,
    Option.FQDN: NAMES.map(lambda name: b"\1" + name),
    Option.SOL_MAX_RT: TIMES,
    Option.INF_MAX_RT: TIMES,
}


@st.composite
def messages(
    draw: Callable[[SearchStrategy[Any]], Any], transaction: int | None = None
) -> bytes:
    """Mostly a message; identities are there nearly always."""
    kind = draw(st.sampled_from(Kind))
    number = draw(st.integers(0, 0xFF_FFFF)) if transaction is None else transaction
    packed = bytes([kind]) + number.to_bytes(3, "big")
    for code, bodies in BODIES.items():
        often = code in {Option.CLIENT_ID, Option.SERVER_ID, Option.IA_NA}
        if draw(st.integers(0, 9)) < (8 if often else 3):
            body = draw(bodies if draw(st.integers(0, 9)) else st.binary(max_size=20))
            packed += option(code, body)
    if draw(st.integers(0, 9)) == 0:
        packed = packed[: draw(st.integers(0, len(packed)))]
    return packed


class Client:
    """Does what a client wants, with as little as possible."""

    def __init__(self, prefix_length: int | None) -> None:
        self.now = 0.0
        self.sent: list[int] = []
        self.machine = Machine(MAC, "web.lab", prefix_length, rng=random.Random(1))
        self.do(self.machine.start(0))

    def do(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                assert Message.parse(action.message.pack()) == action.message
                self.sent.append(action.message.transaction)
            else:
                self.check(action)

    def check(self, action: Apply) -> None:
        lease = action.lease
        assert (lease is None) == bool(action.cause)
        if lease is not None:
            assert len(lease.addresses) <= 16
            assert all(each.preferred <= each.valid for each in lease.held)
            assert all(each.valid > self.now for each in lease.held)
            assert not any(each.is_multicast for each in (*lease.addresses, *lease.dns))
            assert not any(char in name for name in lease.domains for char in " \n")


@FUZZ
@given(st.data())
def test_the_client(data: st.DataObject) -> None:
    client = Client(data.draw(st.none() | st.just(64)))
    for _ in range(15):
        client.now += data.draw(st.sampled_from([0, 0.1, 1, 50]))
        transaction = data.draw(st.sampled_from(client.sent[-2:]))
        what = data.draw(st.integers(0, 9))
        if what < 7:
            try:
                message = Message.parse(data.draw(messages(transaction)))
            except ValueError:
                continue
            client.do(client.machine.received(message, client.now))
        elif what == 7:
            taken = [IPv6Address(ADDRESS)]
            client.do(client.machine.duplicates(taken, client.now))
        elif what == 8:
            client.do(client.machine.refresh(client.now))
        else:
            deadline = client.machine.deadline
            client.now = max(client.now, 0 if deadline == math.inf else deadline)
            client.do(client.machine.timer(client.now))
    # At most some messages for each thing that came.
    assert len(client.sent) < 60
    # Left alone, it goes on for ever and slowly.
    begun, sent = client.now, len(client.sent)
    for _ in range(60):
        if client.machine.deadline == math.inf:
            return
        client.now = max(client.now, client.machine.deadline)
        client.do(client.machine.timer(client.now))
    assert client.now - begun > (len(client.sent) - sent) / 5


@FUZZ
@given(st.lists(messages() | st.binary(max_size=40), max_size=20))
def test_the_server(questions: list[bytes]) -> None:
    pool = Pool.between(IPv6Address("fd00::100"), IPv6Address("fd00::103"))
    terms = Terms(SERVER, (IPv6Network("fd00::/64"),), dns=(IPv6Address(ADDRESS),))
    addresses = Bindings(pool)
    prefixes = Bindings(Pool.inside(PREFIX, 66))
    answers = Answers(terms, addresses, prefixes)
    answered = 0
    for now, data in enumerate(questions):
        reply = answers.answer(data, now * 100.0)
        if reply is not None:
            answered += 1
            assert Message.parse(reply).kind in {Kind.ADVERTISE, Kind.REPLY}
        assert len({each.address for each in addresses}) == len(addresses) <= 4
        assert len({each.address for each in prefixes}) == len(prefixes) <= 4
    assert answered + answers.ignored.total() == len(questions)
    held: set[IPv6Address] = set()
    for change in answers.take_changes():
        address = change.binding.address
        assert address in held or not change.ended
        held ^= {address} & held if change.ended else {address} - held
    assert held == {each.address for each in (*addresses, *prefixes)}


def test_large_messages() -> None:
    """As many of everything as a datagram takes: it is read once."""
    header = bytes([Kind.SOLICIT]) + b"\0\0\1" + option(Option.CLIENT_ID, CLIENT)
    inner = option(Option.ADDRESS, ADDRESS + bytes(8))
    many = [
        option(Option.IA_NA, bytes(12)),
        option(Option.IA_NA, bytes(12) + inner * 20),
        option(Option.STATUS, b"\0\0"),
        option(Option.REQUESTED, b"\0\x17" * 500),
        option(Option.DNS, ADDRESS * 50),
        option(999, b""),
    ]
    pool = Pool.inside(IPv6Network("fd00::/64"))
    answers = Answers(Terms(SERVER, ()), Bindings(pool), Bindings(None))
    for each in many:
        data = header + each * (60_000 // len(each))
        reply = answers.answer(data, 0)
        assert reply is not None
        assert len(reply) < 2000
    assert not answers.ignored
    names = option(Option.DOMAINS, b"\1a\0" * 20_000)
    assert Message.parse(header + names).domains is None  # too many


def test_long_chains_of_pointers() -> None:
    """Each name a pointer to the one before: it does not take the square of it."""
    data = b"\1a\0"
    target = 0
    while len(data) < 0x3FFF:
        data += (0xC000 | target).to_bytes(2, "big")
        target = len(data) - 2
    with pytest.raises(ValueError, match="pointer"):
        parse_names(data, compressed=True)
    assert len(parse_names(data[: 3 + 2 * 127], compressed=True)) == 128
