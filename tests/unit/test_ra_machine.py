"""What a host makes of router advertisements, on a clock that a test turns."""

from __future__ import annotations

import math
from ipaddress import IPv6Address, IPv6Network
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings, strategies as st

from aioioth._autoconf.advertised import (
    MOST_DOMAINS,
    MOST_PREFIXES,
    MOST_ROUTERS,
    MOST_ROUTES,
    MOST_SERVERS,
    Host,
)
from aioioth._autoconf.ra_machine import Change, RaMachine
from aioioth.hashes import eui64_address, hash_address
from aioioth.wire.nd import (
    DnsServers,
    DnsSuffixes,
    Preference,
    Prefix,
    RouterAdvertisement,
    RouterSolicitation,
    RouteTo,
)

if TYPE_CHECKING:
    from aioioth._autoconf.findings import Findings

MAC = bytes.fromhex("020000000001")
ONE = IPv6Address("fe80::1")
TWO = IPv6Address("fe80::2")
NETWORK = IPv6Network("fd00::/64")
OTHER = IPv6Network("fd01::/64")
DEFAULT = IPv6Network("::/0")
HOUR = 3600


class Link:
    """A machine, its clock, and what it wants done."""

    def __init__(self, **options: Any) -> None:
        self.now = 1000.0
        self.machine = RaMachine(
            Host("vde0", MAC, **options), lambda least, most: (least + most) / 2
        )
        self.asked: list[float] = []
        self.applied: list[Change] = []

    def hear(
        self, source: IPv6Address = ONE, *, hop_limit: int = 255, **told: Any
    ) -> None:
        message = RouterAdvertisement(**told).pack()
        self.machine.receive(message, source, hop_limit, self.now)
        self.run(2.0)

    def prefix(
        self,
        valid: int | None,
        preferred: int | None,
        *,
        source: IPv6Address = ONE,
        network: IPv6Network = NETWORK,
        lifetime: int = 1800,
        **options: Any,
    ) -> None:
        told = Prefix(network, valid, preferred, **options)
        self.hear(source, lifetime=lifetime, prefixes=(told,))

    def run(self, seconds: float) -> None:
        """Let time pass, from deadline to deadline."""
        end = self.now + seconds
        for _ in range(1000):
            if self.machine.solicit_due(self.now):
                self.asked.append(self.now)
                assert not self.machine.solicit_due(self.now)
            if (change := self.machine.take_change(self.now)) is not None:
                self.applied.append(change)
            deadline = self.machine.deadline(self.now)
            if deadline > end:
                self.now = end
                return
            assert deadline > self.now, "the same moment again and again"
            self.now = deadline
        pytest.fail("never at rest")

    def found(self) -> Findings:
        findings = self.applied[-1].findings
        assert findings is not None
        return findings

    @property
    def ways(self) -> dict[str, int]:
        """Default routers and their metrics."""
        return {
            str(each.via): each.metric
            for each in self.found().routes
            if each.destination == DEFAULT
        }

    def times(self) -> tuple[int | None, int | None]:
        """Of the one address: valid and preferred."""
        [address] = self.found().addresses
        return address.valid, address.preferred


# Asking


def test_the_first_question_is_at_once_and_they_become_rare() -> None:
    link = Link()
    link.run(4 * HOUR)
    waits = [b - a for a, b in zip(link.asked, link.asked[1:], strict=False)]
    assert link.asked[0] == 1000.0
    assert waits[:5] == [1, 2, 4, 8, 16]
    assert waits[-1] == HOUR
    assert not link.applied


def test_nobody_is_asked_while_there_is_a_router() -> None:
    link = Link()
    link.run(0)
    link.hear(lifetime=1800)
    link.run(1790)
    assert len(link.asked) == 1


def test_a_router_that_is_none_is_no_answer() -> None:
    link = Link()
    link.run(0)
    link.hear(lifetime=0, mtu=1400, dns=(DnsServers((ONE,), 5000),))
    link.run(1000)
    assert len(link.asked) > 5
    assert link.found().mtu == 1400


