from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from aioioth.wire.domains import pack_name, pack_names, parse_name, parse_names

LABELS = st.text("abcxyzABCXYZ0189_-", min_size=1, max_size=20)
NAMES = st.lists(LABELS, min_size=1, max_size=8).map(".".join)

# The example of RFC 3397: eng.apple.com. and marketing.apple.com.
APPLE = b"\x03eng\x05apple\x03com\0\x09marketing\xc0\x04"

NO_NAMES = ["", ".", "a..b", "a.b..", "a b", "a\n", "é", "x" * 64, "a." * 127 + "a"]

NOT_SOUND = [
    b"\x03eng",  # no end
    b"\x03en",
    b"\x04a b\0\0",
    b"\x03a.b\0",
    b"\x02a\n\0",
    b"\x40" + b"a" * 64 + b"\0",
    b"\x3f" + b"a" * 63 + b"\x3f" + b"a" * 62,
    (b"\x3f" + b"a" * 63) * 4 + b"\0",  # 257 bytes
    b"\x01a\xc0\x00",
    b"\xc0",
]
NOT_SOUND_COMPRESSED = [
    b"\xc0\x00",  # to itself
    b"\x01a\xc0\x02",
    b"\x01a\xc0\x04\0",  # forward
    b"\x01a\xc0",
    b"\x01a\0\x01b\x80\x00",
    b"\0" + b"\x01a" * 127 + b"\x01b\xc0\x01",  # 256 bytes
]


def test_the_example_of_the_rfc() -> None:
    assert parse_names(APPLE, compressed=True) == (
        "eng.apple.com",
        "marketing.apple.com",
    )
    with pytest.raises(ValueError):
        parse_names(APPLE)


def test_names_behind_each_other() -> None:
    packed = pack_names(["eng.apple.com", "lab."])
    assert packed == b"\x03eng\x05apple\x03com\0\x03lab\0"
    assert parse_names(packed) == ("eng.apple.com", "lab")
    assert pack_names([]) == b""
    assert parse_names(b"") == ()


def test_padding() -> None:
    assert parse_names(pack_name("lab") + b"\0\0\0") == ("lab",)
    assert parse_names(bytes(8)) == ()
    # The root itself, pointed at.
    assert parse_names(b"\x01a\0\xc0\x02", compressed=True) == ("a",)


def test_one_name() -> None:
    assert parse_name(b"") == ""
    assert parse_name(b"\0") == ""
    assert parse_name(pack_name("web.lab")) == "web.lab"
    assert parse_name(pack_name("web", ended=False)) == "web"
    for wrong in (b"\x03web\0x", b"\x03web\x01", b"\x03we"):
        with pytest.raises(ValueError):
            parse_name(wrong)


def test_as_long_as_it_may_be() -> None:
    name = ".".join(["a" * 63] * 3 + ["a" * 61])
    packed = pack_name(name)
    assert len(packed) == 255
    assert parse_name(packed) == name
    with pytest.raises(ValueError, match="255"):
        pack_name(name + "a")


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ValueError):
        pack_name(name)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("data", NOT_SOUND)
def test_what_is_not_sound(data: bytes, compressed: bool) -> None:
    with pytest.raises(ValueError):
        parse_names(data, compressed=compressed)


@pytest.mark.parametrize("data", NOT_SOUND_COMPRESSED)
def test_pointers_that_lead_nowhere(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_names(data, compressed=True)


def test_too_many() -> None:
    assert len(parse_names(b"\x01a\0" * 256)) == 256
    with pytest.raises(ValueError, match="256"):
        parse_names(b"\x01a\0" * 257)


def test_a_chain_of_pointers_is_short() -> None:
    """Or a few kilobytes would cost seconds."""
    chain = b"\x01a\0\xc0\x00"
    for number in range(300):
        chain += (0xC000 | (3 + 2 * number)).to_bytes(2, "big")
    with pytest.raises(ValueError):
        parse_names(chain, compressed=True)


@given(st.lists(NAMES, max_size=5))
def test_there_and_back(names: list[str]) -> None:
    packed = pack_names(names)
    assert parse_names(packed) == tuple(names)
    assert parse_names(packed, compressed=True) == tuple(names)


@given(NAMES, st.booleans())
def test_one_there_and_back(name: str, ended: bool) -> None:
    assert parse_name(pack_name(name, ended=ended)) == name


@given(st.binary(max_size=300), st.booleans())
def test_anything(data: bytes, compressed: bool) -> None:
    try:
        names = parse_names(data, compressed=compressed)
    except ValueError:
        return
    assert parse_names(pack_names(names)) == names


@given(st.text(max_size=70))
def test_any_text(text: str) -> None:
    try:
        packed = pack_name(text)
    except ValueError:
        return
    assert parse_name(packed) == text.removesuffix(".")
