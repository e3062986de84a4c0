from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from aioioth.errors import ConfigurationError
from aioioth.wire import vxlan

numbers = st.integers(0, vxlan.MAX_VNI)


@pytest.mark.parametrize(
    ("vni", "header"),
    [
        (1, "0800000000000100"),
        (42, "0800000000002a00"),
        (0, "0800000000000000"),
        (0xFFFFFF, "08000000ffffff00"),
    ],
)
def test_a_header(vni: int, header: str) -> None:
    assert vxlan.pack_header(vni) == bytes.fromhex(header)
    assert vxlan.unpack_header(bytes.fromhex(header)) == vni


def test_the_sizes() -> None:
    assert vxlan.HEADER_SIZE == 8
    assert vxlan.MAX_VNI == 0xFFFFFF


@pytest.mark.parametrize("vni", [-1, 0x1000000])
def test_a_number_that_does_not_fit(vni: int) -> None:
    with pytest.raises(ConfigurationError, match=f"0 to 16777215, not {vni}"):
        vxlan.pack_header(vni)


def test_reserved_bits_are_not_looked_at() -> None:
    assert vxlan.unpack_header(bytes.fromhex("ffffffff00002aff")) == 42


def test_without_a_number() -> None:
    with pytest.raises(ValueError, match="without an identifier: flags 0xf7"):
        vxlan.unpack_header(bytes.fromhex("f7ffffff00002a00"))


@pytest.mark.parametrize("length", range(8))
def test_a_short_one(length: int) -> None:
    with pytest.raises(ValueError, match=f"^{length} bytes are no VXLAN header"):
        vxlan.unpack_header(b"\x08" * length)


@given(numbers, st.binary(max_size=50))
def test_a_number_survives_the_wire(vni: int, frame: bytes) -> None:
    assert vxlan.unpack_header(vxlan.pack_header(vni) + frame) == vni


@given(st.binary(max_size=20))
def test_any_bytes_have_a_number_or_none(data: bytes) -> None:
    try:
        vni = vxlan.unpack_header(data)
    except ValueError:
        assert len(data) < 8 or not data[0] & 0x08
    else:
        assert data[4:7] == vni.to_bytes(3, "big")
