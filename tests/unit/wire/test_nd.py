from __future__ import annotations

import contextlib
from ipaddress import IPv6Address, IPv6Network

import pytest
from hypothesis import given, strategies as st

from aioioth.wire import nd
from aioioth.wire.nd import (
    DnsServers,
    DnsSuffixes,
    Preference,
    Prefix,
    RouterAdvertisement,
    RouterSolicitation,
    RouteTo,
    parse_advertisement,
    parse_solicitation,
)

MAC = bytes.fromhex("020000000001")

# Written down by hand after the figures of the RFCs.
HEADER = "86000000 40c80708 00000000 00000000"
SOURCE = "0101 020000000001"
MTU = "0501 0000 00000578"
PREFIX = "0304 40c0 00015180 00003840 00000000 fd00 0000 0000 0000 0000 0000 0000 0000"
ROUTE = "1802 3018 ffffffff fd77 0000 0000 0000"
SERVERS = "1903 0000 00000708 fd00 0000 0000 0000 0000 0000 0000 0053"
SUFFIXES = "1f03 0000 00000708 036c6162 07657861 6d706c65 00000000"


def raw(*texts: str) -> bytes:
    return bytes.fromhex("".join(texts))


TOLD = RouterAdvertisement(
    hop_limit=64,
    managed=True,
    other=True,
    preference=Preference.HIGH,
    lifetime=1800,
    source_mac=MAC,
    mtu=1400,
    prefixes=(Prefix(IPv6Network("fd00::/64"), 86400, 14400),),
    routes=(RouteTo(IPv6Network("fd77::/48"), None, Preference.LOW),),
    dns=(DnsServers((IPv6Address("fd00::53"),), 1800),),
    domains=(DnsSuffixes(("lab.example",), 1800),),
)


def test_an_advertisement_with_everything() -> None:
    message = raw(HEADER, SOURCE, MTU, PREFIX, ROUTE, SERVERS, SUFFIXES)
    assert parse_advertisement(message) == TOLD
    assert TOLD.pack() == message


def test_a_solicitation() -> None:
    assert RouterSolicitation().pack() == raw("85000000 00000000")
    assert RouterSolicitation(MAC).pack() == raw("85000000 00000000", SOURCE)
    assert parse_solicitation(raw("85000000 00000000")) == RouterSolicitation()
    message = raw("8500beef 00000000", SOURCE, MTU, "0e01 000000000000")
    assert parse_solicitation(message) == RouterSolicitation(MAC)


def test_a_small_advertisement() -> None:
    message = raw("86000000 00000000 00000000 00000000")
    assert parse_advertisement(message) == RouterAdvertisement()
    assert RouterAdvertisement().pack() == message


@pytest.mark.parametrize(
    ("flags", "preference"),
    [
        ("00", Preference.MEDIUM),
        ("08", Preference.HIGH),
        ("10", Preference.MEDIUM),  # reserved
        ("18", Preference.LOW),
    ],
)
def test_preferences(flags: str, preference: Preference) -> None:
    header = raw(f"86000000 00{flags}0708 00000000 00000000")
    assert parse_advertisement(header).preference is preference


@pytest.mark.parametrize(
    "message",
    [
        "",
        "86",
        "86000000 40c80708 00000000 000000",
        "85000000 40c80708 00000000 00000000",
        "86010000 40c80708 00000000 00000000",
        HEADER + "01",
        HEADER + "0100",
        HEADER + SOURCE + "c800 000000000000",
        HEADER + SOURCE + "0102 000000000000",
        HEADER + SOURCE + MTU + "05",
    ],
)
def test_no_advertisements(message: str) -> None:
    with pytest.raises(ValueError):
        parse_advertisement(raw(message))


@pytest.mark.parametrize(
    "message",
    ["", "85000000 000000", HEADER, "85010000 00000000", "85000000 00000000 0100"],
)
def test_no_solicitations(message: str) -> None:
    with pytest.raises(ValueError):
        parse_solicitation(raw(message))


@pytest.mark.parametrize(
    "option",
    [
        "c801 000000000000",  # unknown
        "0102 020000000001 0000000000000000",  # no Ethernet
        "0502 0000 00000578 0000000000000000",
        "0301 40c000015180",  # too short
        PREFIX.replace("40c0", "81c0"),  # 129 bits
        ROUTE.replace("3018", "3010"),  # the reserved preference
        ROUTE.replace("3018", "4118"),  # 65 bits of 64
        "1801 0118 00000708",  # 1 bit of none
        "1804 3018 ffffffff" + 24 * "00",
        "1901 0000 00000708",  # no server
        "1902 0000 00000708 fd00000000000000",  # half a server
        "1904 0000 00000708" + 24 * "11",
        "1f01 0000 00000708",
        "1f02 0000 00000708 0000000000000000",
        "1f02 0000 00000708 036c616207657861",  # cut off
        "1f02 0000 00000708 c000000000000000",  # a pointer
        "1f02 0000 00000708 03ff616200000000",
    ],
)
def test_options_that_say_nothing_do_no_harm(option: str) -> None:
    told = parse_advertisement(raw(HEADER, option, MTU))
    only = parse_advertisement(raw(HEADER, MTU))
    assert told == only
    assert only.mtu == 1400


