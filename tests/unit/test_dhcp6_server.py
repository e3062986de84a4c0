"""The DHCPv6 server without a network and without time."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from typing import TYPE_CHECKING, Any

import pytest

import aioioth
from aioioth.errors import ClosedError, ConfigurationError
from aioioth.servers._dhcp6_answers import Answers, Terms
from aioioth.servers._dhcp6_bindings import Bindings, Key, Pool
from aioioth.servers.dhcp6 import Dhcp6Server
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
    from collections.abc import Mapping

SERVER = duid_of(b"\2\0\0\0\0\xff")
CLIENT, OTHER = duid_of(b"\2\0\0\0\0\1"), duid_of(b"\2\0\0\0\0\2")
NETWORK = IPv6Network("fd00::/64")
POOL = Pool.between(IPv6Address("fd00::100"), IPv6Address("fd00::1ff"))
PARTS = Pool.inside(IPv6Network("fd00:1::/48"), 56)
DNS = IPv6Address("fd00::53")
ANY = Association(7)
ANY_PREFIX = Association(7, prefixes=True)
COMMIT = {"rapid_commit": True}


def server(
    pool: Pool | None = POOL,
    prefixes: Pool | None = None,
    reserved: Mapping[bytes, IPv6Address] | None = None,
    **terms: Any,
) -> Answers:
    told = Terms(SERVER, (NETWORK,), 100, 80, (DNS,), ("lab",))
    return Answers(
        replace(told, **terms),
        Bindings(pool, reserved, [IPv6Address("fd00::1"), IPv6Address("fd00::101")]),
        Bindings(prefixes),
    )


def question(kind: Kind, *associations: Association, **fields: Any) -> Message:
    to_one = kind in {Kind.REQUEST, Kind.RENEW, Kind.RELEASE, Kind.DECLINE}
    message = Message(
        kind,
        0x123456,
        client_id=CLIENT,
        server_id=SERVER if to_one else None,
        associations=associations,
        requested=(Option.DNS, Option.DOMAINS),
    )
    return replace(message, **fields)


def ask(
    answers: Answers,
    kind: Kind,
    *associations: Association,
    now: float = 0,
    **fields: Any,
) -> Message:
    reply = answers.answer(question(kind, *associations, **fields).pack(), now)
    assert reply is not None, answers.ignored
    message = Message.parse(reply)
    assert (message.transaction, message.server_id) == (0x123456, SERVER)
    return message


def refuse(
    answers: Answers, kind: Kind, *associations: Association, **fields: Any
) -> str:
    before = answers.ignored.copy()
    assert answers.answer(question(kind, *associations, **fields).pack(), 0) is None
    [cause] = answers.ignored - before
    return cause


def address_in(message: Message) -> IPv6Address:
    [association] = message.associations
    leased = association.leased[0]
    assert isinstance(leased, LeasedAddress)
    assert leased.valid
    return leased.address


def having(*addresses: IPv6Address, iaid: int = 7) -> Association:
    return Association(iaid, leased=tuple(map(LeasedAddress, addresses)))


def changes(answers: Answers) -> list[tuple[IPv6Address, bool]]:
    return [(each.binding.address, each.ended) for each in answers.take_changes()]


def test_four_messages() -> None:
    answers = server()
    offer = ask(answers, Kind.SOLICIT, ANY)
    assert offer.kind == Kind.ADVERTISE
    assert (offer.dns, offer.domains, offer.client_id) == ((DNS,), ("lab",), CLIENT)
    address = address_in(offer)
    assert address in POOL
    assert changes(answers) == []
    reply = ask(answers, Kind.REQUEST, having(address))
    assert reply.kind == Kind.REPLY
    assert reply.associations == (
        Association(7, t1=40, t2=64, leased=(LeasedAddress(address, 80, 100),)),
    )
    assert changes(answers) == [(address, False)]
    assert answers.next_due == 100


def test_when_leases_are_to_be_renewed() -> None:
    for preferred, t1, t2 in [
        (None, None, None),
        (3600, 1800, 2880),
        (3, 1, 2),
        (2, 0, 0),  # the client can divide it
        (1, 0, 0),
    ]:
        answers = server(valid=preferred, preferred=preferred)
        [association] = ask(answers, Kind.SOLICIT, ANY).associations
        assert (association.t1, association.t2) == (t1, t2)


def test_two_messages() -> None:
    answers = server()
    reply = ask(answers, Kind.SOLICIT, ANY, **COMMIT)
    assert (reply.kind, reply.rapid_commit) == (Kind.REPLY, True)
    assert changes(answers) == [(address_in(reply), False)]
    reply = ask(server(rapid_commit=False), Kind.SOLICIT, ANY, **COMMIT)
    assert (reply.kind, reply.rapid_commit) == (Kind.ADVERTISE, False)


def test_the_same_address_each_time() -> None:
    """Whatever happened meanwhile, and also from a server that was started again."""
    answers = server()
    address = address_in(ask(answers, Kind.SOLICIT, ANY, **COMMIT))
    assert address_in(ask(answers, Kind.SOLICIT, ANY)) == address
    ask(answers, Kind.RELEASE, having(address))
    other = address_in(ask(answers, Kind.SOLICIT, ANY, client_id=OTHER, **COMMIT))
    assert other != address
    assert address_in(ask(answers, Kind.SOLICIT, ANY, now=1e6)) == address
    assert address_in(ask(server(), Kind.SOLICIT, ANY)) == address
    assert address_in(ask(answers, Kind.SOLICIT, Association(8))) != address


def test_never_the_same_address_twice() -> None:
    answers = server()
    given = [
        address_in(ask(answers, Kind.SOLICIT, Association(number), **COMMIT))
        for number in range(255)
    ]
    assert len(set(given)) == 255
    assert IPv6Address("fd00::101") not in given  # the interface's own
    offer = ask(answers, Kind.SOLICIT, Association(255), **COMMIT)
    assert (offer.kind, offer.code) == (Kind.ADVERTISE, StatusCode.NO_ADDRS_AVAIL)
    assert not offer.rapid_commit
    [association] = offer.associations
    assert association.code == StatusCode.NO_ADDRS_AVAIL
    assert offer.dns == (DNS,)
    reply = ask(answers, Kind.REQUEST, Association(255))
    assert reply.associations[0].code == StatusCode.NO_ADDRS_AVAIL
    # Until somebody goes.
    ask(answers, Kind.RELEASE, having(given[3], iaid=3))
    assert address_in(ask(answers, Kind.REQUEST, Association(255))) == given[3]


def test_what_a_client_would_like() -> None:
    answers = server()
    liked = IPv6Address("fd00::1aa")
    assert address_in(ask(answers, Kind.SOLICIT, having(liked))) == liked
    for other in ("fd00::1", "fd00::101", "fd00::200", "fe80::1"):
        hint = having(IPv6Address(other))
        assert address_in(ask(answers, Kind.SOLICIT, hint)) in POOL
    ask(answers, Kind.REQUEST, having(liked))
    hint = having(liked)
    taken = address_in(ask(answers, Kind.SOLICIT, hint, client_id=OTHER))
    assert taken != liked


def test_renewals() -> None:
    answers = server()
    address = address_in(ask(answers, Kind.SOLICIT, ANY, **COMMIT))
    changes(answers)
    for now, kind in (50, Kind.RENEW), (140, Kind.REBIND):
        reply = ask(answers, kind, having(address), now=now)
        assert address_in(reply) == address
        assert changes(answers) == [(address, False)]
    answers.expire(239)
    assert changes(answers) == []
    answers.expire(240)
    assert changes(answers) == [(address, True)]
    assert answers.next_due == math.inf


def test_renewals_of_what_was_forgotten() -> None:
    address = IPv6Address("fd00::111")
    for kind in Kind.RENEW, Kind.REBIND:
        answers = server()
        assert address_in(ask(answers, kind, having(address))) == address
        assert changes(answers) == [(address, False)]


def test_renewals_of_what_is_not_of_this_network() -> None:
    foreign = LeasedAddress(IPv6Address("fd99::1"))
    for kind in Kind.RENEW, Kind.REBIND:
        reply = ask(server(), kind, Association(7, leased=(foreign,)))
        assert reply.associations == (Association(7, leased=(foreign,)),)


def test_renewals_of_what_is_somebody_elses() -> None:
    answers = server()
    address = address_in(ask(answers, Kind.SOLICIT, ANY, client_id=OTHER, **COMMIT))
    reply = ask(answers, Kind.RENEW, having(address))
    assert reply.associations == (Association(7, status=Status(StatusCode.NO_BINDING)),)
    assert refuse(answers, Kind.REBIND, having(address)) == "not our lease"


def test_addresses_besides_the_right_one_are_over() -> None:
    answers = server()
    address = address_in(ask(answers, Kind.SOLICIT, ANY, **COMMIT))
    other = IPv6Address("fd00::9")
    [association] = ask(answers, Kind.RENEW, having(address, other)).associations
    assert association.leased == (
        LeasedAddress(address, 80, 100),
        LeasedAddress(other, 0, 0),
    )


def test_what_a_client_has_not_is_not_taken_away() -> None:
    """In two messages or four: what it would like is not what it has."""
    answers = server(prefixes=PARTS)
    length = LeasedPrefix(IPv6Network("::/60"))
    wanted = having(IPv6Address("fd99::1")), replace(ANY_PREFIX, leased=(length,))
    for kind in Kind.SOLICIT, Kind.REQUEST:
        for each in ask(answers, kind, *wanted).associations:
            assert [one.valid for one in each.leased] == [100]


def test_confirm() -> None:
    answers = server()
    on, off = IPv6Address("fd00::42"), IPv6Address("fd99::42")
    assert ask(answers, Kind.CONFIRM, having(on)).code == StatusCode.SUCCESS
    for wrong in having(off), having(on, off):
        assert ask(answers, Kind.CONFIRM, wrong).code == StatusCode.NOT_ON_LINK
    assert refuse(answers, Kind.CONFIRM, ANY) == "nothing to confirm"
    # Of a link that has no network it cannot know: another server may.
    nothing = server(None, networks=())
    assert refuse(nothing, Kind.CONFIRM, having(off)) == "nothing to confirm"
    # Also of a pool in a network that the interface has no address of.
    elsewhere = server(Pool.inside(IPv6Network("fd99::/64")))
    assert ask(elsewhere, Kind.CONFIRM, having(off)).code == StatusCode.SUCCESS


def test_release_and_decline() -> None:
    answers = server()
    address = IPv6Address("::")
    for kind in Kind.RELEASE, Kind.DECLINE:
        address = address_in(ask(answers, Kind.SOLICIT, ANY, **COMMIT))
        changes(answers)
        for wrong in (
            having(address, iaid=8),
            having(IPv6Address("fd00::1")),
            ANY,
        ):
            [status] = ask(answers, kind, wrong).associations
            assert status.code == StatusCode.NO_BINDING
        [status] = ask(answers, kind, having(address), client_id=OTHER).associations
        assert changes(answers) == []
        reply = ask(answers, kind, having(address))
        assert (reply.code, reply.associations) == (StatusCode.SUCCESS, ())
        assert changes(answers) == [(address, True)]
    # What was declined is not given again, for some time.
    assert address_in(ask(answers, Kind.SOLICIT, having(address))) != address
    assert address_in(ask(answers, Kind.SOLICIT, ANY)) != address
    assert address_in(ask(answers, Kind.SOLICIT, ANY, now=600)) == address


def test_information() -> None:
    answers = server()
    reply = ask(answers, Kind.INFORMATION_REQUEST)
    assert (reply.kind, reply.dns, reply.domains) == (Kind.REPLY, (DNS,), ("lab",))
    reply = ask(answers, Kind.INFORMATION_REQUEST, client_id=None, requested=())
    assert (reply.dns, reply.domains, reply.client_id) == (None, None, None)
    assert "question for information" in refuse(answers, Kind.INFORMATION_REQUEST, ANY)


def test_names() -> None:
    answers = server()
    fields: dict[str, Any] = COMMIT | {"requested": (Option.FQDN,)}
    for said, name in ("Web.Lab", "web.lab"), ("WEB", "web.lab"), ("", None):
        ask(
            answers, Kind.SOLICIT, Association(1 + len(said)), **fields, fqdn=Fqdn(said)
        )
        [change] = answers.take_changes()
        assert change.binding.name == name
    reply = ask(answers, Kind.SOLICIT, ANY, **fields, fqdn=Fqdn("web", 0))
    assert reply.fqdn == Fqdn("web", 3)
    # It need not be said each time.
    address = address_in(reply)
    answers.take_changes()
    ask(answers, Kind.RENEW, having(address))
    [change] = answers.take_changes()
    assert change.binding.name == "web.lab"


def test_prefixes() -> None:
    answers = server(prefixes=PARTS)
    reply = ask(answers, Kind.SOLICIT, ANY, ANY_PREFIX, **COMMIT)
    leased = reply.associations[1].leased[0]
    assert isinstance(leased, LeasedPrefix)
    assert leased.prefix.subnet_of(IPv6Network("fd00:1::/48"))
    assert (leased.prefix.prefixlen, leased.valid) == (56, 100)
    again = Association(7, True, leased=(LeasedPrefix(leased.prefix),))
    assert ask(answers, Kind.RENEW, again).associations[0].leased == (leased,)
    assert len(answers.take_changes()) == 3
    ask(answers, Kind.RELEASE, again)
    [change] = answers.take_changes()
    assert (change.prefixes, change.ended) == (True, True)
    none = ask(server(), Kind.REQUEST, ANY_PREFIX).associations[0]
    assert none.code == StatusCode.NO_PREFIX_AVAIL


def test_reservations() -> None:
    mine, theirs = IPv6Address("fd00::150"), IPv6Address("fd00::5")
    answers = server(reserved={CLIENT: mine, b"\2\0\0\0\0\2": theirs})
    assert address_in(ask(answers, Kind.SOLICIT, having(theirs), **COMMIT)) == mine
    hint = having(mine)
    offer = ask(answers, Kind.SOLICIT, hint, client_id=OTHER)
    assert address_in(offer) == theirs
    third = ask(answers, Kind.SOLICIT, hint, client_id=b"third")
    assert address_in(third) not in {mine, theirs}
    # Another interface of the same client.
    assert address_in(ask(answers, Kind.SOLICIT, Association(9))) != mine


def test_revoked() -> None:
    answers = server(prefixes=PARTS)
    address = address_in(ask(answers, Kind.SOLICIT, ANY, **COMMIT))
    changes(answers)
    assert answers.revoke(address)
    assert changes(answers) == [(address, True)]
    assert not answers.revoke(address)
    for kind in Kind.RENEW, Kind.REBIND:
        reply = ask(answers, kind, having(address))
        assert reply.associations == (having(address),)
    assert address_in(ask(answers, Kind.SOLICIT, ANY, **COMMIT)) == address
    assert address_in(ask(answers, Kind.RENEW, having(address))) == address


@pytest.mark.parametrize(
    ("kind", "fields", "cause"),
    [
        (Kind.SOLICIT, {"client_id": None}, "no client ID"),
        (Kind.RELEASE, {"client_id": None}, "no client ID"),
        (Kind.SOLICIT, {"server_id": SERVER}, "a server ID"),
        (Kind.REBIND, {"server_id": SERVER}, "a server ID"),
        (Kind.CONFIRM, {"server_id": SERVER}, "a server ID"),
        (Kind.REQUEST, {"server_id": None}, "no server ID"),
        (Kind.REQUEST, {"server_id": OTHER}, "for another server"),
        (Kind.RENEW, {"server_id": OTHER}, "for another server"),
        (Kind.INFORMATION_REQUEST, {"server_id": OTHER}, "for another server"),
        (Kind.ADVERTISE, {}, "not for servers"),
        (Kind.REPLY, {}, "not for servers"),
        (Kind.RECONFIGURE, {}, "not for servers"),
    ],
)
def test_what_is_ignored(kind: Kind, fields: dict[str, Any], cause: str) -> None:
    assert refuse(server(), kind, **fields) == cause


def test_what_is_no_message() -> None:
    answers = server()
    for data in b"", b"\x0c" + bytes(33), b"\x01\0\0\1\0\1\0\xff":
        assert answers.answer(data, 0) is None
    assert answers.ignored == {"malformed": 3}


def test_what_was_not_sent_to_all_servers() -> None:
    answers = server()
    for kind in Kind.SOLICIT, Kind.REQUEST:
        reply = answers.answer(question(kind, ANY).pack(), 0, was_multicast=False)
        if kind == Kind.REQUEST:
            assert reply is not None
            assert Message.parse(reply).code == StatusCode.USE_MULTICAST
    assert answers.ignored == {"unicast": 1}
    assert changes(answers) == []


def test_somebody_who_makes_up_clients() -> None:
    bindings = Bindings(Pool.inside(NETWORK))
    for number in range(5000):
        key = Key(CLIENT, number)
        address = bindings.choose(key, (), 0)
        if address is None:
            break
        bindings.bind(key, address, 100, None)
    assert len(bindings) == 4096
    assert len(bindings.expire(100)) == 4096
    assert bindings.choose(Key(CLIENT, 9999), (), 100) is not None


@pytest.mark.parametrize("count", [4000, 4095, 1 << 16])
def test_a_crowded_pool_costs_nobody_much(count: int) -> None:
    """Or a small message of a client that is made up would cost a tenth of a second."""
    pool = Pool(IPv6Address("fd00::"), count)
    bindings = Bindings(pool)
    for number in range(4095):
        if number < count:
            bindings.bind(Key(CLIENT, number), pool.get(number), 100, None)
    calls = 0

    def count_calls(*_: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count_calls)
    try:
        found = [bindings.choose(Key(OTHER, number), (), 0) for number in range(50)]
    finally:
        sys.setprofile(None)
    assert {each is None for each in found} == {count < 4096}
    assert all(bindings.find(each) is None for each in found if each)
    assert calls < 50 * 200


def test_somebody_who_declines_everything() -> None:
    bindings = Bindings(POOL)
    key = Key(CLIENT, 1)
    for _ in range(1000):
        address = bindings.choose(key, (), 0)
        assert address is not None or bindings.choose(key, (), 600) is not None
        if address is None:
            break
        bindings.bind(key, address, 100, None)
        assert bindings.decline(key, address, 0) is not None


def test_many_associations_in_one_message() -> None:
    answers = server()
    many = [Association(number) for number in range(100)]
    assert len(ask(answers, Kind.REQUEST, *many).associations) == 8
    assert len(changes(answers)) == 8


def test_pools() -> None:
    assert (POOL.count, POOL.get(255)) == (256, IPv6Address("fd00::1ff"))
    assert POOL.get(256) not in POOL
    assert IPv6Address("fd00::ff") not in POOL
    assert IPv6Network("fd00::/64") not in POOL
    assert (PARTS.count, PARTS.network(PARTS.get(1))) == (
        256,
        IPv6Network("fd00:1:0:100::/56"),
    )
    assert IPv6Address("fd00:1:0:100::1") not in PARTS
    whole = Pool.inside(NETWORK)
    assert NETWORK.network_address not in whole
    assert NETWORK[-1] in whole
    assert Pool.inside(IPv6Network("fd00::1/128")).count == 1


# What users write


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"pool": "fd00::5-fd00::4"}, "behind"),
        ({"pool": "fd00::5-x"}, "pool"),
        ({"pool": "10.0.0.0/24"}, "not of IPv6"),
        ({"pool": "ff02::/64"}, "cannot be a client's"),
        ({"pool": "fe80::5-fe80::9"}, "cannot be a client's"),
        ({"pool": "::/0"}, "cannot be a client's"),
        ({"pool": "fd00::1/64"}, "host bits"),
        ({"lease_time": 0}, "lease_time"),
        ({"lease_time": math.nan}, "lease_time"),
        ({"lease_time": "1h"}, "lease_time='1h': from 1"),
        ({"lease_time": 1e10}, "lease_time"),
        ({"lease_time": 10, "preferred": 11}, "preferred"),
        ({"preferred": 0.5}, "preferred"),
        ({"dns": "10.0.0.1"}, "not of IPv6"),
        ({"dns": "nobody"}, "dns"),
        ({"dns": 65 * ["fd00::53"]}, "at most 64"),
        ({"domain": 65 * ["lab"]}, "at most 64"),
        ({"domain": "a b"}, "domain"),
        ({"prefixes": "fd00::/64", "delegated_length": 63}, "delegated_length"),
        ({"prefixes": "fd00::/64", "delegated_length": 128}, "delegated_length"),
        ({"prefixes": "10.0.0.0/8"}, "prefixes"),
        ({"prefixes": "fd00::/48", "delegated_length": "64"}, "delegated_length"),
        ({"reservations": {"me": "fd00::5"}}, "MAC"),
        ({"reservations": {"02:00:00:00:00:01": "10.0.0.1"}}, "not of IPv6"),
        (
            {"reservations": {"02:00:00:00:00:01": "::1"}},
            "cannot be a client's",
        ),
        (
            {"reservations": {"02:00:00:00:00:01": "::5", "020000000001": "::6"}},
            "twice",
        ),
        ({"reservations": {"0200000001": "::5", "020000000001": "::5"}}, "twice"),
    ],
)
def test_arguments_that_cannot_be_right(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Dhcp6Server(aioioth.Stack(), **wrong)


async def test_a_server_that_is_not_open() -> None:
    one = Dhcp6Server(
        aioioth.Stack(name="lonely"),
        pool="fd00::100-fd00::1ff",
        lease_time=None,
        preferred=20,
        reservations={"02-00-00-00-00-01": "fd00::5", CLIENT.hex(): "fd00::6"},
    )
    assert one.leases == ()
    assert one.ignored == {}
    with pytest.raises(ClosedError, match="lonely"):
        one.revoke("fd00::5")
    with pytest.raises(ClosedError):
        await one.open()
