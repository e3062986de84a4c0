"""The configuration string, and the same as keywords and as TOML."""

from __future__ import annotations

import contextlib
import ipaddress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies as st

import aioioth
from aioioth import _configstring, _configtoml
from aioioth._autoconf.wanted import Items, Wanted, from_keywords
from aioioth.errors import ConfigStringError, ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


def wanted(text: str) -> Wanted:
    return _configstring.parse(text).wanted


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        (" ,;\t\n", []),
        ("eth,dhcp", [("eth", None), ("dhcp", None)]),
        ("eth;dhcp  rd", [("eth", None), ("dhcp", None), ("rd", None)]),
        ("ip=1.2.3.4/8", [("ip", "1.2.3.4/8")]),
        ("vnl=udp://a?b=c", [("vnl", "udp://a?b=c")]),
        ("# all of it", []),
        ("eth # a comment, with commas\ndhcp", [("eth", None), ("dhcp", None)]),
        ("eth#,no\ndhcp", [("eth", None), ("dhcp", None)]),
        ("vnl='a,b#c'", [("vnl", "a,b#c")]),
        ('vnl="a b",eth', [("vnl", "a b"), ("eth", None)]),
        ("vnl=a'\\'b", [("vnl", "a\\b")]),
        ("vnl=a\\,b", [("vnl", "a,b")]),
        ("vnl=''", [("vnl", "")]),
        ("'e'th", [("eth", None)]),
    ],
)
def test_tokens(text: str, found: list[tuple[str, str | None]]) -> None:
    assert [(each.tag, each.value) for each in _configstring.tokens(text)] == found


def test_sources_and_their_synonyms() -> None:
    everything = frozenset({"eth", "ra", "dhcp6", "dhcp"})
    assert wanted("auto").start == everything
    assert wanted("auto4").start == wanted("autov4").start == {"eth", "dhcp"}
    assert wanted("auto6").start == wanted("autov6").start == {"eth", "ra", "dhcp6"}
    assert wanted("dhcp4").start == wanted("dhcpv4").start == wanted("dhcp").start
    assert wanted("dhcpv6").start == wanted("dhcp6").start == {"dhcp6"}
    assert wanted("rd6").start == wanted("rd").start == {"ra"}
    assert wanted("eth,macaddr=02:00:00:00:00:05").mac == "02:00:00:00:00:05"


def test_addresses_come_only_with_slaac() -> None:
    assert not wanted("rd").slaac
    assert not wanted("auto").slaac
    assert wanted("rd,slaac").slaac
    assert wanted("ra") == wanted("rd,slaac")


def test_undoing() -> None:
    assert wanted("-static").clear == {"static"}
    assert wanted("-auto").clear == wanted("-auto-all").clear
    assert wanted("-auto").clear == {"eth", "ra", "dhcp6", "dhcp"}
    assert wanted("-auto4").clear == {"eth", "dhcp"}
    assert wanted("-dhcp4,-rd,-dhcpv6").clear == {"dhcp", "ra", "dhcp6"}
    items = wanted("-ip=10.0.0.1,-gw=10.0.0.9,-dns=10.0.0.8,-domain=lab").remove
    assert items == Items(
        (ipaddress.ip_interface("10.0.0.1/24"),),
        (ipaddress.ip_address("10.0.0.9"),),
        (ipaddress.ip_address("10.0.0.8"),),
        ("lab",),
    )


def test_what_is_given_by_hand() -> None:
    items = wanted("ip=10.0.0.1,ip=fd00::1,ip=10.1.0.1/16,domain=Lab.,gw=fe80::1").add
    assert [str(each) for each in items.ip] == [
        "10.0.0.1/24",
        "fd00::1/64",
        "10.1.0.1/16",
    ]
    assert items.domain == ("lab",)
    assert items.gw == (ipaddress.ip_address("fe80::1"),)


def test_where() -> None:
    assert wanted("iface=eth1,eth").interface == "eth1"
    assert wanted("ifindex=7,eth").index == 7
    parsed = _configstring.parse("stack=kernel,vnl='vde:///tmp/a b',debug")
    assert (parsed.stack, parsed.vnl) == ("kernel", "vde:///tmp/a b")
    assert parsed.wanted.debug


@pytest.mark.parametrize(
    ("text", "reason", "position"),
    [
        ("eth,dhpc", "no tag is called 'dhpc'", 4),
        ("DHCP", "no tag is called 'DHCP'", 0),
        ("eth,memory://lan", "a network is written as vnl=memory://lan", 4),
        ("-slaac", "no tag is called '-slaac'", 0),
        ("-vnl=x", "no tag is called '-vnl'", 0),
        ("eth,ip=10.0.0.256", "no IPv4 or IPv6 address", 4),
        ("ip=", "ip= needs a value", 0),
        ("ip", "ip= needs a value", 0),
        ("eth=1", "eth takes no value", 0),
        ("-dhcp=1", "-dhcp takes no value", 0),
        ("mac=02:00:00:00:00:01", "mac= is for eth", 0),
        ("eth,mac=01:00:00:00:00:01", "multicast", 4),
        ("eth,mac=2", "six bytes", 4),
        ("vnl=a, vnl=b", "vnl= is there twice", 7),
        ("vnl='a", "this ' is not closed", 4),
        ("vnl=a\\", "nothing follows this backslash", 5),
        ("iface=a,ifindex=1", "either iface= or ifindex=", 8),
        ("ifindex=0", "must be a number from 1", 0),
        ("gw=10.0.0.1/24", "is no address", 0),
        ("dns=nobody", "is no address", 0),
        ("fqdn=a..b", "is no name", 0),
        ("domain=-", "is no name", 0),
    ],
)
def test_nonsense_is_shown(text: str, reason: str, position: int) -> None:
    with pytest.raises(ConfigStringError, match=reason) as raised:
        _configstring.parse(text)
    assert raised.value.position == position
    assert str(raised.value).endswith(f"  {text}\n  {' ' * position}^")