def test_a_refresh_asks_until_somebody_answers() -> None:
    link = Link()
    link.run(0)
    link.hear(lifetime=9000)
    link.run(100)
    link.machine.refresh()
    link.run(3.5)
    assert [at - link.now + 3.5 for at in link.asked[1:]] == [0, 1, 3]
    link.hear(lifetime=9000)
    link.run(100)
    assert len(link.asked) == 4


def test_a_router_that_is_lost_is_looked_for() -> None:
    link = Link()
    link.run(0)
    link.hear(lifetime=10)
    link.run(8 + 7.5)
    lost = 1000.0 + 10
    assert link.asked[1:] == [lost + 1, lost + 2, lost + 4]
    assert link.applied[-1] == Change(None, "no router has said so for too long")


# Routers


def test_a_router_and_its_time() -> None:
    link = Link(metric=500)
    link.hear(lifetime=1800)
    [route] = link.found().routes
    assert str(route) == str(
        type(route)(
            "default", via=ONE, dev="vde0", metric=500, lifetime=1800, protocol="ra"
        )
    )
    link.run(100)
    link.hear(lifetime=60)
    assert link.found().routes[0].lifetime == 60


def test_a_router_that_says_goodbye() -> None:
    link = Link()
    link.hear(ONE, lifetime=1800)
    link.hear(TWO, lifetime=1800)
    assert link.ways == {"fe80::1": 1000, "fe80::2": 1001}
    link.hear(ONE, lifetime=0)
    assert link.ways == {"fe80::2": 1001}
    assert link.applied[-1].cause == "router fe80::1 says that it is none any more"
    link.hear(TWO, lifetime=0)
    assert link.applied[-1].findings is None
    assert link.asked[-2:] == [link.now - 1, link.now]  # for another one


def test_preferences_and_numbers_that_are_free_again() -> None:
    link = Link()
    link.hear(ONE, lifetime=1800, preference=Preference.LOW)
    link.hear(TWO, lifetime=1800, preference=Preference.HIGH)
    assert link.ways == {"fe80::1": 1016, "fe80::2": 985}
    link.hear(ONE, lifetime=0)
    link.hear(IPv6Address("fe80::3"), lifetime=1800)
    assert link.ways == {"fe80::2": 985, "fe80::3": 1000}


def test_routes_of_a_router() -> None:
    link = Link()
    to = IPv6Network("fd77::/48")
    link.hear(lifetime=1800, routes=(RouteTo(to, 600, Preference.HIGH),))
    [default, route] = link.found().routes
    assert default.destination == DEFAULT
    assert (route.destination, route.lifetime, route.metric) == (to, 600, 984)
    assert route.via == ONE
    link.run(599)
    assert len(link.found().routes) == 1
    link.hear(lifetime=1800, routes=(RouteTo(to, None),))
    assert link.found().routes[1].lifetime is None
    link.hear(lifetime=1800, routes=(RouteTo(to, 0),))
    assert len(link.found().routes) == 1


def test_a_route_to_everywhere_says_it_better_than_the_header() -> None:
    link = Link()
    link.hear(lifetime=0, routes=(RouteTo(DEFAULT, 99, Preference.LOW),))
    assert link.ways == {"fe80::1": 1016}
    assert link.found().routes[0].lifetime == 99
    link.hear(lifetime=1800, routes=(RouteTo(DEFAULT, 0),))
    assert link.applied[-1].findings is None


def test_what_is_on_the_link_needs_no_router_whatever_one_says() -> None:
    # RFC 4861 section 5.2 looks for a router only if no prefix says otherwise.
    link = Link()
    link.hear(
        lifetime=1800,
        prefixes=(Prefix(NETWORK, 100, 100),),
        routes=(RouteTo(NETWORK, 100, Preference.HIGH),),
    )
    ways = {each.via: each.metric for each in link.found().routes[::2]}
    assert ways[None] < ways[ONE]


