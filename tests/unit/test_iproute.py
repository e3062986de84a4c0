"""Addresses, routes, neighbours and rules as values: said, asked for, and read."""

from __future__ import annotations

import ipaddress
import struct
from typing import Any, Literal

import pytest
from hypothesis import given, strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from aioioth import _decoding
from aioioth._iproute import Request, change
from aioioth.errors import ConfigurationError
from aioioth.iproute import Address, Link, Neighbour, NextHop, Qdisc, Route, Rule
from aioioth.wire import rtnetlink, rtroute

NAMES = {1: "lo", 7: "vde0", 9: "vde1"}
NUMBERS = {name: number for number, name in NAMES.items()}
MAC = "02:00:00:00:00:01"

VERSIONS: list[Literal[4, 6]] = [4, 6]

numbers = st.integers(0, 0xFFFFFFFF)
seconds = st.none() | st.integers(0, rtroute.FOREVER - 1)
devs = st.sampled_from(["vde0", "vde1"])


def asked(command: str, thing: Any) -> list[Request]:
    return change(command, thing, NUMBERS.__getitem__, is_up=False)


def body_of(thing: Any) -> bytes:
    [request] = asked("add", thing)
    return request.payload[16:]


@st.composite
def networks(draw: st.DrawFn, version: Literal[4, 6]) -> Any:
    make = ipaddress.IPv4Network if version == 4 else ipaddress.IPv6Network
    bits = draw(st.integers(0, 32 if version == 4 else 128))
    host = draw(st.ip_addresses(v=version))
    return make((int(host), bits), strict=False)


@st.composite
def addresses(draw: st.DrawFn) -> Address:
    version = draw(st.sampled_from(VERSIONS))
    host = draw(st.ip_addresses(v=version))
    bits = draw(st.integers(0, host.max_prefixlen))
    valid, preferred = draw(seconds), draw(seconds)
    if valid is not None and preferred is not None:
        preferred = min(valid, preferred)
    peer = draw(st.none() | st.ip_addresses(v=version))
    return Address(
        ipaddress.ip_interface((int(host), bits))
        if version == 4
        else ipaddress.IPv6Interface((int(host), bits)),
        draw(devs),
        peer=None if peer == host else peer,
        nodad=version == 6 and draw(st.booleans()),
        valid=valid,
        preferred=valid if preferred is None else preferred,
        noprefixroute=draw(st.booleans()),
        scope=draw(st.none() | st.sampled_from([*rtroute.SCOPES, "7"])),
    )


@given(addresses())
def test_an_address_comes_back(address: Address) -> None:
    back = _decoding.address(body_of(address), NAMES)
    assert back is not None
    is_own = address.address.version == 4 and address.address.ip.is_loopback
    scope = address.scope or ("host" if is_own else "global")
    assert vars(back) == vars(address) | {"scope": scope}


@st.composite
def routes(draw: st.DrawFn) -> Route:
    version = draw(st.sampled_from(VERSIONS))
    routers = st.ip_addresses(v=6) if version == 6 else st.ip_addresses()
    hops = draw(
        st.lists(
            st.builds(NextHop, routers, devs | st.none(), st.integers(1, 256))
            | st.builds(NextHop, st.none(), devs, st.integers(1, 256)),
            max_size=3,
        )
    )
    one_way = not hops
    return Route(
        draw(networks(version)),
        via=draw(st.none() | routers) if one_way else None,
        dev=draw(st.none() | devs) if one_way else None,
        metric=draw(numbers),
        table=draw(st.integers(1, 0xFFFFFFFF)),
        kind=draw(st.sampled_from([*rtroute.ROUTE_TYPES, "11"])),
        source=draw(st.none() | st.ip_addresses(v=version)),
        nexthops=hops,
        mtu=draw(st.none() | st.integers(1, 65535)),
        onlink=one_way and draw(st.booleans()),
        scope=draw(st.sampled_from(list(rtroute.SCOPES))),
        protocol=draw(st.sampled_from(list(rtroute.ROUTE_PROTOCOLS))),
    )


