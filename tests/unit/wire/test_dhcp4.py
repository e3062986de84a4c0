"""DHCPv4 messages: to and fro, against pyroute2's codec, and what cannot be right."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, strategies as st
from pyroute2.dhcp.dhcp4msg import dhcp4msg

from aioioth.wire.dhcp4 import (
    BROADCAST,
    REPLY,
    REQUEST,
    ClientName,
    Message,
    MessageType,
    Option,
    pack_addresses,
    pack_routes,
)

ADDRESSES = st.ip_addresses(v=4)
LABELS = st.text("abcxyz0189_-", min_size=1, max_size=20)
NAMES = st.lists(LABELS, min_size=2, max_size=4).map(".".join)
OPTIONS = st.dictionaries(
    st.integers(1, 254).filter(lambda option: option != Option.OVERLOAD),
    st.binary(max_size=600),
    max_size=8,
)
MESSAGES = st.builds(
    Message,
    st.integers(0, 255),
    st.integers(0, 0xFFFFFFFF),
    st.binary(max_size=16),
    OPTIONS,
    hardware=st.integers(0, 255),
    secs=st.integers(0, 0xFFFF),
    flags=st.integers(0, 0xFFFF),
    client=ADDRESSES,
    yours=ADDRESSES,
    next_server=ADDRESSES,
    relay=ADDRESSES,
)
ROUTES = st.lists(
    st.tuples(
        st.builds(
            lambda address, length: IPv4Network((address, length), strict=False),
            ADDRESSES,
            st.integers(0, 32),
        ),
        ADDRESSES,
    ),
    max_size=20,
)

MAC = b"\2\0\0\0\0\1"


def message(options: dict[int, bytes]) -> Message:
    """Return a reply with some options, after it was on the wire."""
    return Message.parse(Message(REPLY, 1, MAC, options).pack())


@given(MESSAGES)
def test_to_and_fro(sent: Message) -> None:
    packed = sent.pack()
    assert len(packed) >= 300
    assert Message.parse(packed) == sent
    assert Message.parse(packed + bytes(20)) == sent


def test_a_message_in_bytes() -> None:
    """A DISCOVER, taken apart by hand after RFC 2131 section 2."""
    asks = Message(
        REQUEST,
        0x01020304,
        MAC,
        {Option.MESSAGE_TYPE: b"\1", Option.CLIENT_ID: b"\1" + MAC},
        secs=3,
        flags=BROADCAST,
    )
    head = bytes.fromhex("01010600 01020304 0003 8000") + bytes(16)
    options = bytes.fromhex("63825363 350101 3d0701020000000001 ff")
    expected = head + MAC + bytes(10) + bytes(192) + options
    assert asks.pack() == expected.ljust(300, b"\0")


@given(
    kind=st.sampled_from(MessageType),
    xid=st.integers(0, 0xFFFFFFFF),
    addresses=st.lists(ADDRESSES, min_size=4, max_size=4),
    dns=st.lists(ADDRESSES, min_size=1, max_size=5),
    # pyroute2 0.9 takes more for a negative number, an infinite lease for -1.
    seconds=st.integers(0, 0x7FFFFFFF),
    domain=NAMES,
)
def test_pyroute2_reads_the_same(
    kind: MessageType,
    xid: int,
    addresses: list[IPv4Address],
    dns: list[IPv4Address],
    seconds: int,
    domain: str,
) -> None:
    yours, client, server, router = addresses
    ours = Message(
        REPLY,
        xid,
        MAC,
        {
            Option.MESSAGE_TYPE: bytes([kind]),
            Option.SERVER: server.packed,
            Option.ROUTERS: router.packed,
            Option.DNS: pack_addresses(dns),
            Option.LEASE_TIME: seconds.to_bytes(4, "big"),
            Option.DOMAIN: domain.encode(),
            Option.CLIENT_ID: b"\1" + MAC,
        },
        client=client,
        yours=yours,
    )
    theirs = dhcp4msg(buf=ours.pack()).decode()
    assert theirs["op"] == REPLY
    assert theirs["xid"] == xid
    assert theirs["chaddr"] == MAC.hex(":")
    assert theirs["yiaddr"] == str(yours)
    assert theirs["ciaddr"] == str(client)
    options = theirs["options"]
    assert options["message_type"] == kind
    assert options["server_id"] == str(server)
    assert options["router"] == [str(router)]
    assert options["name_server"] == list(map(str, dns))
    assert options["lease_time"] == seconds
    assert options["domain_name"] == domain
    assert options["client_id"] == {"type": 1, "key": MAC.hex(":")}
    fields = {
        name: theirs[name] for name in ("op", "xid", "chaddr", "yiaddr", "ciaddr")
    }
    written = dhcp4msg({**fields, "options": options}).encode().buf
    assert Message.parse(written) == ours


def test_what_is_said() -> None:
    said = message(
        {
            Option.MESSAGE_TYPE: b"\5",
            Option.NETMASK: bytes([255, 255, 240, 0]),
            Option.ROUTERS: bytes([10, 0, 0, 1, 10, 0, 0, 2]),
            Option.MTU: b"\5\xdc",
            Option.LEASE_TIME: bytes([0, 0, 0, 60]),
            Option.HOST_NAME: b"Box\0",
            Option.MESSAGE: b"no\x1b[2J \xffaddress",
        }
    )
    assert said.type is MessageType.ACK
    assert said.prefix_length == 20
    assert said.addresses(Option.ROUTERS) == (
        IPv4Address("10.0.0.1"),
        IPv4Address("10.0.0.2"),
    )
    assert said.address(Option.ROUTERS) is None
    assert said.number(Option.MTU, 2) == 1500
    assert said.number(Option.LEASE_TIME, 4) == 60
    assert said.host_name == "Box"
    assert said.text == "no?[2J \ufffdaddress"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            Option.MESSAGE_TYPE: b"\0",
            Option.NETMASK: bytes([255, 0, 255, 0]),
            Option.SERVER: bytes(5),
            Option.MTU: b"\1",
            Option.DOMAIN: b"-/bin/sh\n",
            Option.HOST_NAME: b"caf\xc3\xa9",
            Option.CLIENT_NAME: b"\0\0",
            Option.ROUTES: bytes([33, 10, 0, 0, 0, 0, 10, 0, 0, 1]),
        },
        {
            Option.MESSAGE_TYPE: b"\2\2",
            Option.NETMASK: b"\0",
            Option.SERVER: b"",
            Option.MTU: b"\1\1\1",
            Option.DOMAIN_SEARCH: b"\xc0\0",
            Option.DOMAIN: b"example",
            Option.HOST_NAME: b"a..b",
            Option.CLIENT_NAME: b"\4\0\0\xff",
            Option.ROUTES: bytes([24, 10, 0, 0, 10, 0, 0]),
        },
        {Option.MESSAGE_TYPE: b"\x09", Option.CLIENT_NAME: b"\0\0\0a b"},
    ],
)
def test_what_makes_no_sense_is_as_good_as_none(options: dict[int, bytes]) -> None:
    said = message(options)
    assert said.type is None
    assert said.prefix_length is None
    assert said.address(Option.SERVER) is None
    assert said.number(Option.MTU, 2) is None
    assert said.domains == ()
    assert said.host_name is None
    assert said.client_name is None
    assert said.routes == ()


# Names


def test_domains() -> None:
    # RFC 3397 section 2's example: "eng.apple.com.", "marketing.apple.com."
    search = b"\3eng\5apple\3com\0\x09marketing\xc0\4"
    said = message({Option.DOMAIN_SEARCH: search, Option.DOMAIN: b"other"})
    assert said.domains == ("eng.apple.com", "marketing.apple.com")
    assert message({Option.DOMAIN: b"Example.ORG."}).domains == ("example.org",)


@given(
    st.builds(
        ClientName,
        NAMES | LABELS | st.just(""),
        *[st.booleans()] * 4,
    )
)
def test_clients_names(name: ClientName) -> None:
    assert message({Option.CLIENT_NAME: name.pack()}).client_name == name


def test_a_clients_name_in_bytes() -> None:
    """RFC 4702 section 2.3.1: with a zero byte if it is whole, without if it is not."""
    whole = ClientName("myhost.example.com", server_adds=True)
    assert whole.pack() == b"\5\0\0\6myhost\7example\3com\0"
    assert ClientName("myhost").pack(code=255) == b"\4\xff\xff\6myhost"
    assert ClientName("myhost", encoded=False).pack() == b"\0\0\0myhost"
    assert ClientName.parse(b"\x0b\0\0myhost.") == ClientName(
        "myhost", True, True, True, encoded=False
    )


# Routes


@given(ROUTES)
def test_routes(routes: list[tuple[IPv4Network, IPv4Address]]) -> None:
    said = message({Option.ROUTES: pack_routes(routes)})
    assert said.routes == tuple(routes)


def test_routes_in_bytes() -> None:
    """RFC 3442's table of destinations, and a network with bits behind its own."""
    nobody = IPv4Address(0)
    table = {
        "0.0.0.0/0": "00",
        "10.0.0.0/8": "08 0a",
        "10.0.0.0/24": "18 0a 00 00",
        "10.17.0.0/16": "10 0a 11",
        "10.27.129.0/24": "18 0a 1b 81",
        "10.229.0.128/25": "19 0a e5 00 80",
        "10.198.122.47/32": "20 0a c6 7a 2f",
    }
    for network, packed in table.items():
        expected = bytes.fromhex(packed) + nobody.packed
        assert pack_routes([(IPv4Network(network), nobody)]) == expected
    said = message({Option.ROUTES: bytes([23, 10, 1, 3, 10, 0, 0, 1])})
    assert said.routes == ((IPv4Network("10.1.2.0/23"), IPv4Address("10.0.0.1")),)


