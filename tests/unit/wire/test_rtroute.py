"""Requests about addresses, routes, neighbours and rules, as pyroute2 reads them."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from aioioth.wire import linkkinds, rtnetlink, rtroute

CREATE = 0x605  # NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK | NLM_F_REQUEST
REPLACE = 0x505
DELETE = 0x005


def read(kind: Any, message: bytes) -> tuple[Any, dict[str, Any]]:
    """Return pyroute2's message, and its attributes by name."""
    decoded = kind(message)
    decoded.decode()
    return decoded, {each[0]: each[1] for each in decoded["attrs"]}


@pytest.mark.parametrize(
    ("command", "kind", "flags"),
    [("add", 20, CREATE), ("replace", 20, REPLACE), ("del", 21, DELETE)],
)
def test_an_address(command: str, kind: int, flags: int) -> None:
    ours, peer = ip_address("10.0.0.1"), ip_address("10.0.0.2")
    message = rtroute.change_address(
        command, 7, ours, 32, peer=peer, valid=100, preferred=50, flags=0x200
    )
    header, told = read(ifaddrmsg, message)
    assert (header["header"]["type"], header["header"]["flags"]) == (kind, flags)
    assert (header["family"], header["prefixlen"], header["index"]) == (2, 32, 7)
    times = told.pop("IFA_CACHEINFO")
    assert (times["ifa_preferred"], times["ifa_valid"]) == (50, 100)
    assert told == {
        "IFA_LOCAL": "10.0.0.1",
        "IFA_ADDRESS": "10.0.0.2",
        "IFA_FLAGS": 0x200,
    }


def test_an_ipv6_address_is_nobody_elses() -> None:
    message = rtroute.change_address("add", 7, ip_address("fd00::1"), 64)
    header, told = read(ifaddrmsg, message)
    assert (header["family"], header["flags"]) == (10, rtroute.IFA_F_NODAD)
    assert told["IFA_FLAGS"] == rtroute.IFA_F_NODAD
    assert "IFA_CACHEINFO" not in told


def test_a_route() -> None:
    message = rtroute.change_route(
        "add",
        ip_network("fd01::/48"),
        ip_address("fe80::1"),
        3,
        metric=5,
        table=300,
        mtu=1400,
        source=ip_address("fd00::1"),
        onlink=True,
        lifetime=60,
        protocol=16,
    )
    header, told = read(rtmsg, message)
    assert header["header"]["flags"] == CREATE
    assert (header["family"], header["dst_len"], header["table"]) == (10, 48, 0)
    assert (header["proto"], header["type"], header["flags"]) == (16, 1, 4)
    metrics = told.pop("RTA_METRICS")
    assert [tuple(each) for each in metrics["attrs"]] == [("RTAX_MTU", 1400)]
    assert told == {
        "RTA_TABLE": 300,
        "RTA_DST": "fd01::",
        "RTA_GATEWAY": "fe80::1",
        "RTA_OIF": 3,
        "RTA_PRIORITY": 5,
        "RTA_PREFSRC": "fd00::1",
        "RTA_EXPIRES": "3c:00:00:00",  # pyroute2 does not know what it is
    }


def test_an_ipv4_route_by_an_ipv6_router() -> None:
    network, router = ip_network("10.1.0.0/16"), ip_address("fe80::1")
    _, told = read(rtmsg, rtroute.change_route("add", network, router, 3))
    assert told["RTA_VIA"] == {"family": 10, "addr": "fe80::1"}
    assert "RTA_GATEWAY" not in told


def test_a_route_with_several_ways() -> None:
    hops = [
        (ip_address("10.0.0.1"), 3, 1),
        (None, 4, 256),
        (ip_address("fe80::1"), 5, 2),
    ]
    message = rtroute.change_route(
        "add", ip_network("10.1.0.0/16"), None, None, hops=hops
    )
    header, told = read(rtmsg, message)
    assert header["scope"] == 0  # as with a router, not that of a link
    ways = [
        (way["oif"], way["hops"], dict(tuple(each) for each in way["attrs"]))
        for way in told["RTA_MULTIPATH"]
    ]
    assert ways == [
        (3, 0, {"RTA_GATEWAY": "10.0.0.1"}),
        (4, 255, {}),
        (5, 1, {"RTA_VIA": {"family": 10, "addr": "fe80::1"}}),
    ]


