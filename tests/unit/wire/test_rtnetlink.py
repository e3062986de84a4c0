"""The few messages that are read and written without pyroute2."""

from __future__ import annotations

import errno
import struct
from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

from aioioth.wire import rtnetlink


@given(st.binary(max_size=100))
def test_any_bytes_are_attributes(data: bytes) -> None:
    for value in rtnetlink.attributes(data).values():
        assert value in data


@given(st.dictionaries(st.integers(0, 0x3FFF), st.binary(max_size=30), max_size=5))
def test_attributes_come_back(values: dict[int, bytes]) -> None:
    packed = b"".join(
        rtnetlink.attribute(kind, value) for kind, value in values.items()
    )
    assert rtnetlink.attributes(packed) == values


@given(st.binary(max_size=200))
def test_any_bytes_are_messages(data: bytes) -> None:
    with suppress(OSError):  # the kernel refused
        for kind, body in rtnetlink.messages(data):
            assert isinstance(kind, int)
            assert body in data


def test_a_dump_may_end_with_an_error() -> None:
    words = rtnetlink.attribute(1, b"FIB table does not exist\0")
    for told, text in (words, "FIB table does not exist"), (b"", "ENOENT"):
        body = struct.pack("=i", -errno.ENOENT) + told
        header = struct.pack("=IHHII", 16 + len(body), rtnetlink.NLMSG_DONE, 2, 1, 0)
        with pytest.raises(OSError, match=text) as caught:
            list(rtnetlink.messages(header + body))
        assert caught.value.errno == errno.ENOENT
    for end in b"", bytes(4), struct.pack("=i", 20):
        header = struct.pack("=IHHII", 16 + len(end), rtnetlink.NLMSG_DONE, 2, 1, 0)
        assert list(rtnetlink.messages(header + end)) == [(rtnetlink.NLMSG_DONE, end)]


def test_an_error_has_the_kernels_words() -> None:
    asked = struct.pack("=IHHII", 16, rtnetlink.RTM_NEWLINK, 1, 1, 0)
    words = rtnetlink.attribute(1, b"no such thing\0")
    body = struct.pack("=i", -errno.ENODEV) + asked
    for flags, told, text in (
        (rtnetlink.NLM_F_ACK_TLVS | rtnetlink.NLM_F_CAPPED, words, "no such thing"),
        (0, b"", "ENODEV"),
    ):
        size = 16 + len(body + told)
        header = struct.pack("=IHHII", size, rtnetlink.NLMSG_ERROR, flags, 1, 0)
        with pytest.raises(OSError, match=text) as caught:
            list(rtnetlink.messages(header + body + told))
        assert caught.value.errno == errno.ENODEV