@given(routes())
def test_a_route_comes_back(route: Route) -> None:
    back = _decoding.route(body_of(route), NAMES)
    assert back is not None
    assert vars(back) == vars(route)


@given(
    st.ip_addresses(),
    st.none() | st.just(MAC),
    st.sampled_from(list(rtroute.NEIGHBOUR_STATES)),
    st.booleans(),
    st.booleans(),
)
def test_a_neighbour_comes_back(
    address: Any, mac: str | None, state: str, router: bool, proxy: bool
) -> None:
    said = Neighbour(address, mac, dev="vde0", state=state, router=router, proxy=proxy)
    back = _decoding.neighbour(body_of(said), NAMES, hidden=True)
    assert back is not None
    assert vars(back) == vars(said)
    shown = _decoding.neighbour(body_of(said), NAMES)
    assert (shown is None) == (not proxy and state in {"noarp", "none"})


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    version = draw(st.sampled_from(VERSIONS))
    action = draw(st.sampled_from([*rtroute.RULE_ACTIONS, "2"]))
    wide = networks(version).filter(lambda net: net.prefixlen > 0)
    mark = draw(st.none() | numbers)
    return Rule(
        draw(st.integers(1, 0xFFFFFFFF)) if action == "lookup" else 0,
        source=draw(st.none() | wide),
        destination=draw(st.none() | wide),
        iif=draw(st.none() | devs),
        oif=draw(st.none() | devs),
        fwmark=mark,
        fwmask=None if mark is None else draw(st.none() | numbers),
        priority=draw(numbers),
        version=version,
        action=action,
    )


@given(rules())
def test_a_rule_comes_back(rule: Rule) -> None:
    assert _decoding.rule(body_of(rule)) == rule


def test_a_rule_of_no_family_is_of_both() -> None:
    requests = asked("add", Rule(300, fwmark=5))
    found = [_decoding.rule(request.payload[16:]) for request in requests]
    assert [rule.version for rule in found if rule is not None] == [4, 6]


# What pyroute2 writes, we read


def body(kind: Any, attributes: list[tuple[str, Any]], **fields: Any) -> bytes:
    message = kind()
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = attributes
    message.encode()
    return bytes(message.data[16:])


def test_reading_an_address() -> None:
    times = {"ifa_preferred": 0xFFFFFFFF, "ifa_valid": 100, "cstamp": 1, "tstamp": 1}
    data = body(
        ifaddrmsg,
        [
            ("IFA_ADDRESS", "fd00::1"),
            ("IFA_FLAGS", 0x248),
            ("IFA_CACHEINFO", times),
        ],
        family=10,
        prefixlen=64,
        index=7,
        flags=0x48,
        scope=253,
    )
    found = _decoding.address(data, NAMES)
    assert found == Address("fd00::1/64", "vde0")
    assert (found.valid, found.preferred, found.scope) == (100, None, "link")
    assert found.tentative
    assert found.duplicated
    assert found.noprefixroute
    assert not found.usable
    assert _decoding.address(data, {}) is None  # nobody knows whose


def test_reading_a_route() -> None:
    data = body(
        rtmsg,
        [
            ("RTA_DST", "10.1.0.0"),
            ("RTA_TABLE", 300),
            ("RTA_OIF", 7),
            ("RTA_VIA", {"family": 10, "addr": "fe80::1"}),
            ("RTA_METRICS", {"attrs": [("RTAX_MTU", 1400)]}),
        ],
        family=2,
        dst_len=16,
        table=252,
        proto=16,
        type=1,
    )
    assert _decoding.route(data, NAMES) == Route(
        "10.1.0.0/16", via="fe80::1", dev="vde0", table=300, mtu=1400
    )
    cloned = body(rtmsg, [], family=10, flags=0x200, type=1)
    assert _decoding.route(cloned, NAMES) is None


def test_reading_a_neighbour() -> None:
    data = body(
        ndmsg,
        [("NDA_DST", "10.0.0.9"), ("NDA_LLADDR", MAC)],
        family=2,
        ifindex=7,
        state=4,
    )
    assert _decoding.neighbour(data, NAMES) == Neighbour("10.0.0.9", MAC, dev="vde0")
    bridge = body(ndmsg, [("NDA_LLADDR", MAC)], family=7, ifindex=7, state=4)
    assert _decoding.neighbour(bridge, NAMES) is None


