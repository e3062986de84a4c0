"""``pcap://`` as text, for who may not, and long frames cut; more in tests/kernel."""

from __future__ import annotations

import errno
import socket

import pytest
from hypothesis import given, strategies as st

from aioioth import abc
from aioioth.errors import BrokenTransportError, VnlError
from aioioth_transports.pcap import PcapTransport


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("", "expected the name of an interface: pcap://eth0"),
        (16 * "x", "up to 15 characters"),
        ("eth0/x", "no option 'x'"),
    ],
)
def test_bad_addresses(address: str, reason: str) -> None:
    with pytest.raises(VnlError, match=reason):
        PcapTransport(address)


@given(st.text())
def test_any_address_is_taken_or_refused(address: str) -> None:
    try:
        transport = PcapTransport(address)
    except VnlError:
        return
    assert isinstance(transport, abc.FrameTransport)


async def test_who_may_not_is_told() -> None:
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    except PermissionError:
        pass
    else:
        pytest.skip("this user may")
    with pytest.raises(BrokenTransportError, match="CAP_NET_RAW") as caught:
        await PcapTransport("lo").open("us")
    assert caught.value.errno == errno.EPERM