@given(st.text())
def test_any_text_is_understood_or_refused(text: str) -> None:
    try:
        parsed = _configstring.parse(text)
    except ConfigurationError:
        return
    assert parsed.wanted.start <= {"eth", "ra", "dhcp6", "dhcp"}


@given(st.text(alphabet=" ,;#'\"\\=-ehtdcprabsl4610:.", max_size=40))
def test_any_likely_text_is_understood_or_refused(text: str) -> None:
    with contextlib.suppress(ConfigurationError):
        assert _configstring.parse(text).wanted.start <= {"eth", "ra", "dhcp6", "dhcp"}


def test_no_text() -> None:
    with pytest.raises(ConfigurationError, match="expected a text like"):
        _configstring.parse(None)


def keywords(**changed: Any) -> Wanted:
    switches = dict.fromkeys(("eth", "ra", "dhcp6", "dhcp", "static"), None)
    said: dict[str, Any] = {
        "interface": None,
        "fqdn": None,
        "mac": None,
        "switches": switches | changed.pop("switches", {}),
        "slaac": False,
        "prefix_length": None,
        "add": {},
        "remove": {},
    }
    return from_keywords(**said | changed)


def test_keywords_say_the_same() -> None:
    assert keywords(switches={"eth": True, "dhcp": True}) == wanted("eth,dhcp")
    assert keywords(switches={"static": False}) == wanted("-static")
    assert keywords(add={"ip": ["10.0.0.1", "fd00::1"]}) == wanted(
        "ip=10.0.0.1,ip=fd00::1"
    )
    assert keywords(remove={"gw": "10.0.0.9"}) == wanted("-gw=10.0.0.9")
    assert keywords(interface="eth1", fqdn="a.lab") == wanted("iface=eth1,fqdn=a.lab")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"switches": {"dhcp": "yes"}}, "dhcp='yes': must be True, False or None"),
        ({"mac": "02:00:00:00:00:01"}, "say eth=True, too"),
        ({"prefix_length": 56}, "say dhcp6=True, too"),
        ({"prefix_length": 129, "switches": {"dhcp6": True}}, "from 1 to 128"),
        ({"fqdn": "no name"}, "is no name"),
        ({"add": {"dns": ["x"]}}, "is no address"),
    ],
)
def test_keywords_that_cannot_be(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        keywords(**changed)


def test_toml() -> None:
    described = _configtoml.parse(
        """
        name = "web"
        vnl = "memory://one"
        gw = "10.0.0.9"

        [hosts]
        db = "10.0.0.5"

        [interface.vde0]
        ip = ["10.0.0.1/24", "fd00::1"]
        dhcp = true

        [interface.eth1]
        vnl = "memory://two"
        mac = "02:00:00:00:00:07"
        mtu = 1400
        """,
        {"name", "gw", "hosts", "mtu"},
    )
    assert described.vnls == ("memory://one", "eth1:memory://two")
    assert described.options == {
        "name": "web",
        "gw": "10.0.0.9",
        "hosts": {"db": "10.0.0.5"},
        "mtu": {"eth1": 1400},
    }
    first, second = described.wanted
    assert first.interface == "vde0"
    assert first.start == {"dhcp"}
    assert [str(each) for each in first.add.ip] == ["10.0.0.1/24", "fd00::1/64"]
    assert second.start == {"eth"}
    assert second.mac == "02:00:00:00:00:07"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nonsense", "no TOML"),
        ("colour = 1", "no key is called 'colour'; there are .*vnl"),
        ("interface = 1", "write tables"),
        ("interface.vde0 = 1", "must be a table"),
        (
            "[interface.vde0]\ndhpc = true",
            r"\[interface.vde0\] no key is called 'dhpc'",
        ),
        ("[interface.vde0]\nip = '10.0.0.300'", "no IPv4 or IPv6 address"),
    ],
)
def test_toml_that_cannot_be(text: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        aioioth.Stack.from_toml(text)


def test_toml_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "stack.toml"
    path.write_text("name = 'from a file'\nvnl = 'null://'\n")
    assert aioioth.Stack.from_toml(path).name == "from a file"
    path.write_text("name =")
    with pytest.raises(ConfigurationError, match=r"stack\.toml: no TOML"):
        aioioth.Stack.from_toml(path)
    with pytest.raises(FileNotFoundError):
        aioioth.Stack.from_toml(tmp_path / "missing.toml")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"dhcp": True}, "dhcp=True needs an interface"),
        ({"ra": 1}, "ra=1: expected True, False or names"),
        ({"dhcp6": ["eth7"]}, "dhcp6: no interface is named 'eth7'"),
        ({"fqdn": "a b"}, "is no name"),
        ({"timeout": "1 s"}, "timeout='1 s': expected seconds"),
        ({"timeout": -1}, "timeout=-1: expected seconds"),
    ],
)
def test_stacks_that_cannot_be(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        aioioth.Stack(**options)


def test_a_config_string_and_its_networks() -> None:
    with pytest.raises(ConfigurationError, match="either vnl=null:// in the text"):
        aioioth.Stack.from_config("vnl=null://", "null://")
    stack = aioioth.Stack.from_config("stack=vdestack,vnl=null://,eth", name="mine")
    assert (stack.name, stack.kind) == ("mine", "vdestack")
