"""The DHCPv4 client's states, one after the other, on a clock of the tests'."""

from __future__ import annotations

import math
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Any

import pytest

from aioioth._autoconf.dhcp4_actions import Action, Bind, Lose, Probe, Send, State
from aioioth._autoconf.dhcp4_machine import Machine
from aioioth.wire.arp import ArpPacket
from aioioth.wire.dhcp4 import (
    REPLY,
    REQUEST,
    ClientName,
    Message,
    MessageType,
    Option,
    pack_addresses,
    pack_routes,
)

if TYPE_CHECKING:
    from aioioth._autoconf.dhcp4_lease import Lease

MAC, OTHER = b"\2\0\0\0\0\1", b"\2\0\0\0\0\2"
ADDRESS = IPv4Address("10.0.0.100")
SERVER = IPv4Address("10.0.0.1")
ELSE = IPv4Address("10.0.0.2")
NOBODY = IPv4Address(0)


class Client:
    """A machine whose clock and network are the test's."""

    def __init__(self, fqdn: str | None = None) -> None:
        self.now = 1000.0
        self.xids = iter(range(100, 10_000))
        self.machine = Machine(
            MAC, fqdn, random=lambda: 0.5, new_xid=lambda: next(self.xids)
        )
        self.sent: list[Send] = []
        self.actions: list[Action] = []

    @property
    def state(self) -> State:
        return self.machine.state

    @property
    def wait(self) -> float:
        return self.machine.deadline - self.now

    def did(self, actions: list[Action]) -> list[Action]:
        self.sent += [each for each in actions if isinstance(each, Send)]
        self.actions += actions
        return actions

    def start(self) -> list[Action]:
        return self.did(self.machine.start(self.now))

    def is_in(self, state: State) -> bool:
        return self.machine.state is state

    def timer(self) -> list[Action]:
        """Let time pass until it is due."""
        self.now = self.machine.deadline
        return self.did(self.machine.timer(self.now))

    def receive(self, message: Message) -> list[Action]:
        return self.did(self.machine.receive(message, self.now))

    @property
    def last(self) -> Message:
        return self.sent[-1].message

    def reply(self, kind: MessageType, **changes: Any) -> Message:
        """Return what a server says to what was sent last."""
        options = {
            Option.MESSAGE_TYPE: bytes([kind]),
            Option.SERVER: SERVER.packed,
            Option.LEASE_TIME: (3600).to_bytes(4, "big"),
            Option.NETMASK: bytes([255, 255, 255, 0]),
            Option.ROUTERS: SERVER.packed,
            **changes.pop("options", {}),
        }
        options = {code: value for code, value in options.items() if value is not None}
        fields = {"yours": ADDRESS, "xid": self.last.xid, "mac": MAC, **changes}
        return Message(fields.pop("op", REPLY), options=options, **fields)

    def answer(self, kind: MessageType, **changes: Any) -> list[Action]:
        return self.receive(self.reply(kind, **changes))

    def requesting(self) -> Client:
        self.start()
        self.answer(MessageType.OFFER)
        assert self.state is State.REQUESTING
        return self

    def probing(self, **changes: Any) -> Client:
        self.requesting()
        self.answer(MessageType.ACK, **changes)
        assert self.state is State.PROBING
        return self

    def bound(self, **changes: Any) -> Client:
        self.probing(**changes)
        while self.state is State.PROBING:
            self.timer()
        assert self.state is State.BOUND
        return self

    @property
    def lease(self) -> Lease:
        [*_, bind] = [each for each in self.actions if isinstance(each, Bind)]
        return bind.lease


# From nothing to a lease


