"""``kvxlan://`` as text; what it does is in tests/kernel/test_shortcuts.py."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from aioioth import abc
from aioioth.errors import BrokenTransportError, VnlError
from aioioth_transports.kvxlan import KernelVxlanTransport
from aioioth_transports.vxlan import VxlanTransport


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("/vni=16777216", "vni: expected a number from 0 to 16777215"),
        ("/port=0", "port: expected a number from 1 to 65535"),
        ("/ttl=0", "ttl: expected a number from 1 to 255"),
        ("/if=a b", "if: expected the name of an interface"),
        ("10.0.0.1/v6", "v6: the address is one of IPv4"),
        ("/grp=users", "no option 'grp'"),
        ("[ttl=1]", "options follow a '/' here"),
    ],
)
def test_bad_addresses(address: str, reason: str) -> None:
    with pytest.raises(VnlError, match=reason):
        KernelVxlanTransport(address)


@given(st.text())
def test_it_takes_what_vxlan_takes(address: str) -> None:
    try:
        VxlanTransport(address)
    except VnlError:
        with pytest.raises(VnlError):
            KernelVxlanTransport(address)
        return
    assert isinstance(KernelVxlanTransport(address), abc.KernelTransport)


async def test_frames_are_vxlans() -> None:
    plug = await KernelVxlanTransport("127.0.0.1/port=4790").open("us")
    try:
        assert isinstance(plug, abc.Plug)
        with pytest.raises(BrokenTransportError, match="port 4790 is taken"):
            await VxlanTransport("127.0.0.1/port=4790").open("us")
    finally:
        plug.close()
