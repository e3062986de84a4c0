"""DHCPv4: any bytes to the codec, any messages to the client and to the server."""

from __future__ import annotations

import math
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Interface
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings, strategies as st

from aioioth._autoconf.dhcp4_actions import Bind, Lose, Send
from aioioth._autoconf.dhcp4_machine import Machine
from aioioth.servers._dhcp4_answers import Answers, Terms
from aioioth.servers._dhcp4_leases import Books, Pool, Standing
from aioioth.wire.arp import ArpPacket
from aioioth.wire.dhcp4 import REPLY, REQUEST, Message, Option

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import SearchStrategy

    from aioioth._autoconf.dhcp4_actions import Action
    from aioioth._autoconf.dhcp4_lease import Lease

FUZZ = settings(database=None, deadline=None, max_examples=100)

MAC, OTHER = b"\2\0\0\0\0\1", b"\2\0\0\0\0\2"
OWN = IPv4Interface("10.0.0.1/24")

# Little to choose from, so that something happens.
ADDRESSES = st.sampled_from(
    ["0.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.9", "255.255.255.255"]
).map(IPv4Address) | st.ip_addresses(v=4)
VALUES = {
    Option.MESSAGE_TYPE: st.integers(0, 9).map(lambda kind: bytes([kind])),
    Option.SERVER: ADDRESSES.map(lambda address: address.packed),
    Option.REQUESTED_ADDRESS: ADDRESSES.map(lambda address: address.packed),
    Option.NETMASK: ADDRESSES.map(lambda address: address.packed),
    Option.ROUTERS: ADDRESSES.map(lambda address: address.packed),
    Option.CLIENT_ID: st.sampled_from([b"a", b"b", b"\1" + MAC, b"x" * 300]),
    Option.CLIENT_NAME: st.sampled_from([b"\5\0\0\1a", b"\0\0\0a.b", b"\x0f\1"]),
    Option.PARAMETERS: st.binary(max_size=5),
    Option.MAX_SIZE: st.binary(max_size=2),
    **{
        option: st.sampled_from([0, 1, 2, 60, 0xFFFFFFFF]).map(
            lambda seconds: seconds.to_bytes(4, "big")
        )
        for option in (Option.LEASE_TIME, Option.RENEWAL_TIME, Option.REBINDING_TIME)
    },
}


@st.composite
def messages(draw: Callable[[SearchStrategy[Any]], Any], op: int) -> Message:
    options = {}
    for option, values in VALUES.items():
        if draw(st.integers(0, 3)):
            options[int(option)] = draw(values | st.binary(max_size=8))
    return Message(
        draw(st.sampled_from([op, op, op, 3 - op])),
        draw(st.sampled_from([7, 7, 7, 8])),
        draw(st.sampled_from([MAC, OTHER, b""])),
        options,
        client=draw(ADDRESSES),
        yours=draw(ADDRESSES),
        relay=draw(st.sampled_from([IPv4Address(0)] * 3 + [IPv4Address(1)])),
    )


def look_at_everything(message: Message) -> None:
    for name in ("type", "prefix_length", "domains", "routes", "host_name", "text"):
        getattr(message, name)
    message.client_name  # noqa: B018
    for option in message.options:
        message.addresses(option)
        message.number(option, 4)


@FUZZ
@given(
    st.binary(max_size=400)
    | st.binary(min_size=236, max_size=236).flatmap(
        lambda head: st.binary(max_size=400).map(lambda rest: head + b"c\x82Sc" + rest)
    )
)
def test_any_bytes(data: bytes) -> None:
    with suppress(ValueError):
        message = Message.parse(data)
        look_at_everything(message)
        assert Message.parse(message.pack()).options.keys() <= {*range(1, 255)}


STEPS = st.one_of(
    messages(REPLY),
    st.builds(ArpPacket, st.integers(1, 2), st.just(OTHER), ADDRESSES, ADDRESSES),
    st.sampled_from(["timer", "refresh", "release"]),
    st.floats(0, 100),
)


class Watched:
    """A machine, and what it says is in use."""

    def __init__(self) -> None:
        self.machine = Machine(MAC, "a.example", random=lambda: 0.5, new_xid=lambda: 7)
        self.now = 0.0
        self.bound: Lease | None = None

    def do(self, step: Any) -> list[Action]:
        machine = self.machine
        if isinstance(step, Message):
            return machine.receive(step, self.now)
        if isinstance(step, ArpPacket):
            return machine.hear(step, self.now)
        if step == "release":
            self.bound = None
            return machine.release()
        if step == "refresh":
            return machine.refresh(self.now)
        if step != "timer":
            self.now += step
        elif machine.deadline != math.inf:
            self.now = max(self.now, machine.deadline)
        return machine.timer(self.now)

    def look_at(self, action: Action) -> None:
        if isinstance(action, Bind):
            self.bound = action.lease
            assert self.now < self.bound.expires
            self.bound.findings("eth0", 1000, self.now)
        elif isinstance(action, Lose):
            assert self.bound is not None
            self.bound = None
        elif isinstance(action, Send):
            Message.parse(action.message.pack())


@FUZZ
@given(st.lists(STEPS, max_size=60))
def test_the_client(steps: list[Any]) -> None:
    watched = Watched()
    for action in watched.machine.start(watched.now):
        watched.look_at(action)
    for step in steps:
        actions = watched.do(step)
        assert len(actions) <= 3
        for action in actions:
            watched.look_at(action)
        # Nobody can make it work without a rest, or use an address for too long.
        assert watched.machine.deadline > watched.now
        if watched.bound is not None:
            assert watched.machine.deadline <= watched.bound.expires


@FUZZ
@given(
    st.lists(
        st.tuples(st.floats(0, 50), messages(REQUEST), ADDRESSES)
        | st.binary(max_size=300),
        max_size=60,
    )
)
def test_the_server(steps: list[Any]) -> None:
    pool = Pool(IPv4Address("10.0.0.2"), IPv4Address("10.0.0.4"))
    reserved = {b"\1" + OTHER: IPv4Address("10.0.0.9")}
    books = Books(pool, reserved)
    holding: set[IPv4Address] = set()
    answers = Answers(
        Terms(OWN, 60, domains=("example",)),
        books,
        frozenset(reserved),
        lambda entry: holding.add(entry.address),
        lambda entry: holding.remove(entry.address),
    )
    now = 0.0
    for step in steps:
        data, source = step, IPv4Address("10.0.0.7")
        if not isinstance(step, bytes):
            delay, message, source = step
            now += delay
            data = message.pack()
        before = sum(answers.ignored.values())
        answer = answers.answer(data, source, now)
        if answer is not None:
            said = Message.parse(answer.data)
            assert said.op == REPLY
            assert len(answer.data) <= 1472
            assert said.yours in {IPv4Address(0), *pool, *reserved.values()}
            assert answer.to is None or answer.to in OWN.network
        assert sum(answers.ignored.values()) in {before, before + 1}
        assert {entry.address for entry in books.leased} == holding
        assert books.size <= 4
        assert all(entry.until > now for entry in books.leased)
        for address in holding:
            entry = books.at(address)
            assert entry is not None
            assert entry.standing is Standing.LEASED
            assert books.of(entry.key) is entry
