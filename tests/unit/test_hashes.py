from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, strategies as st

from aioioth.errors import ConfigurationError
from aioioth.hashes import eui64_address, hash_address, hash_mac, otip_time

BASES = st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
    lambda name: name != "."
)

# As VirtualSquare publishes them; see ../shared/reference/virtualsquare.md, 1.5.
PUBLISHED = [
    ("test.v2.cs.unibo.it", "2000:760::", "2000:760::68d6:2fac:95a:5a2e"),
    ("renzo.hash.local", "fc00::", "fc00::4cc:8049:6765:d03a"),
    ("hic_sunt_leones.hash.local", "fc00::", "fc00::9c8f:74b4:705f:6512"),
    (
        "renzo.hash.v2.cs.unibo.it",
        "2001:760:2e00:ff00::",
        "2001:760:2e00:ff00:6066:4f84:db3e:c9cb",
    ),
]


@pytest.mark.parametrize(("name", "base", "address"), PUBLISHED)
def test_published_addresses(name: str, base: str, address: str) -> None:
    assert hash_address(name, base) == ipaddress.IPv6Address(address)
    assert hash_address(f"{name}.", f"{base}/64") == ipaddress.IPv6Address(address)


def test_the_published_mac_address_and_what_it_makes() -> None:
    # The MD5 sum begins 69:d6:2f and goes on 5a:5a:2e in its sixth byte. A MAC
    # address of it has the bit of local administration (02) and not the group's (01):
    # 6a, not 69. EUI-64 inverts 02 again: 68, as upstream's comment has it.
    mac = hash_mac("test.v2.cs.unibo.it")
    assert mac == "6a:d6:2f:5a:5a:2e"
    made = eui64_address(mac, "2000:760::")
    assert made == ipaddress.IPv6Address("2000:760::68d6:2fff:fe5a:5a2e")


def test_letters_count_and_more_than_one_dot_does() -> None:
    assert hash_address("A.lab") != hash_address("a.lab")
    assert hash_address("a.lab..") == hash_address("a.lab...".removesuffix("."))
    assert hash_address("a.lab..") != hash_address("a.lab")


def test_password_and_time_make_another_address() -> None:
    plain = hash_address("a.lab")
    secret = hash_address("a.lab", password="s")
    assert hash_address("a.lab", password=b"s") == secret
    # The name and the password are one text to the algorithm.
    assert hash_address("a.labs") == secret
    later = hash_address("a.lab", password="s", time=1)
    assert len({plain, secret, later}) == 3
    assert hash_address("a.lab", password="s\0\0\0\1") == later


def test_what_the_base_has_in_its_host_part() -> None:
    zero, one = hash_address("a.lab", "fd00::"), hash_address("a.lab", "fd00::1")
    assert int(zero) ^ int(one) == 1
    assert hash_address("a.lab", "fd00::1/64") == one
    assert hash_address("a.lab", ipaddress.IPv6Interface("fd00::1/64")) == one
    assert hash_address("a.lab", ipaddress.IPv6Network("fd00::/64")) == zero
    scoped = hash_address("a.lab", "fe80::%vde0")
    assert scoped == hash_address("a.lab", "fe80::")
    assert scoped.scope_id is None


@given(NAMES, BASES, st.binary(), st.integers(0, 2**32 - 1))
def test_bits_of_all_names(
    name: str, base: ipaddress.IPv6Address, password: bytes, time: int
) -> None:
    address = hash_address(name, base, password=password, time=time)
    assert address.packed[:8] == base.packed[:8]
    assert address.packed[8] & 0x03 == 0
    mac = bytes.fromhex(hash_mac(name, password=password, time=time).replace(":", ""))
    assert len(mac) == 6
    assert mac[0] & 0x03 == 0x02


@given(st.binary(min_size=6, max_size=6), BASES)
def test_eui64_of_text_and_of_bytes(mac: bytes, base: ipaddress.IPv6Address) -> None:
    made = eui64_address(mac, base)
    assert made == eui64_address(mac.hex(":"), base)
    assert made == eui64_address(mac.hex("-").upper(), base)
    assert made.packed[:8] == base.packed[:8]


def test_eui64_is_the_kernels_link_local() -> None:
    assert str(eui64_address("02:00:00:00:00:01")) == "fe80::ff:fe00:1"


@pytest.mark.parametrize(
    ("now", "period", "offset", "time"),
    [
        (0, 32, 0, 0),
        (31.999, 32, 0, 0),
        (32, 32, 0, 1),
        (31, 32, 1, 1),
        (0, 32, -1, 2**32 - 1),
        (1e9, 0, 7, 0),
        (1_700_000_000.5, 32, 0, 53_125_000),
        (2**40, 1, 5, 5),
    ],
)
def test_otip_time(now: float, period: int, offset: int, time: int) -> None:
    assert otip_time(now, period=period, offset=offset) == time


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: hash_address(""), "needs a name"),
        (lambda: hash_address("."), "needs a name"),
        (lambda: hash_address("a\ud800"), "no text"),
        (lambda: hash_address("a", password="\ud800"), "no text"),
        (lambda: hash_address("a", "10.0.0.1"), "no IPv6 address"),
        (lambda: hash_address("a", "fd00::/129"), "no IPv6 address"),
        (lambda: hash_address("a", time=-1), "32 bits"),
        (lambda: hash_mac("a", time=2**32), "32 bits"),
        (lambda: eui64_address("02:00", "fd00::"), "six bytes"),
        (lambda: eui64_address(b"12345", "fd00::"), "six bytes"),
        (lambda: otip_time(0, period=-1), "period=-1"),
    ],
)
def test_refusals(call: object, said: str) -> None:
    assert callable(call)
    with pytest.raises(ConfigurationError, match=said):
        call()
