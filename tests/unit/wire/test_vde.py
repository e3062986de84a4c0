from __future__ import annotations

import socket
import struct
import sys

import pytest
from hypothesis import given, strategies as st

from aioioth.errors import ConfigurationError
from aioioth.wire import vde

LITTLE = sys.byteorder == "little"


def padded(path: bytes) -> bytes:
    return path.ljust(108, b"\0")


@pytest.mark.skipif(not LITTLE, reason="the bytes are those of little-endian machines")
def test_a_whole_request() -> None:
    request = vde.pack_request(b"/tmp/x", port=None, description="me")
    assert request == (
        b"\xce\xfa\xed\xfe"
        b"\x03\x00\x00\x00"
        b"\x00\x00\x00\x00"
        b"\x01\x00" + padded(b"/tmp/x") + b"me"
    )


@pytest.mark.parametrize(
    ("port", "kind"),
    [
        (None, 0),
        (0, 1),
        (1, 1 << 8),
        (5, 5 << 8),
        (255, 255 << 8),
        (256, 256 << 8),
        (vde.MAX_PORT, vde.MAX_PORT << 8),
    ],
)
def test_the_port_is_in_the_type(port: int | None, kind: int) -> None:
    request = vde.pack_request(b"/tmp/x", port=port, description="")
    assert len(request) == 122
    assert struct.unpack_from("=III", request) == (0xFEEDFACE, 3, kind)


def test_the_largest_port_fills_the_type() -> None:
    assert vde.MAX_PORT == 0xFFFFFF


@pytest.mark.parametrize(
    ("description", "on_the_wire"),
    [
        ("", b""),
        ("aioioth web user=0 pid=1", b"aioioth web user=0 pid=1"),
        ("x" * 127, b"x" * 127),
        ("x" * 128, b"x" * 127),
        ("käse", b"k\xc3\xa4se"),
    ],
)
def test_the_description_follows_without_a_nul(
    description: str, on_the_wire: bytes
) -> None:
    request = vde.pack_request(b"/tmp/x", port=None, description=description)
    assert request[122:] == on_the_wire


def test_the_whole_request_fits_the_switches_buffer() -> None:
    request = vde.pack_request(b"/" * 107, port=1, description="ä" * 1000)
    assert len(request) == 122 + 127


def test_an_address_is_110_bytes() -> None:
    address = vde.pack_address(b"/tmp/x")
    assert address == struct.pack("=H", socket.AF_UNIX) + padded(b"/tmp/x")
    assert len(address) == vde.REPLY_SIZE == 110


def test_an_abstract_name_keeps_its_nuls() -> None:
    name = padded(b"\0aioioth/1")
    assert vde.unpack_address(vde.pack_address(name)) == name
    assert vde.unpack_address(vde.pack_address(b"\0aioioth/1")) == name


def test_a_path_ends_at_its_first_nul() -> None:
    data = struct.pack("=H", socket.AF_UNIX) + padded(b"/run/sw/001.5\0junk")
    assert vde.unpack_address(data) == b"/run/sw/001.5"


def test_a_path_may_have_107_bytes() -> None:
    longest = b"/" + b"x" * 106
    assert vde.unpack_address(vde.pack_address(longest)) == longest
    with pytest.raises(ConfigurationError, match="may have 107 bytes"):
        vde.pack_address(longest + b"x")


def test_an_abstract_name_may_have_108_bytes() -> None:
    longest = b"\0" + b"x" * 107
    assert vde.unpack_address(vde.pack_address(longest)) == longest
    with pytest.raises(ConfigurationError):
        vde.pack_address(longest + b"x")


@pytest.mark.parametrize("length", [0, 1, 2, 109, 111, 122])
def test_an_address_of_another_length(length: int) -> None:
    with pytest.raises(ValueError, match=f"of {length} bytes; expected 110"):
        vde.unpack_address(bytes(length))


def test_an_address_of_another_family() -> None:
    data = struct.pack("=H", socket.AF_INET) + bytes(108)
    with pytest.raises(ValueError, match="of family 2; expected 1"):
        vde.unpack_address(data)


@given(st.binary(min_size=1, max_size=107).filter(lambda path: 0 not in path))
def test_a_path_survives_the_wire(path: bytes) -> None:
    assert vde.unpack_address(vde.pack_address(path)) == path


@given(st.binary(max_size=107))
def test_an_abstract_name_survives_the_wire(rest: bytes) -> None:
    name = padded(b"\0" + rest)
    assert vde.unpack_address(vde.pack_address(name)) == name


