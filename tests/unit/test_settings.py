"""All that can be known to be wrong is said by the constructor, with what to do."""

from __future__ import annotations

import ipaddress
import pathlib
import re
from typing import Any

import pytest

import aioioth
from aioioth._settings import Settings
from aioioth.errors import (
    ConfigurationError,
    UnknownPluginError,
    UnknownSchemeError,
)

NULL = "null://"


def settings(*vnls: Any, **keywords: Any) -> Settings:
    return aioioth.Stack(*vnls, **keywords)._settings


def refusal(*vnls: Any, **keywords: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        aioioth.Stack(*vnls, **keywords)
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


# Addresses


@pytest.mark.parametrize(
    ("text", "example"), [("10.0.0.1", "10.0.0.1/24"), ("fd00::1", "fd00::1/64")]
)
def test_an_address_without_a_prefix_length(text: str, example: str) -> None:
    message = refusal(NULL, ip=text)
    assert f"ip={text!r} has no prefix length" in message
    assert f"write {example!r}" in message


@pytest.mark.parametrize(
    "text",
    ["garbage/24", "10.0.0.256/24", "10.0.0.1/33", "fd00::1/129", "fd00::g/64", "/24"],
)
def test_no_address(text: str) -> None:
    message = refusal(NULL, ip=text)
    assert f"ip={text!r} is no IPv4 or IPv6 address with a prefix length" in message


@pytest.mark.parametrize("value", [5, [None], [("10.0.0.1", 24)], b"10.0.0.1/24"])
def test_an_address_that_is_no_text(value: object) -> None:
    assert "expected a text like '10.0.0.1/24'" in refusal(NULL, ip=value)


def test_an_address_needs_an_interface() -> None:
    message = refusal(ip="10.0.0.1/24")
    assert message == "ip='10.0.0.1/24' needs an interface: give the stack a VNL"


def test_lo_is_an_interface_too() -> None:
    assert settings(ip={"lo": "10.0.0.1/32"}).addresses == (
        ("lo", ipaddress.ip_interface("10.0.0.1/32")),
    )


@pytest.mark.parametrize(
    "empty", [{}, {"ip": ()}, {"ip": []}, {"ip": None}, {"gw": []}, {"ip": {}}]
)
def test_no_address_needs_no_interface(empty: dict[str, Any]) -> None:
    assert settings(**empty) == Settings((), (), (), None)


@pytest.mark.parametrize(
    "value",
    [
        "10.0.0.1/24",
        ["10.0.0.1/24"],
        ("10.0.0.1/24",),
        ipaddress.ip_interface("10.0.0.1/24"),
        {"vde0": "10.0.0.1/24"},
        {"vde0": ["10.0.0.1/24"], "vde1": []},
    ],
)
def test_ways_to_say_an_address(value: object) -> None:
    expected = (("vde0", ipaddress.ip_interface("10.0.0.1/24")),)
    assert settings(NULL, NULL, ip=value).addresses == expected


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("ip", "10.0.0.1/24"), ("mtu", 1400), ("mac", "02:00:00:00:00:01")],
)
def test_an_interface_that_is_not_there(keyword: str, value: object) -> None:
    message = refusal(NULL, "eth1:null://", **{keyword: {"eth0": value}})
    assert message.startswith(f"{keyword}: no interface is named 'eth0'; there are [")
    assert "'vde0', 'eth1'" in message


# Gateways


@pytest.mark.parametrize(
    ("ip", "gw", "network"),
    [
        ("10.0.0.1/24", "10.0.1.1", "10.0.0.0/24"),
        ("10.0.0.1/24", "fd00::1", "10.0.0.0/24"),
        ("fd00::1/64", "10.0.0.2", "fd00::/64"),
        ("fd00::1/64", "fd01::1", "fd00::/64"),
        (["10.0.0.1/24", "fd00::1/64"], "10.0.1.1", "10.0.0.0/24, fd00::/64"),
    ],
)
def test_a_gateway_on_no_network(ip: object, gw: str, network: str) -> None:
    message = refusal(NULL, ip=ip, gw=gw)
    assert message.startswith(f"gw={gw!r} is on no network of the stack")
    assert network in message


def test_a_gateway_without_any_network() -> None:
    assert "it has none at all" in refusal(NULL, gw="10.0.0.1")


@pytest.mark.parametrize("gw", ["garbage", "10.0.0.1/24", "", 5, "10.0.0.256"])
def test_a_gateway_that_is_no_address(gw: object) -> None:
    message = refusal(NULL, ip="10.0.0.2/24", gw=gw)
    expected = f"gw={gw!r}: expected an IPv4 or IPv6 address without prefix length"
    assert message == expected


def test_a_link_local_gateway_needs_an_interface() -> None:
    message = refusal(NULL, ip="fd00::1/64", gw="fe80::1")
    assert message.startswith("gw='fe80::1': say on which interface")
    assert "'fe80::1%vde0'" in message


