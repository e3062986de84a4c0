from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, strategies as st

from aioioth.wire.dhcp6 import (
    Association,
    Fqdn,
    Kind,
    LeasedAddress,
    LeasedPrefix,
    Message,
    Status,
    StatusCode,
    duid_of,
    mac_in,
)

MAC = bytes.fromhex("020000000001")

# Put together by hand from RFC 8415: an ADVERTISE.
ADVERTISE = bytes.fromhex(
    "02 abcdef"
    "0001 000a 0003 0001 020000000001"
    "0002 000a 0003 0001 0200000000ff"
    "0003 0028 00000001 0000003c 00000060"
    "  0005 0018 fd000000000000000000000000000100 00000064 ffffffff"
    "0019 0029 00000001 00000000 00000000"
    "  001a 0019 00000010 00000020 38 fd00000000000100 0000000000000000"
    "0007 0001 ff"
    "000d 0009 0000 416c6c206f6b21"
    "000e 0000"
    "0017 0020 fd000000000000000000000000000053"
    "          fe800000000000000000000000000053"
    "0018 000a 03 6c6162 00 02 696f 00 00"
    "0052 0004 00000e10"
    "00ff 0003 616263"  # somebody else's
)

SECONDS = st.none() | st.integers(0, 0xFFFF_FFFE)
V6 = st.ip_addresses(v=6)
DUIDS = st.binary(min_size=3, max_size=130)
STATUS = st.builds(Status, st.integers(0, 0xFFFF), st.text(max_size=20))
LABELS = st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True)
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
PREFIXES = st.tuples(V6, st.integers(0, 128)).map(
    lambda each: ipaddress.IPv6Network((each[0], each[1]), strict=False)
)
TIMES = {
    "iaid": st.integers(0, 0xFFFF_FFFF),
    "t1": SECONDS,
    "t2": SECONDS,
    "status": st.none() | STATUS,
}
ASSOCIATIONS = st.builds(
    Association,
    prefixes=st.just(False),
    leased=st.lists(st.builds(LeasedAddress, V6, SECONDS, SECONDS), max_size=3).map(
        tuple
    ),
    **TIMES,
) | st.builds(
    Association,
    prefixes=st.just(True),
    leased=st.lists(
        st.builds(LeasedPrefix, PREFIXES, SECONDS, SECONDS), max_size=3
    ).map(tuple),
    **TIMES,
)
NUMBERS = st.none() | st.integers(0, 0xFFFF_FFFF)
MESSAGES = st.builds(
    Message,
    kind=st.sampled_from(Kind),
    transaction=st.integers(0, 0xFF_FFFF),
    client_id=st.none() | DUIDS,
    server_id=st.none() | DUIDS,
    associations=st.lists(ASSOCIATIONS, max_size=3).map(tuple),
    requested=st.lists(st.integers(0, 0xFFFF), max_size=5).map(tuple),
    preference=st.none() | st.integers(0, 255),
    elapsed=st.none() | st.integers(0, 0xFFFF),
    status=st.none() | STATUS,
    rapid_commit=st.booleans(),
    dns=st.none() | st.lists(V6, max_size=3).map(tuple),
    domains=st.none() | st.lists(NAMES, max_size=3).map(tuple),
    refresh=NUMBERS,
    fqdn=st.none() | st.builds(Fqdn, st.just("") | NAMES, st.integers(0, 255)),
    sol_max_rt=NUMBERS,
    inf_max_rt=NUMBERS,
)


def option(code: int, body: bytes) -> bytes:
    return code.to_bytes(2, "big") + len(body).to_bytes(2, "big") + body


def test_a_message() -> None:
    message = Message.parse(ADVERTISE)
    address = ipaddress.IPv6Address("fd00::100")
    prefix = ipaddress.IPv6Network("fd00:0:0:100::/56")
    assert message == Message(
        Kind.ADVERTISE,
        0xABCDEF,
        client_id=duid_of(MAC),
        server_id=duid_of(MAC[:5] + b"\xff"),
        associations=(
            Association(1, False, 60, 96, (LeasedAddress(address, 100, None),)),
            Association(1, True, 0, 0, (LeasedPrefix(prefix, 16, 32),)),
        ),
        preference=255,
        status=Status(0, "All ok!"),
        rapid_commit=True,
        dns=(
            ipaddress.IPv6Address("fd00::53"),
            ipaddress.IPv6Address("fe80::53"),
        ),
        domains=("lab", "io"),
        sol_max_rt=3600,
    )
    assert message.code == message.associations[0].code == StatusCode.SUCCESS
    assert Message.parse(message.pack()) == message