@pytest.mark.parametrize(
    ("kind", "number", "scope"), [("blackhole", 6, 0), ("local", 2, 254)]
)
def test_routes_of_other_types(kind: str, number: int, scope: int) -> None:
    message = rtroute.change_route(
        "add", ip_network("10.1.0.0/16"), None, None, kind=kind
    )
    header, _ = read(rtmsg, message)
    assert (header["type"], header["scope"]) == (number, scope)


def test_a_route_is_deleted_by_what_is_said_of_it() -> None:
    message = rtroute.change_route("del", ip_network("10.1.0.0/16"), None, None)
    header, told = read(rtmsg, message)
    assert (header["proto"], header["type"], header["scope"]) == (0, 0, 255)
    assert told == {"RTA_DST": "10.1.0.0"}


def test_a_neighbour() -> None:
    message = rtroute.change_neighbour(
        "replace", 3, ip_address("fd00::1"), b"\2\0\0\0\0\1", state=128, flags=8
    )
    header, told = read(ndmsg, message)
    assert header["header"]["flags"] == REPLACE
    assert (header["family"], header["ifindex"]) == (10, 3)
    assert (header["state"], header["flags"]) == (128, 8)
    assert told == {"NDA_DST": "fd00::1", "NDA_LLADDR": "02:00:00:00:00:01"}


def test_a_rule() -> None:
    message = rtroute.change_rule(
        "add",
        2,
        "lookup",
        table=300,
        source=ip_network("10.0.0.0/8"),
        destination=ip_network("10.1.0.0/16"),
        iif="vde0",
        oif="vde1",
        fwmark=5,
        fwmask=255,
        priority=9,
    )
    header, told = read(fibmsg, message)
    assert (header["src_len"], header["dst_len"], header["action"]) == (8, 16, 1)
    assert told == {
        "FRA_DST": "10.1.0.0",
        "FRA_SRC": "10.0.0.0",
        "FRA_IIFNAME": "vde0",
        "FRA_OIFNAME": "vde1",
        "FRA_PRIORITY": 9,
        "FRA_FWMARK": 5,
        "FRA_FWMASK": 255,
        "FRA_TABLE": 300,
    }


# New links


def info(message: bytes) -> tuple[str, dict[str, Any]]:
    _, told = read(ifinfmsg, message)
    parts = {each[0]: each[1] for each in told["IFLA_LINKINFO"]["attrs"]}
    data = parts.get("IFLA_INFO_DATA")
    return parts["IFLA_INFO_KIND"], (
        {} if data is None else {each[0]: each[1] for each in data["attrs"]}
    )


def new(kind: bytes) -> bytes:
    return rtnetlink.new_link(rtnetlink.link_body(name="new0") + kind)


def test_links_of_each_kind() -> None:
    assert info(new(linkkinds.plain("bridge"))) == ("bridge", {})
    assert info(new(linkkinds.vlan(4094))) == ("vlan", {"IFLA_VLAN_ID": 4094})
    kind, told = info(new(linkkinds.macvlan("bridge")))
    assert (kind, told) == ("macvlan", {"IFLA_MACVLAN_MODE": "bridge"})
    kind, told = info(new(linkkinds.veth("other")))
    assert kind == "veth"
    assert dict(told["VETH_INFO_PEER"]["attrs"]) == {"IFLA_IFNAME": "other"}


def test_vxlan() -> None:
    message = new(
        linkkinds.vxlan(
            7, there=ip_address("ff05::1"), here=ip_address("fd00::1"), link=3, port=99
        )
    )
    assert info(message) == (
        "vxlan",
        {
            "IFLA_VXLAN_ID": 7,
            "IFLA_VXLAN_GROUP6": "ff05::1",
            "IFLA_VXLAN_LOCAL6": "fd00::1",
            "IFLA_VXLAN_LINK": 3,
            "IFLA_VXLAN_PORT": 99,
        },
    )
    _, told = info(new(linkkinds.vxlan(7, there=ip_address("239.0.0.1"))))
    assert told["IFLA_VXLAN_GROUP"] == "239.0.0.1"