def test_discovering() -> None:
    client = Client("Web.example.org")
    [send] = client.start()
    assert isinstance(send, Send)
    assert (send.source, send.server) == (NOBODY, None)
    asks = send.message
    assert asks.op == REQUEST
    assert asks.type is MessageType.DISCOVER
    assert asks.mac == MAC
    assert asks.flags == 0  # answers may come to us alone
    assert asks.options[Option.CLIENT_ID] == b"\1" + MAC
    wanted = asks.options[Option.PARAMETERS]
    assert wanted.index(Option.ROUTES) < wanted.index(Option.ROUTERS)  # RFC 3442
    assert asks.client_name == ClientName("Web.example.org", server_adds=True)
    assert Client().start()[0].message.client_name is None  # type: ignore[union-attr]


def test_nobody_offers_anything() -> None:
    client = Client()
    client.start()
    waits = []
    for _ in range(9):
        waits.append(client.wait)
        client.timer()
    assert waits == [1, 2, 4, 8, 16, 32, 64, 64, 64]
    assert client.is_in(State.SELECTING)
    assert {send.message.xid for send in client.sent} == {100}
    assert [send.message.secs for send in client.sent][:5] == [0, 1, 3, 7, 15]


@pytest.mark.parametrize(("number", "waits"), [(0, [0.75, 7, 63]), (1, [1.25, 9, 65])])
def test_not_all_ask_at_once(number: float, waits: list[float]) -> None:
    machine = Machine(MAC, None, random=lambda: number, new_xid=lambda: 1)
    machine.start(0)
    found = [machine.deadline]
    for _ in range(8):
        now = machine.deadline
        machine.timer(now)
        found.append(machine.deadline - now)
    assert [found[0], found[3], found[8]] == pytest.approx(waits)


def test_too_early() -> None:
    client = Client()
    client.start()
    client.now += 0.9
    assert client.machine.timer(client.now) == []


def test_requesting() -> None:
    client = Client("web.example")
    client.start()
    client.timer()
    [send] = client.answer(MessageType.OFFER)
    assert isinstance(send, Send)
    asks = send.message
    assert (send.source, send.server) == (NOBODY, None)
    assert asks.type is MessageType.REQUEST
    assert asks.xid == client.sent[0].message.xid
    assert asks.secs == 1  # as in the DISCOVER
    assert asks.address(Option.REQUESTED_ADDRESS) == ADDRESS
    assert asks.address(Option.SERVER) == SERVER
    assert asks.client == NOBODY
    assert asks.client_name is not None
    # Another offer comes too late.
    assert client.answer(MessageType.OFFER, yours=ELSE) == []
    assert client.answer(MessageType.ACK, yours=ELSE) == []


def test_who_offers_does_not_answer() -> None:
    client = Client().requesting()
    waits = []
    while client.is_in(State.REQUESTING):
        waits.append(client.wait)
        client.timer()
    assert waits == [1, 2, 4, 8]
    assert client.is_in(State.SELECTING)
    assert client.last.type is MessageType.DISCOVER
    assert client.last.xid != client.sent[0].message.xid


def test_an_offer_that_is_refused_then() -> None:
    client = Client()
    client.start()
    waits = []
    for _ in range(4):
        client.answer(MessageType.OFFER)
        assert client.answer(MessageType.NAK) == []
        assert client.is_in(State.INIT)
        assert not client.machine.is_listening
        waits.append(client.wait)
        client.timer()
        assert client.last.type is MessageType.DISCOVER
    assert waits == [1, 2, 4, 8]


def test_binding() -> None:
    client = Client().requesting()
    client.now += 0.5
    [probe] = client.answer(MessageType.ACK)
    assert probe == Probe(ADDRESS)
    assert not client.machine.is_listening
    assert client.timer() == [Probe(ADDRESS)]
    assert client.timer() == [Probe(ADDRESS)]
    [bind] = client.timer()
    assert isinstance(bind, Bind)
    assert client.is_in(State.BOUND)
    lease = bind.lease
    assert str(lease.address) == "10.0.0.100/24"
    assert lease.server == SERVER
    # From when the request was sent.
    assert (lease.renew, lease.rebind, lease.expires) == (2800, 4150, 4600)
    assert client.machine.deadline == 2800