def test_there_is_always_room_for_the_default_route() -> None:
    link = Link()
    nets = [IPv6Network((0xFD77 << 112 | n << 64, 64)) for n in range(MOST_ROUTES)]
    link.hear(routes=tuple(RouteTo(each, None) for each in nets))
    link.hear(lifetime=1800)
    assert link.ways == {"fe80::1": 1000}


@pytest.mark.parametrize("network", ["fe80::/64", "ff00::/8", "::1/128", "::/96"])
def test_routes_that_lead_nowhere(network: str) -> None:
    link = Link()
    link.hear(lifetime=1800, routes=(RouteTo(IPv6Network(network), 600),))
    assert [each.destination for each in link.found().routes] == [DEFAULT]


# Prefixes and addresses


def test_an_address_of_the_mac_address() -> None:
    link = Link()
    link.prefix(86400, 14400)
    [address] = link.found().addresses
    assert address.address.ip == eui64_address(MAC, NETWORK)
    assert str(address.address) == "fd00::ff:fe00:1/64"
    assert (address.valid, address.preferred) == (86400, 14400)
    assert not address.nodad
    assert address.noprefixroute
    on_link, default = link.found().routes
    assert (on_link.destination, on_link.via, on_link.dev) == (NETWORK, None, "vde0")
    assert (on_link.lifetime, on_link.metric) == (86400, 983)
    assert default.via == ONE


def test_an_address_of_the_name() -> None:
    link = Link(fqdn="a.lab")
    link.prefix(None, None, autonomous=False, on_link=False)
    [address] = link.found().addresses
    assert address.address.ip == hash_address("a.lab", NETWORK)
    assert (address.valid, address.preferred) == (None, None)
    assert len(link.found().routes) == 1


@pytest.mark.parametrize(
    ("options", "prefix"),
    [
        ({}, Prefix(NETWORK, 100, 100, autonomous=False)),
        ({}, Prefix(IPv6Network("fd00::/63"), 100, 100)),
        ({"fqdn": "a.lab"}, Prefix(IPv6Network("fd00::/65"), 100, 100)),
        ({}, Prefix(NETWORK, 100, 101)),
        ({}, Prefix(NETWORK, 100, None)),
        ({"addresses": False}, Prefix(NETWORK, 100, 100)),
        ({"addresses": False, "fqdn": "a.lab"}, Prefix(NETWORK, 100, 100)),
    ],
)
def test_no_address_but_on_the_link(options: dict[str, Any], prefix: Prefix) -> None:
    link = Link(**options)
    link.hear(prefixes=(prefix,))
    assert not link.found().addresses
    assert [each.destination for each in link.found().routes] == [prefix.network]


@pytest.mark.parametrize(
    "network", ["fe80::/64", "ff02::/64", "::/64", "::/0", "::ffff:0:0/96"]
)
def test_networks_that_are_no_links(network: str) -> None:
    link = Link(fqdn="a.lab")
    link.prefix(100, 100, network=IPv6Network(network))
    assert not link.found().addresses
    assert [each.destination for each in link.found().routes] == [DEFAULT]


def test_a_network_whose_time_is_over() -> None:
    link = Link()
    link.prefix(100, 50, lifetime=0)
    assert link.applied[-1].findings is not None
    link.run(97)
    assert link.times() == (100, 50)
    link.run(1)
    assert link.applied[-1].findings is None


def test_deprecated() -> None:
    link = Link()
    link.prefix(86400, 0)
    assert link.times() == (86400, 0)
    link.prefix(86400, 100)
    link.run(200)
    link.hear(lifetime=1800)
    assert link.times() == (86400 - 202, 0)


