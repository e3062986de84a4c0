from __future__ import annotations

import os
import socket
import struct
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from aioioth._keeper import messages

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.conftest import Pair

little_endian = pytest.mark.skipif(
    sys.byteorder != "little", reason="the bytes are those of little-endian machines"
)


@little_endian
def test_bytes_of_a_request() -> None:
    request = messages.pack_request(messages.TAP, 0x0201, b"vde0")
    assert request == b"\x01\x04\x01\x02vde0"


@little_endian
def test_bytes_of_a_reply() -> None:
    assert messages.pack_reply(0x0201) == b"\x01\x00\x01\x02\x00\x00\x00\x00"
    failure = messages.pack_reply(0x0201, 13, b"socket")
    assert failure == b"\x01\x00\x01\x02\x0d\x00\x00\x00socket"


@little_endian
def test_bytes_of_a_socket() -> None:
    body = messages.pack_socket(socket.AF_INET, socket.SOCK_DGRAM, 17, 8)
    assert body == b"\x02\0\0\0\x02\0\0\0\x11\0\0\0\x08\0\0\0"


@given(st.integers(0, 255), st.integers(0, 0xFFFF), st.binary())
def test_a_request_survives_the_wire(operation: int, number: int, body: bytes) -> None:
    request = messages.pack_request(operation, number, body)
    assert messages.unpack_request(request) == (
        messages.VERSION,
        operation,
        number,
        body,
    )


@given(st.integers(0, 0xFFFF), st.integers(-(2**31), 2**31 - 1), st.binary())
def test_a_reply_survives_the_wire(number: int, code: int, body: bytes) -> None:
    reply = messages.pack_reply(number, code, body)
    assert messages.unpack_reply(reply) == (messages.VERSION, number, code, body)


@given(*[st.integers(-(2**31), 2**31 - 1)] * 4)
def test_a_socket_survives_the_wire(
    family: int, kind: int, protocol: int, count: int
) -> None:
    body = messages.pack_socket(family, kind, protocol, count)
    assert messages.unpack_socket(body) == (family, kind, protocol, count)


@given(st.binary(max_size=3))
def test_a_request_that_is_cut_short(message: bytes) -> None:
    with pytest.raises(struct.error):
        messages.unpack_request(message)


def test_operations_have_numbers_of_their_own() -> None:
    numbers = [
        messages.USER_NAMESPACE,
        messages.NETWORK_NAMESPACE,
        messages.SOCKET,
        messages.TAP,
        messages.SYSCTL,
        messages.CHANNEL,
    ]
    assert len(set(numbers)) == len(numbers)


def test_receive_a_message_without_descriptors(make_pair: Callable[..., Pair]) -> None:
    ours, theirs = make_pair()
    theirs.send(b"hello")
    assert messages.receive(ours) == (b"hello", [])


def test_received_descriptors_are_not_inherited(make_pair: Callable[..., Pair]) -> None:
    ours, theirs = make_pair()
    sent = [os.eventfd(0) for _ in range(messages.MAX_DESCRIPTORS)]
    socket.send_fds(theirs, [b"take them"], sent)
    message, received = messages.receive(ours)
    assert message == b"take them"
    assert len(received) == len(sent)
    assert not set(received) & set(sent)
    for descriptor in received:
        assert not os.get_inheritable(descriptor)
    for descriptor in sent + received:
        os.close(descriptor)


def test_receive_when_the_other_end_is_closed(make_pair: Callable[..., Pair]) -> None:
    ours, theirs = make_pair()
    theirs.close()
    assert messages.receive(ours) == (b"", [])


def test_receive_when_nothing_waits(make_pair: Callable[..., Pair]) -> None:
    ours, _ = make_pair()
    with pytest.raises(BlockingIOError):
        messages.receive(ours)


def test_the_largest_message_arrives_whole(make_pair: Callable[..., Pair]) -> None:
    ours, theirs = make_pair()
    theirs.send(b"x" * messages.MAX_MESSAGE)
    assert messages.receive(ours) == (b"x" * messages.MAX_MESSAGE, [])