def test_time_counts_from_the_first_request() -> None:
    client = Client().requesting()
    client.timer()
    client.timer()
    assert client.now == 1003
    client.answer(MessageType.ACK)
    while client.is_in(State.PROBING):
        client.timer()
    assert client.lease.expires == 4600


@pytest.mark.parametrize(
    "packet",
    [
        ArpPacket(2, OTHER, ADDRESS, NOBODY),
        ArpPacket(1, OTHER, ADDRESS, ADDRESS),
        ArpPacket.probe(OTHER, ADDRESS),
    ],
)
def test_somebody_has_the_address(packet: ArpPacket) -> None:
    client = Client().probing()
    assert client.machine.hear(ArpPacket.probe(MAC, ADDRESS), client.now) == []
    [send] = client.did(client.machine.hear(packet, client.now))
    assert isinstance(send, Send)
    assert (send.source, send.server) == (NOBODY, None)
    said = send.message
    assert said.type is MessageType.DECLINE
    assert said.address(Option.REQUESTED_ADDRESS) == ADDRESS
    assert said.address(Option.SERVER) == SERVER
    assert said.options[Option.CLIENT_ID] == b"\1" + MAC
    assert client.is_in(State.INIT)
    assert client.wait == 10
    assert client.machine.hear(packet, client.now) == []
    client.timer()
    assert client.last.type is MessageType.DISCOVER


def test_a_lease_that_is_over_before_it_is_probed() -> None:
    client = Client().probing(options={Option.LEASE_TIME: bytes([0, 0, 0, 1])})
    client.now += 5
    [send] = client.did(client.machine.timer(client.now))
    assert isinstance(send, Send)
    assert client.last.type is MessageType.DISCOVER


# What is ignored

WRONG: list[dict[str, Any]] = [
    {"xid": 1},
    {"mac": OTHER},
    {"mac": b""},
    {"op": REQUEST},
    {"options": {Option.SERVER: None}},
    {"options": {Option.SERVER: bytes(3)}},
    {"options": {Option.MESSAGE_TYPE: None}},
    {"options": {Option.MESSAGE_TYPE: b"\x09"}},
    {"options": {Option.MESSAGE_TYPE: b"\1"}},
]
NO_HOSTS = ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255"]


@pytest.mark.parametrize("changes", WRONG, ids=str)
def test_what_is_never_taken(changes: dict[str, Any]) -> None:
    client = Client()
    client.start()
    assert client.answer(MessageType.OFFER, **changes) == []
    client.answer(MessageType.OFFER)
    assert client.answer(MessageType.ACK, **changes) == []
    assert client.answer(MessageType.NAK, **changes) == []
    client.answer(MessageType.ACK)
    while client.is_in(State.PROBING):
        client.timer()
    client.timer()
    assert client.is_in(State.RENEWING)
    assert client.answer(MessageType.ACK, **changes) == []
    assert client.answer(MessageType.NAK, **changes) == []
    assert client.is_in(State.RENEWING)


@pytest.mark.parametrize("address", NO_HOSTS)
def test_no_hosts_address_is_offered(address: str) -> None:
    client = Client()
    client.start()
    assert client.answer(MessageType.OFFER, yours=IPv4Address(address)) == []


@pytest.mark.parametrize("address", ["10.1.1.0", "10.1.1.255"])
def test_a_networks_own_address(address: str) -> None:
    client = Client()
    client.start()
    yours = IPv4Address(address)
    # Another server may offer a better one.
    assert client.answer(MessageType.OFFER, yours=yours) == []
    large = {Option.NETMASK: bytes([255, 255, 0, 0])}
    client.answer(MessageType.OFFER, yours=yours, options=large)
    assert client.answer(MessageType.ACK, yours=yours) == []
    assert client.is_in(State.REQUESTING)