def test_a_network_that_is_taken_back_stays_for_two_hours() -> None:
    # RFC 4862 section 5.5.3 e. The route is gone at once.
    link = Link()
    link.prefix(30 * HOUR, 10 * HOUR)
    link.prefix(0, 0)
    assert link.times() == (2 * HOUR, 0)
    assert [each.destination for each in link.found().routes] == [DEFAULT]
    link.run(600)
    link.prefix(0, 0)
    assert link.times() == (2 * HOUR - 602, 0)
    link.prefix(60, 30)
    assert link.times() == (2 * HOUR - 604, 30)
    # What is more than two hours, or more than is left, counts.
    link.prefix(2 * HOUR - 30, 30)
    assert link.times() == (2 * HOUR - 30, 30)
    link.prefix(3 * HOUR, HOUR)
    assert link.times() == (3 * HOUR, HOUR)
    link.prefix(None, None)
    assert link.times() == (None, None)
    link.prefix(60, 60)
    assert link.times() == (2 * HOUR, 60)


def test_preferred_is_not_longer_than_what_is_left() -> None:
    link = Link()
    link.prefix(100, 100)
    link.run(60)
    link.prefix(30, 30)
    assert link.times() == (38, 30)
    link.run(20)
    link.hear(lifetime=1800)
    assert link.times() == (16, 8)


def test_a_network_that_is_over_and_comes_again() -> None:
    link = Link()
    link.prefix(10, 10)
    link.run(20)
    assert not link.found().addresses
    link.prefix(0, 0)
    assert not link.found().addresses
    link.prefix(10, 10)
    assert link.times() == (10, 10)


def test_two_routers_know_the_same_network() -> None:
    link = Link()
    link.prefix(100, 100)
    link.prefix(200, 100, source=TWO)
    assert len(link.found().addresses) == 1
    assert len(link.found().routes) == 3
    # It is the link's: it does not go with the router.
    link.hear(TWO, lifetime=0)
    assert link.times() == (198, 98)


def test_an_address_that_another_one_has() -> None:
    link = Link()
    link.hear(prefixes=(Prefix(NETWORK, 100, 100), Prefix(OTHER, 100, 100)))
    taken = eui64_address(MAC, NETWORK)
    assert link.machine.duplicated(()) == ()
    assert link.machine.duplicated({IPv6Address("fd00::7")}) == ()
    assert link.machine.duplicated({taken}) == (taken,)
    assert link.machine.duplicated({taken}) == ()
    link.hear(prefixes=(Prefix(NETWORK, 100, 100),))
    assert [each.address.network for each in link.found().addresses] == [OTHER]
    assert NETWORK in {each.destination for each in link.found().routes}
    # When the network has been away, it may be free.
    link.run(200)
    link.prefix(100, 100)
    assert len(link.found().addresses) == 1
    # Or on another link, with a network of the same number.
    assert link.machine.duplicated({taken}) == (taken,)
    link.machine.refresh()
    link.prefix(100, 100)
    assert len(link.found().addresses) == 1


# The rest


def test_servers_domains_and_mtu() -> None:
    link = Link()
    link.hear(
        lifetime=1800,
        mtu=1400,
        dns=(DnsServers((IPv6Address("fd00::53"), ONE), 100),),
        domains=(DnsSuffixes(("lab", "example.org"), 200),),
    )
    assert list(map(str, link.found().dns)) == ["fd00::53", "fe80::1%vde0"]
    assert link.found().domains == ("lab", "example.org")
    assert link.found().mtu == 1400
    link.hear(dns=(DnsServers((ONE,), 0),))
    assert list(map(str, link.found().dns)) == ["fd00::53"]
    link.hear(mtu=1500, lifetime=1800)
    assert link.found().mtu == 1500
    link.run(100)
    assert not link.found().dns
    assert link.found().domains
    link.run(100)
    assert not link.found().domains
    assert link.found().mtu == 1500
    link.run(1800)
    assert link.applied[-1].findings is None