@given(
    st.binary(max_size=300)
    | st.binary(min_size=108, max_size=108).map(b"\1\0".__add__)
    | st.binary(min_size=110, max_size=110)
)
def test_any_bytes_are_an_address_or_a_value_error(data: bytes) -> None:
    try:
        path = vde.unpack_address(data)
    except ValueError:
        assert len(data) != 110 or data[:2] != struct.pack("=H", socket.AF_UNIX)
    else:
        assert data[2:].startswith(path)


@given(
    path=st.binary(min_size=1, max_size=107).filter(lambda path: 0 not in path),
    port=st.none() | st.integers(0, vde.MAX_PORT),
    description=st.text(st.characters(codec="utf-8"), max_size=200),
)
def test_any_request(path: bytes, port: int | None, description: str) -> None:
    request = vde.pack_request(path, port=port, description=description)
    magic, version, kind = struct.unpack_from("=III", request)
    assert (magic, version) == (0xFEEDFACE, 3)
    assert (kind & 0xFF, kind >> 8) == ((1, 0) if port == 0 else (0, port or 0))
    assert vde.unpack_address(request[12:122]) == path
    assert description.encode().startswith(request[122:])
    assert len(request) == 122 + min(len(description.encode()), 127)


# The switch's side


def a_request(
    *,
    magic: int = 0xFEEDFACE,
    version: int = 3,
    kind: int = 0,
    family: int = socket.AF_UNIX,
    path: bytes = b"/tmp/x",
    description: bytes = b"me",
) -> bytes:
    head = struct.pack("=IIIH108s", magic, version, kind, family, path)
    return head + description


def test_a_request_is_read() -> None:
    assert vde.unpack_request(a_request()) == vde.Request(b"/tmp/x", None, "me")


@pytest.mark.parametrize(
    ("kind", "port"), [(0, None), (1, 0), (5 << 8, 5), (0xFFFFFF00, vde.MAX_PORT)]
)
def test_the_port_of_a_request(kind: int, port: int | None) -> None:
    request = vde.unpack_request(a_request(kind=kind))
    assert request is not None
    assert request.port == port


@pytest.mark.parametrize(
    ("on_the_wire", "description"),
    [
        (b"", ""),
        (b"me\0junk", "me"),
        (b"a\nb\x1b[2Jc\x7f", "a?b?[2Jc?"),
        (b"k\xc3\xa4se", "käse"),
        (b"k\xc3", "k\ufffd"),
        ("\N{RIGHT-TO-LEFT OVERRIDE}".encode(), "?"),
        (b"x" * 134, "x" * 127),
    ],
)
def test_a_description_can_be_shown(on_the_wire: bytes, description: str) -> None:
    request = vde.unpack_request(a_request(description=on_the_wire))
    assert request is not None
    assert request.description == description


def test_the_name_of_a_clients_socket_may_be_abstract() -> None:
    request = vde.unpack_request(a_request(path=b"\0me"))
    assert request is not None
    assert request.data_address == padded(b"\0me")


@pytest.mark.parametrize("length", range(122))
def test_a_part_of_a_request(length: int) -> None:
    assert vde.unpack_request(a_request()[:length]) is None


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (a_request(magic=0xFEEDFACF), "no request of version 3"),
        (a_request(version=0), "no request of version 3"),  # version 1 of old
        (a_request(version=2), "no request of version 3"),
        (a_request(version=4), "no request of version 3"),
        (a_request(kind=2), "an unknown kind of request, 2"),
        (a_request(family=socket.AF_INET), "of family 2"),
        (a_request(description=bytes(135)), "more than 256 bytes"),
        (b"GET /", "no request of version 3"),
        (b"\0", "no request of version 3"),
    ],
)
def test_what_is_no_request(request_: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        vde.unpack_request(request_)


@given(
    st.binary(max_size=300)
    | st.builds(
        bytes.__add__,
        st.just(a_request()[:8]),
        st.binary(min_size=100, max_size=260),
    )
    | st.builds(
        bytes.__add__, st.just(a_request()[:14]), st.binary(min_size=100, max_size=260)
    )
)
def test_any_bytes_are_a_request_or_a_value_error(data: bytes) -> None:
    try:
        request = vde.unpack_request(data)
    except ValueError:
        return
    if request is None:
        assert len(data) < 122
        assert a_request()[:8].startswith(data[:8])
    else:
        assert request.description.isprintable()
        assert len(request.description) <= 127


@given(
    path=st.binary(min_size=1, max_size=107).filter(lambda path: 0 not in path),
    port=st.none() | st.integers(0, vde.MAX_PORT),
    description=st.text(
        st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=40
    ).filter(lambda text: len(text.encode()) <= 127),
)
def test_our_own_requests_are_read(
    path: bytes, port: int | None, description: str
) -> None:
    data = vde.pack_request(path, port=port, description=description)
    assert vde.unpack_request(data) == vde.Request(path, port, description)