@pytest.mark.parametrize("kind", [MessageType.ACK, MessageType.NAK])
def test_another_server_answers_the_request(kind: MessageType) -> None:
    client = Client().requesting()
    assert client.answer(kind, options={Option.SERVER: ELSE.packed}) == []
    assert client.is_in(State.REQUESTING)


def test_a_lease_for_no_time() -> None:
    client = Client().requesting()
    assert client.answer(MessageType.ACK, options={Option.LEASE_TIME: bytes(4)}) == []


@pytest.mark.parametrize("kind", [MessageType.OFFER, MessageType.NAK, MessageType.ACK])
def test_nobody_was_asked(kind: MessageType) -> None:
    client = Client()
    early = Message(REPLY, 100, MAC, {53: bytes([kind]), 54: SERVER.packed})
    assert client.receive(early) == []
    client.bound()
    assert client.answer(kind) == []
    assert client.is_in(State.BOUND)


# Time


def seconds(number: float) -> bytes:
    return int(number).to_bytes(4, "big")


@pytest.mark.parametrize(
    ("lease", "renew", "rebind", "expected"),
    [
        (1000, None, None, (500, 875, 1000)),
        (1000, 100, 200, (100, 200, 1000)),
        (1000, 600, 500, (500, 875, 1000)),
        (1000, 100, 1000, (500, 875, 1000)),
        (1000, 0, 900, (500, 875, 1000)),
        (1000, 1001, None, (500, 875, 1000)),
        (1000, 600, None, (600, 875, 1000)),
        (None, None, None, (1800, 3150, 3600)),
        (0xFFFFFFFF, None, None, (math.inf,) * 3),
        (0xFFFFFFFF, 5, 6, (math.inf,) * 3),
        (1, None, None, (0.5, 0.875, 1)),
    ],
)
def test_times(
    lease: int | None,
    renew: int | None,
    rebind: int | None,
    expected: tuple[float, float, float],
) -> None:
    client = Client()
    options = {
        Option.LEASE_TIME: lease,
        Option.RENEWAL_TIME: renew,
        Option.REBINDING_TIME: rebind,
    }
    client.bound(
        options={
            option: None if value is None else seconds(value)
            for option, value in options.items()
        }
    )
    found = client.lease
    begin = 1000.0
    assert (
        found.renew - begin,
        found.rebind - begin,
        found.expires - begin,
    ) == pytest.approx(expected)


def test_a_lease_for_ever() -> None:
    client = Client().bound(options={Option.LEASE_TIME: b"\xff" * 4})
    assert client.machine.deadline == math.inf
    [address] = client.lease.findings("eth0", 1000, client.now).addresses
    assert address.valid is None
    assert address.preferred is None


def test_renewing() -> None:
    client = Client().bound()
    [send] = client.timer()
    assert isinstance(send, Send)
    assert client.is_in(State.RENEWING)
    assert (send.source, send.server) == (ADDRESS, SERVER)
    asks = send.message
    assert asks.type is MessageType.REQUEST
    assert asks.client == ADDRESS
    assert Option.SERVER not in asks.options
    assert Option.REQUESTED_ADDRESS not in asks.options
    client.now += 0.25
    [bind] = client.answer(MessageType.ACK)
    assert isinstance(bind, Bind)
    assert client.is_in(State.BOUND)
    assert client.lease.expires == 2800 + 3600
    # No probing: it has been ours all the time.
    assert client.machine.deadline == 2800 + 1800