# Where options are


def with_options(
    options: bytes, *, server_name: bytes = b"", file: bytes = b""
) -> Message:
    packed = Message(REPLY, 1, MAC).pack()
    head = packed[:44] + server_name.ljust(64, b"\0") + file.ljust(128, b"\0")
    return Message.parse(head + packed[236:240] + options)


def test_long_options() -> None:
    """RFC 3396: in pieces, which need not be next to each other."""
    value = bytes(range(256)) * 3
    said = message({Option.ROUTES: value, Option.MTU: b"\5\xdc"})
    assert said.options[Option.ROUTES] == value
    pieces = bytes([61, 2, 1, 2, 0, 26, 2, 5, 220, 61, 1, 3, 255])
    said = with_options(pieces)
    assert said.options == {61: b"\1\2\3", 26: b"\5\xdc"}


@pytest.mark.parametrize(
    ("overload", "expected"),
    [
        (None, b"a"),
        (b"\0", b"a"),
        (b"\1", b"af"),
        (b"\2", b"as"),
        (b"\3", b"afs"),
        (b"\4", b"a"),
    ],
)
def test_options_that_go_on_elsewhere(overload: bytes | None, expected: bytes) -> None:
    extra = b"" if overload is None else bytes([52, 1]) + overload
    said = with_options(
        bytes([12, 1]) + b"a" + extra + b"\xff",
        server_name=bytes([0, 12, 1]) + b"s\xff\1",
        file=bytes([12, 1]) + b"f\xff\1",
    )
    assert said.options[Option.HOST_NAME] == expected


def test_no_end() -> None:
    assert with_options(bytes([12, 1]) + b"a").options == {12: b"a"}
    assert with_options(b"").options == {}


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "0 bytes"),
        (bytes(239), "239 bytes"),
        (bytes(240), "without options"),
        (bytes([2, 1, 17, 0]) + bytes(232) + b"c\x82Sc\xff", "17 bytes"),
        (bytes(236) + b"c\x82Sc\x0c", "option 12 is cut off"),
        (bytes(236) + b"c\x82Sc\x0c\x02a", "option 12 is cut off"),
    ],
)
def test_what_has_no_structure(data: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Message.parse(data)
