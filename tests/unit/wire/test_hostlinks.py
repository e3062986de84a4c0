"""Compared with pyroute2's idea of the same requests."""

from __future__ import annotations

import ipaddress
import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies as st
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from aioioth.wire import hostlinks, rtnetlink, rtroute

if TYPE_CHECKING:
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

NUMBERS = st.integers(1, 2**31 - 1)
ADDRESSES = st.ip_addresses()


def told(data: bytes) -> list[Any]:
    """Return what pyroute2 makes of messages."""
    return list(MarshalRtnl().parse(data))


def info(message: ifinfmsg) -> tuple[str, Any]:
    found = message.get_attr("IFLA_LINKINFO")
    return found.get_attr("IFLA_INFO_KIND"), found.get_attr("IFLA_INFO_DATA")


@given(NUMBERS, st.sampled_from(sorted(hostlinks.MACVLAN_MODES)))
def test_macvlan(parent: int, mode: str) -> None:
    body = rtnetlink.link_body(index=7, name="vde0", mtu=1400, up=True)
    (message,) = told(hostlinks.macvlan(body, parent=parent, mode=mode))
    assert message["index"] == 7
    assert message.get_attr("IFLA_IFNAME") == "vde0"
    assert message.get_attr("IFLA_LINK") == parent
    kind, data = info(message)
    assert (kind, data.get_attr("IFLA_MACVLAN_MODE")) == ("macvlan", mode)


@given(
    ADDRESSES,
    st.integers(0, 2**24 - 1),
    st.integers(1, 65535),
    st.integers(1, 255),
    st.one_of(st.just(0), NUMBERS),
)
def test_vxlan(there: Any, vni: int, port: int, ttl: int, link: int) -> None:
    body = rtnetlink.link_body(index=7, name="vde0")
    request = hostlinks.vxlan(
        body,
        there=there,
        vni=vni,
        port=port,
        ttl=ttl,
        link=link,
        ageing=128,
        limit=1024,
    )
    (message,) = told(request)
    kind, data = info(message)
    assert kind == "vxlan"
    group = "GROUP" if there.version == 4 else "GROUP6"
    expected = {
        "ID": vni,
        "TTL": ttl,
        "PORT": port,
        "AGEING": 128,
        "LIMIT": 1024,
        "LINK": link or None,
    }
    assert ipaddress.ip_address(data.get_attr(f"IFLA_VXLAN_{group}")) == there
    for name, value in expected.items():
        assert data.get_attr(f"IFLA_VXLAN_{name}") == value


def test_three_requests_at_once() -> None:
    def make(body: bytes) -> bytes:
        return hostlinks.macvlan(body, parent=3, mode="bridge")

    body = rtnetlink.link_body(mtu=1400, mac="02:00:00:00:00:01")
    made, moved, deleted = told(hostlinks.make_and_move(make, body, "tmp0", 9, 1000))
    assert [each["header"]["type"] for each in (made, moved, deleted)] == [
        rtnetlink.RTM_NEWLINK,
        rtnetlink.RTM_NEWLINK,
        rtnetlink.RTM_DELLINK,
    ]
    assert {each.get_attr("IFLA_IFNAME") for each in (made, moved, deleted)} == {"tmp0"}
    assert made.get_attr("IFLA_MTU") == 1400
    assert made.get_attr("IFLA_ADDRESS") == "02:00:00:00:00:01"
    assert made.get_attr("IFLA_NET_NS_FD") is None
    assert moved.get_attr("IFLA_NET_NS_FD") == 9
    assert moved.get_attr("IFLA_NEW_IFINDEX") == 1000
    assert made["header"]["flags"] & rtnetlink.NLM_F_EXCL
    assert not moved["header"]["flags"] & rtnetlink.NLM_F_CREATE


@pytest.mark.parametrize("value", [68, 1500, 65536])
def test_answers(value: int) -> None:
    number = struct.pack("=I", value)
    link = bytes(16) + rtnetlink.attribute(rtnetlink.IFLA_MTU, number)
    assert hostlinks.link_mtu(link) == value
    route = bytes(12) + rtnetlink.attribute(rtroute.RTA_OIF, number)
    assert hostlinks.route_link(route) == value