def test_nobody_renews() -> None:
    client = Client().bound()
    times, states = [], []
    last: list[Action] = []
    while not client.is_in(State.SELECTING):
        states.append(client.state)
        times.append(client.machine.deadline - 1000)
        last = client.timer()
    # Half of what remains until 3150, and 3600, but at least a minute.
    assert times == pytest.approx(
        [
            *(1800, 2475, 2812.5, 2981.25, 3065.625, 3125.625, 3150),
            *(3375, 3487.5, 3547.5, 3600),
        ]
    )
    assert states == [State.BOUND] + [State.RENEWING] * 6 + [State.REBINDING] * 4
    lose, send = last
    assert lose == Lose("the lease has expired")
    assert isinstance(send, Send)
    assert send.message.type is MessageType.DISCOVER
    rebinding = [each for each in client.sent if each.source == ADDRESS][6:]
    assert {each.server for each in rebinding} == {None}
    # Each one is for itself, so that it is known from when a new lease counts.
    xids = [each.message.xid for each in client.sent if each.source == ADDRESS]
    assert len(set(xids)) == len(xids)


def test_a_lease_of_seconds() -> None:
    client = Client().bound(options={Option.LEASE_TIME: seconds(8)})
    times = []
    while not client.is_in(State.SELECTING):
        times.append(client.machine.deadline - 1000)
        client.timer()
    # At least a second between two requests.
    assert times == pytest.approx([4, 5.5, 6.5, 7, 8])


def test_a_late_answer_to_an_earlier_request() -> None:
    client = Client().bound()
    client.timer()
    late = client.reply(MessageType.ACK)
    client.timer()
    assert client.receive(late) == []


def test_rebinding_with_another_server() -> None:
    client = Client().bound()
    while not client.is_in(State.REBINDING):
        client.timer()
    asked = client.now
    [bind] = client.answer(MessageType.ACK, options={Option.SERVER: ELSE.packed})
    assert isinstance(bind, Bind)
    assert client.lease.server == ELSE
    assert client.lease.expires == asked + 3600


def test_more_time_for_another_address() -> None:
    client = Client().bound()
    client.timer()
    assert client.answer(MessageType.ACK, yours=ELSE) == []
    assert client.is_in(State.RENEWING)


def test_no_more_time() -> None:
    client = Client().bound()
    client.timer()
    # Nobody but our server was asked.
    assert client.answer(MessageType.NAK, options={Option.SERVER: ELSE.packed}) == []
    lose, send = client.answer(MessageType.NAK, options={Option.MESSAGE: b"go away"})
    assert lose == Lose("the server refuses the lease: go away")
    assert isinstance(send, Send)
    assert send.message.type is MessageType.DISCOVER
    assert client.is_in(State.SELECTING)


def test_anybody_may_refuse_when_all_were_asked() -> None:
    client = Client().bound()
    while not client.is_in(State.REBINDING):
        client.timer()
    lose, _ = client.answer(MessageType.NAK, options={Option.SERVER: ELSE.packed})
    assert lose == Lose("the server refuses the lease")


def test_a_clock_that_stood_still() -> None:
    """The machine was asleep for longer than the lease."""
    client = Client().bound()
    client.now += 10_000
    lose, _ = client.machine.timer(client.now)
    assert lose == Lose("the lease has expired")
    client = Client().bound()
    client.now += 3300
    client.did(client.machine.timer(client.now))
    assert client.is_in(State.REBINDING)


# Asking again, and leaving


def test_refreshing() -> None:
    client = Client("web.example").bound()
    client.now += 100
    [send] = client.did(client.machine.refresh(client.now))
    assert isinstance(send, Send)
    assert client.is_in(State.REBOOTING)
    assert (send.source, send.server) == (NOBODY, None)
    asks = send.message
    assert asks.type is MessageType.REQUEST
    assert asks.address(Option.REQUESTED_ADDRESS) == ADDRESS
    assert Option.SERVER not in asks.options
    assert asks.client == NOBODY
    client.timer()
    [bind] = client.answer(MessageType.ACK)
    assert isinstance(bind, Bind)


def test_refreshing_on_another_network() -> None:
    client = Client().bound()
    client.did(client.machine.refresh(client.now))
    lose, send = client.answer(MessageType.NAK, options={Option.SERVER: ELSE.packed})
    assert lose == Lose("the server refuses the lease")
    assert isinstance(send, Send)
    assert send.message.type is MessageType.DISCOVER