def test_names_of_clients() -> None:
    for name, packed in ("web.lab", b"\3web\3lab\0"), ("web", b"\3web"), ("", b""):
        message = Message(Kind.SOLICIT, 1, fqdn=Fqdn(name))
        assert message.pack()[4:] == option(39, b"\x01" + packed)
        assert Message.parse(message.pack()) == message


def test_bad_names_are_as_if_not_there() -> None:
    """Also because they are written to files that have lines and words."""
    packed = Message(Kind.REPLY, 1).pack()
    packed += (
        option(24, b"\x0blab\noptions\0") + option(39, b"\0\x03a b") + option(39, b"")
    )
    assert Message.parse(packed) == Message(Kind.REPLY, 1)


def test_the_first_of_several_counts() -> None:
    packed = Message(Kind.REPLY, 1, preference=1, server_id=b"one").pack()
    packed += option(7, b"\2") + option(2, b"two")
    message = Message.parse(packed)
    assert (message.preference, message.server_id) == (1, b"one")


def test_an_address_that_failed() -> None:
    body = bytes(12)
    failed = option(13, b"\0\2no more")
    for inner in (
        option(5, bytes(24) + failed),
        option(5, bytes(24) + option(99, b"")),
    ):
        [association] = Message.parse(
            Message(Kind.REPLY, 1).pack() + option(3, body + inner)
        ).associations
        assert len(association.leased) == (failed not in inner)


def test_bits_behind_a_prefix_do_not_count() -> None:
    prefix = option(26, bytes(8) + b"\x30" + bytes.fromhex("fd00") + b"\xff" * 14)
    message = Message.parse(
        Message(Kind.REPLY, 1).pack() + option(25, bytes(12) + prefix)
    )
    [leased] = message.associations[0].leased
    assert isinstance(leased, LeasedPrefix)
    assert str(leased.prefix) == "fd00:ffff:ffff::/48"


def test_macs_in_duids() -> None:
    assert mac_in(duid_of(MAC)) == MAC
    assert mac_in(bytes.fromhex("0001 0001 12345678") + MAC) == MAC
    for other in (
        b"",
        b"abc",
        b"\0\3\0\6" + MAC,
        b"\0\2\0\1" + MAC,
        duid_of(MAC) + b"x",
    ):
        assert mac_in(other) is None


HEADER = b"\x07\0\0\1"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x07\0\0",
        b"\x00\0\0\1",
        b"\x0c" + bytes(33),  # from a relay
        HEADER + b"\0",
        HEADER + b"\0\1\0\5abcd",
        HEADER + option(1, b"ab"),
        HEADER + option(1, bytes(131)),
        HEADER + option(3, bytes(11)),
        HEADER + option(3, bytes(12) + b"\0"),
        HEADER + option(3, bytes(12) + option(5, bytes(23))),
        HEADER + option(3, bytes(12) + option(5, bytes(24) + b"x")),
        HEADER + option(3, bytes(12) + option(5, bytes(24) + option(13, b"x"))),
        HEADER + option(25, bytes(12) + option(26, bytes(24))),
        HEADER + option(25, bytes(12) + option(26, bytes(8) + b"\x81" + bytes(16))),
        HEADER + option(6, b"\0"),
        HEADER + option(7, b""),
        HEADER + option(8, b"\0"),
        HEADER + option(13, b"\0"),
        HEADER + option(23, bytes(15)),
        HEADER + option(82, bytes(5)),
    ],
)
def test_what_makes_no_sense(data: bytes) -> None:
    with pytest.raises(ValueError):
        Message.parse(data)


@given(MESSAGES)
def test_there_and_back(message: Message) -> None:
    assert Message.parse(message.pack()) == message


@given(st.binary(max_size=200))
def test_anything(data: bytes) -> None:
    check(data)


@given(MESSAGES, st.data())
def test_anything_that_looks_like_it(message: Message, data: st.DataObject) -> None:
    packed = bytearray(message.pack())
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(
            st.integers(0, 255)
        )
    check(bytes(packed))
    check(bytes(packed[: data.draw(st.integers(0, len(packed)))]))


def check(data: bytes) -> None:
    try:
        message = Message.parse(data)
    except ValueError:
        return
    assert Message.parse(message.pack()) == message