def test_reading_a_link() -> None:
    data = body(
        ifinfmsg,
        [
            ("IFLA_IFNAME", "eth0"),
            ("IFLA_MTU", 1400),
            ("IFLA_ADDRESS", MAC),
            ("IFLA_MASTER", 9),
            ("IFLA_LINK", 7),
            ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "vlan")]}),
        ],
        index=11,
        flags=1,
    )
    assert _decoding.link(data, NAMES) == Link(
        11, "eth0", MAC, 1400, up=True, carrier=False, kind="vlan", master="vde1",
        parent="vde0",
    )  # fmt: skip
    port = body(ifinfmsg, [("IFLA_IFNAME", "eth0")], family=7, index=11)
    assert _decoding.link(port, NAMES) is None


# What cannot be right


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Address("10.0.0.1", "vde0"), "no prefix length"),
        (lambda: Address("10.0.0.1/24", "vde0", peer="fd00::1"), "the other IPv6"),
        (lambda: Address("10.0.0.1/24", "vde0", valid=-1), "valid=-1"),
        (lambda: Address("10.0.0.1/24", "vde0", valid=1 << 32), "valid="),
        (
            lambda: Address("10.0.0.1/24", "vde0", valid=1, preferred=2),
            "not longer than valid=1",
        ),
        (lambda: Route("10.1.0.1/16", dev="vde0"), "host bits"),
        (lambda: Route("default", dev="vde0"), "'0.0.0.0/0' or '::/0'"),
        (lambda: Route("fd00::/64", via="10.0.0.1"), "the other IPv6"),
        (lambda: Route("fd00::/64", source="10.0.0.1"), "the other IPv6"),
        (lambda: Route("10.0.0.0/8", via="nobody"), "route to 10.0.0.0/8 via"),
        (lambda: Route("10.0.0.0/8", lifetime=5), "no lifetime"),
        (lambda: Route("10.0.0.0/8", kind="fast"), "kind='fast'"),
        (lambda: Route("10.0.0.0/8", table=0), "table=0"),
        (lambda: Route("10.0.0.0/8", mtu=0), "mtu=0"),
        (lambda: Route("10.0.0.0/8", protocol="256"), "protocol='256'"),
        (lambda: Route("10.0.0.0/8", metric=-1), "metric=-1"),
        (
            lambda: Route("10.0.0.0/8", dev="vde0", nexthops=[NextHop(dev="vde1")]),
            "either nexthops=",
        ),
        (NextHop, "via= or dev="),
        (lambda: NextHop(dev="vde0", weight=257), "weight=257"),
        (lambda: Neighbour("10.0.0.1", "nobody", dev="vde0"), "mac='nobody'"),
        (lambda: Neighbour("10.0.0.1", dev="vde0", state="x"), "state='x'"),
        (lambda: Rule(0), "table=0"),
        (lambda: Rule(5, source="10.0.0.0/8", destination="fd00::/8"), "either IPv4"),
        (lambda: Rule(5, version=5), "either IPv4"),
        (lambda: Rule(5, fwmark=-1), "fwmark=-1"),
        (lambda: asked("replace", Rule(5)), "rules have no names"),
    ],
)
def test_what_cannot_be_right(make: Any, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert text in str(caught.value)


# In iproute2's words


@pytest.mark.parametrize(
    ("thing", "text"),
    [
        (
            Address("10.0.0.1/32", "vde0", peer="10.0.0.2", valid=9, preferred=5),
            "10.0.0.1/32 peer 10.0.0.2 dev vde0 valid_lft 9 preferred_lft 5",
        ),
        (Address("::1/128", "lo", duplicated=True), "::1/128 dev lo dadfailed"),
        (Route("default", via="10.0.0.1"), "default via 10.0.0.1"),
        (
            Route("10.0.0.0/8", kind="blackhole", metric=5, table=9),
            "blackhole 10.0.0.0/8 table 9 metric 5",
        ),
        (
            Route("::/0", nexthops=[NextHop("fe80::1", "vde0"), NextHop(dev="vde1")]),
            "default nexthop via fe80::1 dev vde0 weight 1 nexthop dev vde1 weight 1",
        ),
        (Neighbour("10.0.0.9", MAC, dev="vde0"),
         f"10.0.0.9 lladdr {MAC} dev vde0 nud permanent"),
        (Neighbour("10.0.0.9", dev="vde0", proxy=True), "proxy 10.0.0.9 dev vde0"),
        (
            Rule(9, source="10.0.0.0/8", iif="vde0", fwmark=5, priority=7),
            "priority 7 from 10.0.0.0/8 iif vde0 fwmark 0x5/0xffffffff lookup 9",
        ),
        (Rule(action="prohibit", version=6), "from all prohibit"),
        (
            Link(7, "vde0", MAC, 1500, up=True, carrier=False, kind="tun"),
            f"vde0 mtu 1500 up no-carrier address {MAC} type tun",
        ),
        (Qdisc("tbf", "vde0", "8001:", "root"), "tbf 8001: dev vde0 root"),
    ],
)  # fmt: skip
def test_words(thing: Any, text: str) -> None:
    assert str(thing) == text


NONSENSE: tuple[Any, ...] = (
    5,
    1.5,
    b"x",
    [],
    {},
    "",
    "\0",
    "x" * 16,
    "9" * 5000,
    object(),
)


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        *((Address, word) for word in ("address", "dev", "peer", "valid", "scope")),
        *((Route, word) for word in ("destination", "via", "dev", "kind", "source")),
        *((Route, word) for word in ("nexthops", "scope", "protocol")),
        *((Neighbour, word) for word in ("address", "mac", "dev", "state")),
        *((Rule, word) for word in ("source", "iif", "oif", "version", "action")),
        *((NextHop, word) for word in ("via", "dev")),
    ],
)
def test_nonsense_is_refused(kind: type[Any], word: str) -> None:
    rights: dict[type[Any], dict[str, Any]] = {
        Address: {"address": "10.0.0.1/24", "dev": "vde0"},
        Route: {"destination": "10.0.0.0/24"},
        Neighbour: {"address": "10.0.0.1", "dev": "vde0"},
        Rule: {"table": 5},
        NextHop: {"via": "10.0.0.1"},
    }
    right = rights[kind]
    kind(**right)
    for bad in NONSENSE:
        if (word, bad) in [("valid", 5), ("nexthops", []), ("nexthops", "")]:
            continue
        with pytest.raises(ConfigurationError):
            kind(**{**right, word: bad})