@pytest.mark.parametrize(
    ("passed", "after"),
    [(100, State.BOUND), (1798, State.RENEWING), (3148, State.REBINDING)],
)
def test_refreshing_and_nobody_answers(passed: float, after: State) -> None:
    """The lease is good as long as it was."""
    client = Client().bound()
    client.now = 1000 + passed
    client.did(client.machine.refresh(client.now))
    while client.is_in(State.REBOOTING):
        client.timer()
    assert client.is_in(after)
    assert not [each for each in client.actions if isinstance(each, Lose)]
    assert sum(each.message.xid == client.sent[2].message.xid for each in client.sent)


def test_refreshing_when_the_lease_is_about_to_end() -> None:
    client = Client().bound()
    client.now = 1000 + 3599.5
    client.did(client.machine.refresh(client.now))
    lose, _ = client.timer()
    assert lose == Lose("the lease has expired")
    assert client.now == 4600


def test_refreshing_without_a_lease() -> None:
    client = Client()
    client.start()
    for _ in range(6):
        client.timer()
    [send] = client.did(client.machine.refresh(client.now))
    assert isinstance(send, Send)
    assert client.wait == 1


@pytest.mark.parametrize("state", [State.REQUESTING, State.PROBING])
def test_refreshing_before_there_is_a_lease(state: State) -> None:
    """What was offered may be the other network's."""
    client = Client()
    client.requesting() if state is State.REQUESTING else client.probing()
    [send] = client.did(client.machine.refresh(client.now))
    assert isinstance(send, Send)
    assert send.message.type is MessageType.DISCOVER
    client.answer(MessageType.OFFER, yours=ELSE)
    client.answer(MessageType.ACK, yours=ELSE)
    while client.is_in(State.PROBING):
        client.timer()
    assert client.lease.address.ip == ELSE


@pytest.mark.parametrize("how", ["bound", "renewing", "probing"])
def test_releasing(how: str) -> None:
    client = Client()
    client.probing() if how == "probing" else client.bound()
    if how == "renewing":
        client.timer()
    [send] = client.machine.release()
    assert isinstance(send, Send)
    assert (send.source, send.server) == (ADDRESS, SERVER)
    said = send.message
    assert said.type is MessageType.RELEASE
    assert said.client == ADDRESS
    assert said.address(Option.SERVER) == SERVER
    assert said.options[Option.CLIENT_ID] == b"\1" + MAC
    assert client.machine.deadline == math.inf
    assert client.machine.release() == []


def test_nothing_to_release() -> None:
    client = Client().requesting()
    assert client.machine.release() == []
    assert client.machine.deadline == math.inf


def test_a_name_that_is_none() -> None:
    with pytest.raises(ValueError, match="no DNS name"):
        Client("not a name")


# What follows from a lease


def findings(**options: Any) -> Any:
    changed = {Option[name]: value for name, value in options.items()}
    client = Client().bound(options=changed)
    return client.lease.findings("eth0", 1000, client.now)


def test_findings() -> None:
    client = Client().bound(
        options={
            Option.DNS: pack_addresses(
                [ELSE, NOBODY, IPv4Address("224.0.0.1"), SERVER]
            ),
            Option.DOMAIN: b"example",
            Option.MTU: (1400).to_bytes(2, "big"),
        }
    )
    found = client.lease.findings("eth0", 1003, client.now + 0.3)
    [address] = found.addresses
    assert str(address) == "10.0.0.100/24 dev eth0 valid_lft 3600 preferred_lft 3600"
    [route] = found.routes
    assert str(route) == "default via 10.0.0.1 dev eth0 metric 1003"
    assert route.protocol == "dhcp"
    assert not route.onlink
    assert found.dns == (ELSE, SERVER)
    assert found.domains == ("example",)
    assert found.mtu == 1400