def test_bits_behind_a_prefix_are_not_looked_at() -> None:
    message = raw(HEADER, PREFIX[:-4], "beef")
    assert parse_advertisement(message).prefixes[0].network == IPv6Network("fd00::/64")


def test_times_without_end() -> None:
    message = raw(HEADER, PREFIX.replace("00015180 00003840", "ffffffff ffffffff"))
    [prefix] = parse_advertisement(message).prefixes
    assert prefix.valid is None
    assert prefix.preferred is None


def test_a_default_route_as_an_option() -> None:
    message = raw(HEADER, "1801 0008 00000000")
    assert parse_advertisement(message).routes == (
        RouteTo(IPv6Network("::/0"), 0, Preference.HIGH),
    )
    assert len(RouterAdvertisement(routes=parse_advertisement(message).routes).pack())


@pytest.mark.parametrize(
    "told",
    [
        RouterAdvertisement(lifetime=65536),
        RouterAdvertisement(lifetime=-1),
        RouterAdvertisement(mtu=1 << 32),
        RouterAdvertisement(hop_limit=256),
        RouterAdvertisement(prefixes=(Prefix(IPv6Network("fd00::/64"), 1 << 32, 1),)),
        RouterAdvertisement(dns=(DnsServers((IPv6Address(1),) * 128, 1),)),
        RouterAdvertisement(domains=(DnsSuffixes(("a..b",), 1),)),
    ],
)
def test_what_has_no_place(told: RouterAdvertisement) -> None:
    with pytest.raises(ValueError):
        told.pack()


SECONDS = st.none() | st.integers(0, 0xFFFFFFFE)
ADDRESSES = st.integers(0, 2**128 - 1).map(IPv6Address)
NETWORKS = st.builds(
    lambda address, bits: IPv6Network((int(address), bits), strict=False),
    ADDRESSES,
    st.integers(0, 128),
)
LABELS = st.from_regex(r"[a-z0-9_-]{1,20}", fullmatch=True)
DOMAINS = st.lists(LABELS, min_size=1, max_size=5).map(".".join)
PREFERENCES = st.sampled_from(Preference)
ADVERTISEMENTS = st.builds(
    RouterAdvertisement,
    lifetime=st.integers(0, 65535),
    preference=PREFERENCES,
    managed=st.booleans(),
    other=st.booleans(),
    hop_limit=st.integers(0, 255),
    reachable_ms=st.integers(0, 0xFFFFFFFF),
    retransmit_ms=st.integers(0, 0xFFFFFFFF),
    source_mac=st.none() | st.binary(min_size=6, max_size=6),
    mtu=st.none() | st.integers(0, 0xFFFFFFFF),
    prefixes=st.lists(
        st.builds(Prefix, NETWORKS, SECONDS, SECONDS, st.booleans(), st.booleans()),
        max_size=3,
    ).map(tuple),
    routes=st.lists(st.builds(RouteTo, NETWORKS, SECONDS, PREFERENCES), max_size=3).map(
        tuple
    ),
    dns=st.lists(
        st.builds(
            DnsServers,
            st.lists(ADDRESSES, min_size=1, max_size=3).map(tuple),
            SECONDS,
        ),
        max_size=2,
    ).map(tuple),
    domains=st.lists(
        st.builds(
            DnsSuffixes, st.lists(DOMAINS, min_size=1, max_size=3).map(tuple), SECONDS
        ),
        max_size=2,
    ).map(tuple),
)


@given(ADVERTISEMENTS)
def test_what_was_said_is_understood(told: RouterAdvertisement) -> None:
    assert parse_advertisement(told.pack()) == told


@given(ADVERTISEMENTS, st.data())
def test_a_message_that_was_damaged(
    told: RouterAdvertisement, data: st.DataObject
) -> None:
    message = bytearray(told.pack())
    message[data.draw(st.integers(0, len(message) - 1))] = data.draw(
        st.integers(0, 255)
    )
    cut = data.draw(st.integers(0, len(message)))
    for damaged in bytes(message), bytes(message[:cut]):
        try:
            read = parse_advertisement(damaged)
        except ValueError:
            continue
        assert parse_advertisement(read.pack()) == read


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_none(data: bytes) -> None:
    for parse in parse_advertisement, parse_solicitation:
        for message in data, b"\x85\0" + data, b"\x86\0" + data:
            with contextlib.suppress(ValueError):
                parse(message)


def test_the_longest_message_takes_no_time() -> None:
    # 65535 bytes of the smallest option, and of domains without end.
    small = raw(HEADER) + 8189 * raw("0501 0000 00000578")
    assert parse_advertisement(small).mtu == 1400
    names = bytes([31, 255, 0, 0, 0, 0, 0, 9]) + 1016 * b"\1a"
    assert parse_advertisement(raw(HEADER) + 32 * names).domains == ()


def test_the_groups_are_the_rfcs() -> None:
    assert str(nd.ALL_NODES) == "ff02::1"
    assert str(nd.ALL_ROUTERS) == "ff02::2"