def test_servers_that_cannot_be_any() -> None:
    link = Link()
    servers = (IPv6Address("ff02::fb"), IPv6Address("::"), IPv6Address("::1"))
    link.hear(dns=(DnsServers(servers, None),))
    assert list(map(str, link.found().dns)) == ["::1"]


@pytest.mark.parametrize("mtu", [0, 1279, 1501, 0xFFFFFFFF])
def test_an_mtu_that_cannot_be(mtu: int) -> None:
    link = Link()
    link.hear(lifetime=1800, mtu=mtu)
    assert link.found().mtu is None


def test_an_advertisement_that_says_nothing() -> None:
    link = Link()
    link.hear()
    link.hear(mtu=1400)
    assert not link.applied


def test_many_at_once_are_applied_together() -> None:
    link = Link()
    link.prefix(9000, 9000)
    del link.applied[:]
    for number in range(100):
        told = RouterAdvertisement(lifetime=1800 + number).pack()
        link.machine.receive(told, ONE, 255, link.now)
        change = link.machine.take_change(link.now)
        assert (change is None) == (number > 0)
    link.run(5)
    assert len(link.applied) == 1
    assert link.found().routes[-1].lifetime == 1899 - 1


def test_who_asks_anew_does_not_wait_for_the_answer() -> None:
    link = Link()
    link.prefix(9000, 9000)
    told = RouterAdvertisement(lifetime=1800).pack()
    for _ in range(2):
        link.machine.refresh()
        link.machine.receive(told, ONE, 255, link.now)
        assert link.machine.take_change(link.now) is not None


# Those who want no good


@pytest.mark.parametrize(
    ("source", "hop_limit", "message"),
    [
        ("fe80::1", 254, RouterAdvertisement(lifetime=1).pack()),
        ("fe80::1", 0, RouterAdvertisement(lifetime=1).pack()),
        ("fd00::1", 255, RouterAdvertisement(lifetime=1).pack()),
        ("fe80::ff:fe00:1", 255, RouterAdvertisement(lifetime=1).pack()),  # our own
        ("::", 255, RouterAdvertisement(lifetime=1).pack()),
        ("ff02::1", 255, RouterAdvertisement(lifetime=1).pack()),
        ("fe80::1", 255, RouterSolicitation().pack()),
        ("fe80::1", 255, RouterAdvertisement(lifetime=1).pack() + b"\1\0"),
        ("fe80::1", 255, b""),
    ],
)
def test_what_does_not_come_from_a_router(
    source: str, hop_limit: int, message: bytes
) -> None:
    link = Link()
    with pytest.raises(ValueError):
        link.machine.receive(message, IPv6Address(source), hop_limit, link.now)
    link.run(10)
    assert not link.applied


def test_a_scope_makes_no_other_router() -> None:
    link = Link()
    link.hear(ONE, lifetime=1800)
    link.hear(IPv6Address("fe80::1%vde0"), lifetime=1800)
    assert link.ways == {"fe80::1": 1000}


def test_routers_and_networks_without_end() -> None:
    link = Link()
    link.prefix(None, None)
    for number in range(100):
        network = IPv6Network((0xFD01 << 112 | number << 64, 64))
        to = IPv6Network((0xFD02 << 112 | number << 64, 64))
        server = IPv6Address(0xFD03 << 112 | number)
        for source in IPv6Address(f"fe80::{number:x}"), ONE:
            link.hear(
                source,
                lifetime=1800,
                prefixes=(Prefix(network, None, None),),
                routes=(RouteTo(to, None),),
                dns=(DnsServers((server,), None),),
                domains=(DnsSuffixes((f"d{number}.lab",), None),),
            )
    found = link.found()
    assert len(found.addresses) == MOST_PREFIXES
    assert len(found.dns) == MOST_SERVERS
    assert len(found.domains) == MOST_DOMAINS
    assert len({each.via for each in found.routes if each.via}) == MOST_ROUTERS
    assert sum(each.via == ONE for each in found.routes) == MOST_ROUTES
    assert all(983 <= each.metric <= 1031 for each in found.routes)
    # Who was first is still there.
    assert found.addresses[0].address.network == NETWORK
    assert link.ways["fe80::1"] == 1000