def test_what_nobody_could_ask_for_is_read() -> None:
    """A way whose interface is not known (yet), and a route of no table."""
    hop = rtroute.HOP.pack(rtroute.HOP.size, 0, 0, 77)
    header = rtroute.ROUTE.pack(rtnetlink.AF_INET, 16, 0, 0, 0, 2, 0, 1, 0)
    body = (
        header
        + rtnetlink.attribute(rtroute.RTA_DST, bytes((10, 1, 0, 0)))
        + rtnetlink.attribute(rtroute.RTA_MULTIPATH, hop)
    )
    found = _decoding.route(body, {})
    assert found is not None
    assert (found.table, found.nexthops[0].dev, found.nexthops[0].via) == (
        0,
        None,
        None,
    )
    assert str(found)


def test_a_rule_with_more_than_can_be_said() -> None:
    rule = Rule(5, source="10.0.0.0/8", priority=7, version=4)
    [request] = change("add", rule, NUMBERS.__getitem__)
    body = request.payload[16:]
    assert _decoding.rule(body) == rule
    inverted = body[:8] + struct.pack("=I", rtroute.FIB_RULE_INVERT) + body[12:]
    found = _decoding.rule(inverted)
    assert found is not None
    assert found.partial
    assert found != rule
    with pytest.raises(ConfigurationError, match="not all of it is known"):
        change("del", found, NUMBERS.__getitem__)