def test_a_gateway_on_an_interface_that_is_not_there() -> None:
    message = refusal(NULL, ip="fd00::1/64", gw="fe80::1%eth7")
    assert "gw='fe80::1%eth7'" in message
    assert "'eth7'" in message


@pytest.mark.parametrize(
    ("ip", "gw", "routes"),
    [
        ("10.0.0.1/24", "10.0.0.254", [("10.0.0.254", None)]),
        ("fd00::1/64", "fe80::1%vde0", [("fe80::1", "vde0")]),
        ((), "fe80::1%vde0", [("fe80::1", "vde0")]),
        (
            ["10.0.0.1/24", "fd00::1/64"],
            ["10.0.0.254", "fd00::fe"],
            [("10.0.0.254", None), ("fd00::fe", None)],
        ),
        (
            "10.0.0.1/24",
            ipaddress.ip_address("10.0.0.254"),
            [("10.0.0.254", None)],
        ),
    ],
)
def test_gateways(ip: object, gw: object, routes: list[tuple[str, str | None]]) -> None:
    made = settings(NULL, ip=ip, gw=gw).gateways
    assert [(str(each.address), each.interface) for each in made] == routes


# MTU


@pytest.mark.parametrize("mtu", [67, 0, -1, 65536, 1500.0, "1500", True, [1500]])
def test_a_bad_mtu(mtu: object) -> None:
    message = refusal(NULL, mtu=mtu)
    assert message == f"mtu={mtu!r} for vde0: must be 68 to 65535 bytes"


def test_ipv6_needs_1280() -> None:
    message = refusal(NULL, ip="fd00::1/64", mtu=1279)
    assert "mtu=1279 for vde0: IPv6" in message
    assert "needs 1280 at least" in message
    assert settings(NULL, ip="fd00::1/64", mtu=1280).interfaces[0].mtu == 1280


@pytest.mark.parametrize("mtu", [68, 1279, 1500, 65535])
def test_an_mtu_is_for_all_interfaces(mtu: int) -> None:
    made = settings(NULL, NULL, ip="10.0.0.1/24", mtu=mtu).interfaces
    assert [each.mtu for each in made] == [mtu, mtu]


def test_an_mtu_for_one_interface() -> None:
    made = settings(NULL, NULL, mtu={"vde1": 1400}).interfaces
    assert [each.mtu for each in made] == [None, 1400]


class Network:
    """As much of a plug as is asked for its MTU."""

    def __init__(self, mtu: int) -> None:
        self.mtu = mtu


@pytest.mark.parametrize(
    ("wanted", "carried", "set_to"),
    [
        (None, 1500, 1500),
        (None, 9216, 1500),
        (None, 1400, 1400),
        (9000, 9216, 9000),
        (1500, 1500, 1500),
        (1280, 1500, 1280),
    ],
)
def test_what_the_network_carries(wanted: int, carried: int, set_to: int) -> None:
    [interface] = settings(NULL, mtu=wanted).interfaces
    network: Any = Network(carried)
    assert interface.mtu_on(network) == set_to


def test_more_than_the_network_carries() -> None:
    [interface] = settings("vde:///tmp/sw", mtu=9000).interfaces
    network: Any = Network(1500)
    with pytest.raises(ConfigurationError) as caught:
        interface.mtu_on(network)
    expected = "mtu=9000 for vde0: vde:///tmp/sw carries 1500 at most"
    assert str(caught.value) == expected


# MAC addresses


@pytest.mark.parametrize(
    "mac",
    [
        "02:00:00:00:00",
        "02:00:00:00:00:01:02",
        "02:00:00:00:00:0g",
        "02:00-00:00:00:01",
        "020000000001",
        "",
        " 02:00:00:00:00:01",
        b"\x02\0\0\0\0\1",
        2,
    ],
)
def test_what_is_no_mac(mac: object) -> None:
    message = refusal(NULL, mac=mac)
    assert message == f"mac={mac!r}: expected six bytes like '02:00:00:00:00:01'"


@pytest.mark.parametrize(
    "mac", ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"]
)
def test_a_mac_that_no_interface_can_have(mac: str) -> None:
    assert "multicast or all-zero" in refusal(NULL, mac=mac)


@pytest.mark.parametrize(
    ("mac", "normal"),
    [
        ("02:00:00:00:00:01", "02:00:00:00:00:01"),
        ("02-00-00-00-00-01", "02:00:00:00:00:01"),
        ("02:AB:cd:EF:00:01", "02:ab:cd:ef:00:01"),
    ],
)
def test_a_mac_is_the_first_interfaces(mac: str, normal: str) -> None:
    made = settings(NULL, NULL, mac=mac).interfaces
    assert [each.mac for each in made] == [normal, None]


# Networks and names


def test_interfaces_are_numbered_or_named() -> None:
    switch = aioioth.Switch(name="lab")
    made = settings("memory://a", "eth1:memory://b", switch, "/tmp/sw").interfaces
    assert [(each.name, each.vnl) for each in made] == [
        ("vde0", "memory://a"),
        ("eth1", "memory://b"),
        ("vde2", "lab"),
        ("vde3", "vde:///tmp/sw"),
    ]
    assert made[2].transport is switch