def test_the_more_there_is_the_less_often_it_is_applied() -> None:
    # All that fits: 600 addresses and routes, that take half a second to be applied.
    link = Link()
    prefixes = [
        Prefix(IPv6Network((0xFD01 << 112 | n << 64, 64)), None, None)
        for n in range(MOST_PREFIXES)
    ]
    routes = [
        RouteTo(IPv6Network((0xFD02 << 112 | n << 64, 64)), None) for n in range(31)
    ]
    told = {"prefixes": prefixes, "routes": routes, "lifetime": 1800}
    for _ in range(10):
        for number in range(1, MOST_ROUTERS + 1):
            message = RouterAdvertisement(**told).pack()  # type: ignore[arg-type]
            source = IPv6Address(f"fe80::{number:x}")
            link.machine.receive(message, source, 255, link.now)
        link.run(1.0)
    link.run(60)
    assert len(link.found().routes) > 500
    assert len(link.applied) <= 3


TIMES = st.sampled_from([0, 1, 30, 7200, 7201, 86400, None])
NETWORKS = st.sampled_from([NETWORK, OTHER, IPv6Network("fd02::/48"), DEFAULT])
TOLD = st.fixed_dictionaries(
    {
        "lifetime": st.sampled_from([0, 1, 1800, 65535]),
        "preference": st.sampled_from(Preference),
        "mtu": st.none() | st.integers(0, 2000),
        "prefixes": st.lists(
            st.builds(Prefix, NETWORKS, TIMES, TIMES, st.booleans(), st.booleans()),
            max_size=3,
        ),
        "routes": st.lists(
            st.builds(RouteTo, NETWORKS, TIMES, st.sampled_from(Preference)), max_size=3
        ),
        "dns": st.lists(
            st.builds(DnsServers, st.sampled_from([(ONE,), (TWO, ONE)]), TIMES),
            max_size=2,
        ),
        "domains": st.lists(
            st.builds(DnsSuffixes, st.sampled_from([("a",), ("b", "a")]), TIMES),
            max_size=2,
        ),
    }
)
STEPS = st.lists(
    st.tuples(st.sampled_from([ONE, TWO]), TOLD, st.floats(0, 10000)), max_size=15
)


@settings(max_examples=50)
@given(STEPS, st.none() | st.just("a.lab"))
def test_whatever_is_said(
    steps: list[tuple[IPv6Address, dict[str, Any], float]], fqdn: str | None
) -> None:
    link = Link(fqdn=fqdn)
    for source, told, seconds in steps:
        link.hear(source, **told)
        link.run(seconds)
    for change in link.applied:
        if change.findings is None:
            continue
        for address in change.findings.addresses:
            assert address.valid != 0
        keys = [(each.destination, each.metric) for each in change.findings.routes]
        assert len(keys) == len(set(keys))
    # In the end only what has no end is left.
    link.run(100_000)
    if link.applied and (last := link.applied[-1].findings):
        assert all(each.lifetime is None for each in last.routes)
        assert all(each.valid is None for each in last.addresses)


@given(st.lists(st.binary(max_size=200), max_size=10))
def test_any_bytes(messages: list[bytes]) -> None:
    link = Link()
    for message in messages:
        try:
            link.machine.receive(b"\x86\0" + message, ONE, 255, link.now)
        except ValueError:
            continue
        link.run(100)


def test_the_deadline_of_a_machine_at_rest() -> None:
    link = Link()
    link.run(0)
    link.hear(lifetime=0, routes=(RouteTo(DEFAULT, None),))
    assert link.machine.deadline(link.now) == math.inf
