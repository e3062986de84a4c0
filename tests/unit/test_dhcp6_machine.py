"""The DHCPv6 client without a network and without time."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from typing import TYPE_CHECKING, Any

import pytest

from aioioth._autoconf.dhcp6_exchange import Apply, Send
from aioioth._autoconf.dhcp6_machine import Machine
from aioioth.wire.dhcp6 import (
    Association,
    Fqdn,
    Kind,
    LeasedAddress,
    LeasedPrefix,
    Message,
    Option,
    Status,
    StatusCode,
    duid_of,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from aioioth._autoconf.dhcp6_exchange import Action

MAC = bytes.fromhex("020000000001")
IAID = 1
SERVER, OTHER = b"\0\3\0\1server", b"\0\3\0\1other!"
ADDRESS, SECOND = IPv6Address("fd00::100"), IPv6Address("fd00::200")
PREFIX = IPv6Network("fd00:1::/64")
DNS = IPv6Address("fd00::53")


def association(
    *addresses: IPv6Address,
    valid: int | None = 100,
    preferred: int | None = 80,
    t1: int | None = 40,
    t2: int | None = 64,
    iaid: int = IAID,
) -> Association:
    leased = tuple(LeasedAddress(each, preferred, valid) for each in addresses)
    return Association(iaid, t1=t1, t2=t2, leased=leased)


GOOD = association(ADDRESS)
FAILED = Association(IAID, status=Status(StatusCode.NO_ADDRS_AVAIL))


class Client:
    """A client, what it sent and applied, and a clock."""

    def __init__(
        self,
        fqdn: str | None = None,
        prefix_length: int | None = None,
        now: float = 1000.0,
    ) -> None:
        self.machine = Machine(MAC, fqdn, prefix_length, rng=random.Random(1))
        self.now = now
        self.sent: list[Message] = []
        self.applied: list[Apply] = []
        self.do(self.machine.start(self.now))

    def do(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                assert Message.parse(action.message.pack()) == action.message
                self.sent.append(action.message)
            else:
                self.applied.append(action)

    @property
    def last(self) -> Message:
        return self.sent[-1]

    @property
    def kinds(self) -> list[Kind]:
        return [each.kind for each in self.sent]

    @property
    def addresses(self) -> tuple[IPv6Address, ...]:
        lease = self.applied[-1].lease
        return () if lease is None else lease.addresses

    def wait(self) -> float:
        """Let the time pass until something is due; return how long that was."""
        passed = self.machine.deadline - self.now
        assert 0 <= passed < math.inf
        self.now = self.machine.deadline
        self.do(self.machine.timer(self.now))
        return passed

    def wait_for(self, kind: Kind) -> Message:
        for _ in range(50):
            if self.sent and self.last.kind == kind:
                return self.last
            self.wait()
        pytest.fail(f"no {kind.name} is sent")

    def hear(self, message: Message) -> None:
        assert Message.parse(message.pack()) == message
        self.do(self.machine.received(message, self.now))

    def answer(
        self,
        *associations: Association,
        kind: Kind = Kind.REPLY,
        to: Message | None = None,
        **fields: object,
    ) -> None:
        asked = self.last if to is None else to
        message = Message(
            kind,
            asked.transaction,
            client_id=asked.client_id,
            server_id=asked.server_id or SERVER,
            associations=associations,
        )
        self.hear(replace(message, **fields))  # type: ignore[arg-type]

    def advertise(self, *associations: Association, **fields: object) -> None:
        self.answer(*associations, kind=Kind.ADVERTISE, **fields)  # type: ignore[arg-type]

    def decline(self, addresses: Collection[IPv6Address]) -> None:
        self.do(self.machine.duplicates(addresses, self.now))


def bound(*addresses: IPv6Address, **times: int | None) -> Client:
    client = Client()
    client.answer(association(*(addresses or (ADDRESS,)), **times), rapid_commit=True)  # type: ignore[arg-type]
    assert client.addresses == (addresses or (ADDRESS,))
    client.sent.clear()
    return client


# Looking for servers


def test_the_first_message_comes_at_once() -> None:
    client = Client("web.lab", prefix_length=60)
    assert client.last == Message(
        Kind.SOLICIT,
        client.last.transaction,
        client_id=duid_of(MAC),
        associations=(
            Association(IAID),
            Association(
                IAID, prefixes=True, leased=(LeasedPrefix(IPv6Network("::/60")),)
            ),
        ),
        requested=(Option.DNS, Option.DOMAINS, Option.FQDN, Option.SOL_MAX_RT),
        elapsed=0,
        rapid_commit=True,
        fqdn=Fqdn("web.lab"),
    )


def test_solicits_come_less_and_less_often() -> None:
    client = Client()
    waits = [client.wait() for _ in range(16)]
    assert 1 <= waits[0] <= 1.1
    for before, after in itertools.pairwise(waits[:12]):
        assert 1.9 * before <= after <= 2.1 * before
    assert all(3240 <= wait <= 3960 for wait in waits[13:])
    solicits = [each for each in client.sent if each.kind == Kind.SOLICIT]
    assert len({each.transaction for each in solicits}) == 1
    assert [each.elapsed for each in solicits[:2]] == [0, int(waits[0] * 100)]
    assert solicits[-1].elapsed == 0xFFFF


def test_servers_may_slow_solicits_down_or_up() -> None:
    client = Client()
    client.advertise(FAILED, sol_max_rt=60)
    for _ in range(10):
        client.wait()
    assert 54 <= client.wait() <= 66
    client = Client()
    client.advertise(FAILED, sol_max_rt=1)  # may not be
    for _ in range(10):
        client.wait()
    assert client.wait() > 66


def test_four_messages() -> None:
    client = Client("web.lab")
    client.advertise(GOOD)
    assert client.kinds == [Kind.SOLICIT]
    client.wait()
    request = client.last
    assert request.kind == Kind.REQUEST
    assert request.server_id == SERVER
    assert request.associations == (
        Association(IAID, leased=(LeasedAddress(ADDRESS),)),
    )
    assert request.fqdn == Fqdn("web.lab")
    assert request.transaction != client.sent[0].transaction
    sent = client.now
    client.now += 0.5
    client.answer(GOOD, dns=(DNS,), domains=("lab",))
    [applied] = client.applied
    lease = applied.lease
    assert lease is not None
    assert (lease.addresses, lease.dns, lease.domains) == ((ADDRESS,), (DNS,), ("lab",))
    # From when it was asked for, not from when it came.
    assert lease.held[0].valid == sent + 100
    assert lease.held[0].preferred == sent + 80
    assert client.machine.deadline == sent + 40


def test_two_messages() -> None:
    client = Client()
    client.answer(GOOD)  # does not say that it is meant so
    assert not client.applied
    client.answer(GOOD, rapid_commit=True)
    assert client.addresses == (ADDRESS,)
    assert client.kinds == [Kind.SOLICIT]


def test_the_best_of_several_servers() -> None:
    client = Client()
    client.advertise(GOOD, preference=1)
    client.advertise(association(SECOND), preference=2, server_id=OTHER)
    client.advertise(GOOD, server_id=b"\0\3third")
    client.wait()
    assert (client.last.kind, client.last.server_id) == (Kind.REQUEST, OTHER)


def test_the_highest_preference_is_taken_at_once() -> None:
    client = Client()
    client.advertise(GOOD, preference=255)
    assert client.last.kind == Kind.REQUEST


def test_who_is_late_is_taken_at_once() -> None:
    client = Client()
    client.wait()
    client.advertise(GOOD)
    assert client.last.kind == Kind.REQUEST


def test_a_server_that_promises_and_is_gone() -> None:
    client = Client()
    client.advertise(GOOD, preference=255)
    while client.last.kind == Kind.REQUEST:
        client.wait()
    assert client.kinds == [Kind.SOLICIT] + 10 * [Kind.REQUEST] + [Kind.SOLICIT]
    assert not client.applied


def test_a_server_that_promises_and_does_not_give() -> None:
    """It is not asked all the time."""
    client = Client()
    waits = []
    for _ in range(12):
        client.advertise(GOOD, preference=255)
        client.answer(FAILED)
        waits.append(client.wait())
        assert client.last.kind == Kind.SOLICIT
    assert waits[:4] == [1, 2, 4, 8]
    assert waits[-1] == 120
    assert not client.applied


@pytest.mark.parametrize("code", [StatusCode.UNSPEC_FAIL, StatusCode.USE_MULTICAST])
def test_a_server_that_cannot_now_is_asked_again(code: StatusCode) -> None:
    client = Client()
    client.advertise(GOOD, preference=255)
    client.answer(status=Status(code))
    assert client.kinds == [Kind.SOLICIT, Kind.REQUEST]
    client.wait()
    assert client.kinds[2:] == [Kind.REQUEST]


def test_a_prefix() -> None:
    client = Client(prefix_length=64)
    given = Association(IAID, True, 10, 16, (LeasedPrefix(PREFIX, 20, 30),))
    client.answer(GOOD, given, rapid_commit=True)
    lease = client.applied[-1].lease
    assert lease is not None
    assert lease.prefixes == (PREFIX,)
    client.wait()
    assert client.last.kind == Kind.RENEW
    assert [each.prefixes for each in client.last.associations] == [False, True]
    # The prefix is over before the address is.
    while client.applied[-1].lease == lease:
        client.wait()
    assert client.applied[-1].lease is not None
    assert client.applied[-1].lease.held == lease.held[:1]


def test_addresses_and_prefixes_are_better_than_addresses() -> None:
    client = Client(prefix_length=64)
    client.advertise(GOOD, preference=254)
    given = Association(IAID, True, 10, 16, (LeasedPrefix(PREFIX, 20, 30),))
    client.advertise(GOOD, given, server_id=OTHER)
    client.wait()
    assert client.last.server_id == OTHER


# What is ignored


@pytest.mark.parametrize(
    "wrong",
    [
        {"transaction": 0},
        {"client_id": None},
        {"client_id": duid_of(b"\2\0\0\0\0\2")},
        {"server_id": None},
        {"kind": Kind.RECONFIGURE},
        {"kind": Kind.SOLICIT},
    ],
)
@pytest.mark.parametrize("asked", [Kind.SOLICIT, Kind.REQUEST])
def test_what_is_not_for_us(asked: Kind, wrong: dict[str, object]) -> None:
    client = Client()
    if asked == Kind.REQUEST:
        client.advertise(GOOD, preference=255)
    deadline, sent = client.machine.deadline, list(client.sent)
    client.answer(GOOD, **({"rapid_commit": True, "preference": 255} | wrong))  # type: ignore[arg-type]
    assert (client.machine.deadline, client.sent) == (deadline, sent)
    assert not client.applied


def test_another_server_cannot_answer_a_request() -> None:
    client = Client()
    client.advertise(GOOD, preference=255)
    client.answer(GOOD, server_id=OTHER)
    assert not client.applied


@pytest.mark.parametrize(
    "given",
    [
        association(ADDRESS, iaid=2),
        association(ADDRESS, valid=0, preferred=0),
        association(ADDRESS, valid=10, preferred=11),
        association(ADDRESS, t1=10, t2=9),
        association(IPv6Address("::")),
        association(IPv6Address("::1")),
        association(IPv6Address("ff02::1")),
        association(IPv6Address("fe80::1")),
        association(IPv6Address("::ffff:10.0.0.1")),
        Association(IAID),
    ],
)
def test_what_makes_no_sense(given: Association) -> None:
    client = Client()
    client.answer(given, rapid_commit=True)
    assert not client.applied


def test_a_server_that_gives_far_too_much() -> None:
    client = Client()
    many = [IPv6Address(f"fd00::{number:x}") for number in range(1, 1000)]
    client.answer(association(*many), rapid_commit=True, dns=tuple(many))
    lease = client.applied[-1].lease
    assert lease is not None
    assert (len(lease.addresses), len(lease.dns)) == (16, 16)


# Keeping it


def test_a_renewal() -> None:
    client = bound()
    assert client.wait() == 40
    renew = client.last
    assert (renew.kind, renew.server_id) == (Kind.RENEW, SERVER)
    assert renew.associations == (Association(IAID, leased=(LeasedAddress(ADDRESS),)),)
    client.answer(GOOD, dns=(DNS,))
    lease = client.applied[-1].lease
    assert lease is not None
    assert (lease.held[0].valid, lease.dns) == (client.now + 100, (DNS,))
    assert client.wait() == 40
    assert client.last.transaction != renew.transaction


def test_the_server_is_gone_and_another_one_knows() -> None:
    client = bound()
    begun = client.now
    client.wait_for(Kind.REBIND)
    assert client.now == begun + 64
    assert Kind.RENEW in client.kinds
    assert client.last.server_id is None
    client.answer(GOOD, server_id=OTHER)
    lease = client.applied[-1].lease
    assert lease is not None
    assert lease.server_id == OTHER
    client.wait()
    assert client.last.kind is not Kind.REBIND
    assert client.last.server_id == OTHER


def test_the_lease_is_over() -> None:
    client = bound()
    begun = client.now
    client.wait_for(Kind.SOLICIT)
    assert client.now == begun + 100
    assert client.applied[-1] == Apply(None, "the lease is over")
    assert client.kinds[0] == Kind.RENEW
    assert Kind.REBIND in client.kinds
    client.answer(GOOD, rapid_commit=True)
    assert client.addresses == (ADDRESS,)


def test_short_leases_are_renewed_several_times() -> None:
    client = bound(valid=4, preferred=4, t1=2, t2=3)
    client.wait_for(Kind.SOLICIT)
    assert client.kinds.count(Kind.RENEW) >= 2
    assert client.kinds.count(Kind.REBIND) >= 2


def test_times_that_are_left_to_us() -> None:
    cases: list[tuple[dict[str, int | None], int]] = [
        ({"t1": 0, "t2": 0}, 40),
        ({"t1": 0, "t2": 0, "preferred": 0}, 50),
        ({"t1": 30, "t2": 0}, 30),
        ({"t1": 200, "t2": 300}, 40),  # too late
        ({"t1": None, "t2": None}, 40),
        ({"t1": 0, "t2": 0, "valid": None}, 40),
        ({"t1": 10, "t2": 20, "valid": None, "preferred": None}, 10),
    ]
    for times, wait in cases:
        assert bound(**times).wait() == wait


def test_for_ever() -> None:
    client = bound(valid=None, preferred=None, t1=None, t2=None)
    assert client.machine.deadline == math.inf
    client = bound(valid=None, preferred=None, t1=0, t2=0)
    assert client.machine.deadline == math.inf
    client.do(client.machine.refresh(client.now))
    client.answer()
    assert client.last.kind == Kind.RENEW
    for _ in range(20):
        client.wait()
    assert client.last.kind == Kind.RENEW


def test_some_addresses_are_taken_away() -> None:
    client = bound(ADDRESS, SECOND)
    client.wait()
    gone = LeasedAddress(SECOND, 0, 0)
    client.answer(replace(GOOD, leased=(*GOOD.leased, gone)))
    assert client.addresses == (ADDRESS,)


def test_what_is_not_spoken_of_is_kept() -> None:
    client = bound(ADDRESS, SECOND)
    end = client.now + 100
    client.wait()
    client.answer(GOOD)
    lease = client.applied[-1].lease
    assert lease is not None
    valid = {each.what: each.valid for each in lease.held}
    assert valid == {ADDRESS: client.now + 100, SECOND: end}


def test_a_server_that_only_takes_away_is_asked_again() -> None:
    client = bound(ADDRESS, SECOND)
    client.wait()
    client.answer(association(SECOND, valid=0, preferred=0))
    assert client.addresses == (ADDRESS,)
    assert client.wait() > 1
    assert client.last.kind == Kind.RENEW


def test_all_addresses_are_taken_away() -> None:
    client = bound()
    client.wait()
    client.answer(association(ADDRESS, valid=0, preferred=0))
    assert client.applied[-1] == Apply(None, "the server does not give it any more")
    client.wait()
    assert client.last.kind == Kind.SOLICIT


def test_the_server_has_forgotten() -> None:
    client = bound()
    client.wait()
    client.answer(Association(IAID, status=Status(StatusCode.NO_BINDING)))
    assert (client.last.kind, client.last.server_id) == (Kind.REQUEST, SERVER)
    assert len(client.applied) == 1
    client.answer(association(SECOND))
    assert client.addresses == (SECOND,)


def test_the_server_has_forgotten_and_does_not_give() -> None:
    client = bound()
    client.wait()
    client.answer(Association(IAID, status=Status(StatusCode.NO_BINDING)))
    client.answer(FAILED)
    assert client.applied[-1].lease is None
    client.wait()
    assert client.last.kind == Kind.SOLICIT


@pytest.mark.parametrize(
    "reply",
    [
        {"status": Status(StatusCode.UNSPEC_FAIL)},
        {"status": Status(StatusCode.USE_MULTICAST)},
        {},
        {"associations": (association(ADDRESS, iaid=7),)},
    ],
)
def test_answers_to_renewals_that_help_nobody(reply: dict[str, Any]) -> None:
    client = bound()
    client.wait()
    client.answer(**reply)
    assert len(client.applied) == 1
    client.wait_for(Kind.REBIND)


def test_a_late_answer_counts_from_its_question() -> None:
    client = bound()
    client.wait()
    sent = client.now
    client.now += 5
    client.answer(GOOD)
    lease = client.applied[-1].lease
    assert lease is not None
    assert lease.held[0].valid == sent + 100


# Asking again


def test_confirmed() -> None:
    client = bound()
    client.now += 1
    client.do(client.machine.refresh(client.now))
    assert (client.last.kind, client.last.server_id) == (Kind.CONFIRM, None)
    client.answer(status=Status(StatusCode.SUCCESS))
    assert client.addresses == (ADDRESS,)
    # And what else there is to know may be different.
    assert client.last.kind == Kind.RENEW
    client.answer(GOOD, dns=(DNS,))
    assert client.wait() == 40


def test_on_another_network() -> None:
    client = bound()
    client.do(client.machine.refresh(client.now))
    client.answer(status=Status(StatusCode.NOT_ON_LINK))
    assert client.applied[-1] == Apply(None, "it is not of this network")
    assert client.kinds == [Kind.CONFIRM, Kind.SOLICIT]


def test_nobody_confirms() -> None:
    client = bound()
    begun = client.now
    client.do(client.machine.refresh(client.now))
    while len(client.applied) == 1:
        client.wait()
    assert client.now == begun + 10
    assert client.addresses == (ADDRESS,)
    assert set(client.kinds) == {Kind.CONFIRM}
    client.wait_for(Kind.RENEW)
    assert client.now == begun + 40


def test_a_lease_ends_while_it_is_to_be_confirmed() -> None:
    client = bound(valid=4, preferred=4, t1=2, t2=3)
    client.do(client.machine.refresh(client.now))
    client.wait_for(Kind.SOLICIT)
    assert client.applied[-1] == Apply(None, "the lease is over")


def test_prefixes_cannot_be_confirmed() -> None:
    client = Client(prefix_length=64)
    given = Association(IAID, True, 10, 16, (LeasedPrefix(PREFIX, 20, 30),))
    client.answer(given, rapid_commit=True)
    client.do(client.machine.refresh(client.now))
    assert client.last.kind == Kind.REBIND
    # Nobody says that it is wrong: as with addresses.
    begun = client.now
    while len(client.applied) == 1:
        client.wait()
    assert client.now == begun + 10
    assert client.applied[-1] == client.applied[0]
    client.wait()
    assert client.kinds[-1] == Kind.RENEW


def test_without_a_lease_servers_are_looked_for_at_once() -> None:
    client = Client()
    for _ in range(8):
        client.wait()
    client.do(client.machine.refresh(client.now))
    assert (client.last.kind, client.last.elapsed) == (Kind.SOLICIT, 0)
    assert client.wait() < 1.2


# Addresses that somebody else has


def test_a_duplicate() -> None:
    client = bound()
    client.decline([ADDRESS])
    assert client.applied[-1] == Apply(None, f"somebody else has {ADDRESS}")
    decline = client.last
    assert (decline.kind, decline.server_id) == (Kind.DECLINE, SERVER)
    assert decline.associations == (
        Association(IAID, leased=(LeasedAddress(ADDRESS),)),
    )
    client.do(client.machine.refresh(client.now))  # not now
    client.answer(status=Status(StatusCode.SUCCESS))
    client.wait()
    assert client.kinds == [Kind.DECLINE, Kind.SOLICIT]


def test_a_duplicate_and_no_server() -> None:
    client = bound()
    client.decline([ADDRESS])
    client.wait_for(Kind.SOLICIT)
    assert client.kinds == 4 * [Kind.DECLINE] + [Kind.SOLICIT]


def test_a_duplicate_and_another_address() -> None:
    client = bound(ADDRESS, SECOND)
    client.decline([SECOND, IPv6Address("fd00::77")])
    assert client.addresses == (ADDRESS,)
    client.answer()
    client.wait()
    assert client.kinds == [Kind.DECLINE, Kind.RENEW]


def test_somebody_who_has_every_address() -> None:
    client = Client()
    waits = []
    for _ in range(8):
        client.answer(GOOD, rapid_commit=True)
        client.decline([ADDRESS])
        client.answer()
        waits.append(client.wait())
        assert client.last.kind == Kind.SOLICIT
    assert waits == [1, 2, 4, 8, 16, 32, 64, 120]


def test_duplicates_that_are_not_ours() -> None:
    client = Client()
    client.decline([ADDRESS])
    client.answer(GOOD, rapid_commit=True)
    client.decline([SECOND])
    assert client.kinds == [Kind.SOLICIT]


# Going


def test_a_release() -> None:
    client = bound()
    message = client.machine.release()
    assert message == Message(
        Kind.RELEASE,
        message.transaction if message else 0,
        client_id=duid_of(MAC),
        server_id=SERVER,
        associations=(Association(IAID, leased=(LeasedAddress(ADDRESS),)),),
        elapsed=0,
    )
    assert client.machine.deadline == math.inf
    assert client.machine.release() is None


def test_nothing_to_release() -> None:
    assert Client().machine.release() is None


# Information only


def test_no_addresses_but_information() -> None:
    client = Client()
    client.advertise(FAILED)
    question = client.last
    assert question.kind == Kind.INFORMATION_REQUEST
    assert question.associations == ()
    assert Option.DNS in question.requested
    client.advertise(FAILED, to=client.sent[0])  # asked once
    assert client.last is question
    client.answer(dns=(DNS,), domains=("lab",))
    [applied] = client.applied
    assert applied.lease is not None
    assert (applied.lease.held, applied.lease.dns) == ((), (DNS,))
    # Addresses are still looked for, and a server that has some will do.
    client.wait()
    assert client.last.kind == Kind.SOLICIT
    client.answer(GOOD, rapid_commit=True)
    assert client.addresses == (ADDRESS,)


def test_a_status_for_the_whole_message() -> None:
    client = Client()
    client.advertise(status=Status(StatusCode.NO_ADDRS_AVAIL), dns=(DNS,))
    assert client.last.kind == Kind.INFORMATION_REQUEST


def test_a_server_that_answers_questions_only() -> None:
    client = Client()
    client.wait()
    assert client.kinds == 2 * [Kind.SOLICIT]
    client.wait()
    assert client.kinds[2:] == [Kind.SOLICIT, Kind.INFORMATION_REQUEST]
    client.wait()  # lost
    assert client.kinds[4:] == [Kind.SOLICIT, Kind.INFORMATION_REQUEST]
    client.answer(dns=(DNS,), refresh=1)  # too often
    assert len(client.applied) == 1
    solicits = client.kinds.count(Kind.SOLICIT)
    begun = client.now
    while client.last.kind != Kind.INFORMATION_REQUEST or client.now == begun:
        client.wait()
    assert client.now >= begun + 600
    assert client.kinds.count(Kind.SOLICIT) > solicits
    client.answer(dns=(DNS,))
    assert len(client.applied) == 1  # nothing new
    assert client.last.kind == Kind.INFORMATION_REQUEST


def test_information_is_asked_for_again() -> None:
    """It may be another network; and whoever has asked waits for an answer."""
    client = Client()
    client.advertise(FAILED)
    client.answer(dns=(DNS,))
    client.do(client.machine.refresh(client.now))
    client.advertise(FAILED)
    client.answer(dns=(DNS,))
    assert client.kinds == 2 * [Kind.SOLICIT, Kind.INFORMATION_REQUEST]
    assert len(client.applied) == 2


def test_information_that_does_not_come() -> None:
    client = Client()
    client.advertise(FAILED)
    client.answer(status=Status(StatusCode.UNSPEC_FAIL))
    assert not client.applied