@pytest.mark.parametrize("name", ["x" * 16])
def test_an_interface_name_that_is_too_long(name: str) -> None:
    message = refusal(f"{name}:null://")
    assert message == f"interface name {name!r}: must have 1 to 15 characters"


@pytest.mark.parametrize("name", ["x" * 15, "eth1.5", "a-b_c", "wan@2"])
def test_an_interface_name_that_the_kernel_takes(name: str) -> None:
    [interface] = settings(f"{name}:null://").interfaces
    assert interface.name == name


@pytest.mark.parametrize("name", ["a b", "a\tb", ".", "..", "é"])
def test_an_interface_name_that_the_kernel_refuses(name: str) -> None:
    assert f"interface name {name!r}" in refusal(f"{name}:null://")


@pytest.mark.parametrize("name", ["a%d", "a%", "all", "default", "lo"])
def test_more_interface_names_that_the_kernel_refuses(name: str) -> None:
    """'%' is a pattern to the kernel; 'all' and 'default' are sysctl folders."""
    assert f"interface name {name!r}" in refusal(f"{name}:null://")


@pytest.mark.parametrize(
    "vnls",
    [
        ("eth1:null://", "eth1:null://"),
        (NULL, "vde0:null://"),
        ("vde1:null://", NULL),
    ],
)
def test_an_interface_name_that_is_used_twice(vnls: tuple[str, ...]) -> None:
    message = refusal(*vnls)
    assert re.search(r"interface name '(eth1|vde0|vde1)' is used twice", message)
    assert "name one: 'eth1:null://'" in message


@pytest.mark.parametrize("vnl", [5, None, b"null://", ["null://"]])
def test_what_is_no_network(vnl: object) -> None:
    message = refusal(vnl)
    assert message == f"{vnl!r}: expected a VNL like 'vde:///tmp/sw', or a Switch"


def test_a_path_is_a_vnl() -> None:
    [interface] = settings(pathlib.Path("/tmp/sw")).interfaces
    assert interface.vnl == "vde:///tmp/sw"


def test_a_class_is_no_transport() -> None:
    assert "expected a VNL" in refusal(aioioth.Switch)


@pytest.mark.parametrize("vnl", ["/tmp/\0sw", "vde:///tmp/sw\n", "\ud800:null://"])
def test_a_vnl_with_a_line_break(vnl: str) -> None:
    assert "a VNL has no NUL, no line break" in refusal(vnl)


@pytest.mark.parametrize("vnl", ["://x", "a:b:null://"])
def test_what_cannot_be_a_scheme(vnl: str) -> None:
    assert "expected a scheme before '://'" in refusal(vnl)


@pytest.mark.parametrize("vnl", ["tor://x", "VDE:///tmp/sw"])
def test_an_unknown_scheme_names_the_known(vnl: str) -> None:
    with pytest.raises(UnknownSchemeError) as caught:
        aioioth.Stack(vnl)
    assert caught.value.known == tuple(sorted(caught.value.known))
    assert {"memory", "null", "vde"} <= set(caught.value.known)
    schemes = ", ".join(f"{scheme}://" for scheme in caught.value.known)
    assert f"known are {schemes}" in str(caught.value)
    assert "Check the spelling" in str(caught.value)


def test_an_unknown_kind_names_the_known() -> None:
    with pytest.raises(UnknownPluginError) as caught:
        aioioth.Stack(kind="lwip")
    assert not isinstance(caught.value, UnknownSchemeError)
    assert caught.value.name == "lwip"
    assert {"kernel", "netns", "vdestack"} <= set(caught.value.known)
    assert f"installed: {', '.join(caught.value.known)}" in str(caught.value)


@pytest.mark.parametrize("device", ["tun", "", "TAP", 1])
def test_an_unknown_device(device: object) -> None:
    message = refusal(device=device)
    assert message == f"device={device!r}: must be 'tap', 'packet' or None"


@pytest.mark.parametrize(
    ("vnl", "reason"),
    [
        ("vde:///tmp/sw[port=x]", "port: expected a number from 0 to 16777215"),
        ("vde:///tmp/sw[mode=9]", "mode: expected octal permissions"),
        (
            "vde:///tmp/sw[group=no-such-group]",
            "this system has no group 'no-such-group'",
        ),
        ("vde:///tmp/sw[color=red]", "no option 'color'; known: port, portgroup"),
        ("vde:///tmp/sw[port=1", "expected a ']' for this '['"),
    ],
)
def test_a_transport_refuses_its_address(vnl: str, reason: str) -> None:
    assert reason in refusal(vnl)


async def test_the_constructor_makes_nothing() -> None:
    stack = aioioth.Stack("vde:///no/such/switch", ip="10.0.0.1/24", gw="10.0.0.2")
    assert aioioth.stacks() == ()
    await stack.aclose()