@pytest.mark.parametrize(("told", "expected"), [(575, None), (576, 576), (0, None)])
def test_mtu(told: int, expected: int | None) -> None:
    assert findings(MTU=told.to_bytes(2, "big")).mtu == expected


def test_no_time_left_is_a_second_for_the_kernel() -> None:
    lease = Client().bound().lease
    [address] = lease.findings("eth0", 1000, lease.expires).addresses
    assert address.valid == 1


@pytest.mark.parametrize(
    ("address", "length"),
    [("10.0.0.100", 8), ("172.16.0.1", 16), ("192.168.0.1", 24), ("223.1.1.1", 24)],
)
def test_no_netmask(address: str, length: int) -> None:
    client = Client()
    client.start()
    client.answer(MessageType.OFFER, yours=IPv4Address(address))
    client.answer(
        MessageType.ACK, yours=IPv4Address(address), options={Option.NETMASK: None}
    )
    while client.is_in(State.PROBING):
        client.timer()
    assert client.lease.address.network.prefixlen == length


def test_a_network_that_begins_with_0() -> None:
    """The kernel has no route to it, and so none to its routers."""
    [address] = findings(NETMASK=bytes([128, 0, 0, 0])).addresses
    assert str(address.address) == "10.0.0.100/8"


@pytest.mark.parametrize("length", [31, 32])
def test_networks_of_two_and_of_one(length: int) -> None:
    mask = IPv4Network(f"0.0.0.0/{length}").netmask.packed
    [address] = findings(NETMASK=mask).addresses
    assert address.address.network.prefixlen == length


def routes(**options: Any) -> list[str]:
    return [str(route) for route in findings(**options).routes]


def test_routers() -> None:
    away = IPv4Address("192.0.2.1")
    several = pack_addresses([NOBODY, ADDRESS, away, SERVER])
    # The first that can be one, although no network of ours says so.
    assert routes(ROUTERS=several) == [
        "default via 192.0.2.1 dev eth0 metric 1000 onlink"
    ]
    assert routes(ROUTERS=None) == []
    # The kernel would refuse it, and with it all the rest.
    for nobody in (ADDRESS, IPv4Address("10.0.0.255"), IPv4Address("10.0.0.0")):
        assert routes(ROUTERS=nobody.packed) == []


def test_routes() -> None:
    everywhere, other = IPv4Network("0.0.0.0/0"), IPv4Network("10.9.0.0/16")
    told = [
        (IPv4Network("192.0.2.1/32"), NOBODY),
        (everywhere, IPv4Address("192.0.2.1")),
        (other, ELSE),
        (other, SERVER),
        (IPv4Network("10.8.0.0/16"), ADDRESS),
        (IPv4Network("10.7.0.0/16"), IPv4Address("224.0.0.1")),
    ]
    # And the routers of the other option do not count.
    assert routes(ROUTES=pack_routes(told)) == [
        "192.0.2.1/32 dev eth0 metric 1000 scope link",
        "default via 192.0.2.1 dev eth0 metric 1000 onlink",
        "10.9.0.0/16 via 10.0.0.2 dev eth0 metric 1000",
    ]
    assert routes(ROUTES=b"\xff") == ["default via 10.0.0.1 dev eth0 metric 1000"]


def test_thousands_of_them() -> None:
    """One frame has no room for so many; larger ones are for the kernel to bear."""
    many = [
        (IPv4Network((number << 16, 16)), IPv4Address(number))
        for number in range(0x0B00, 0x2B00)
    ]
    servers = pack_addresses(IPv4Address(0x0B000000 + n) for n in range(8000))
    found = findings(ROUTES=pack_routes((n, SERVER) for n, _ in many), DNS=servers)
    assert len(found.routes) == len(found.dns) == 256


def test_what_is_sent_can_be_read() -> None:
    client = Client("web.example").bound()
    client.timer()
    for send in client.sent:
        packed = send.message.pack()
        assert Message.parse(packed) == send.message
