"""``macvlan://`` as text; what it does is in tests/kernel/test_shortcuts.py."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given, strategies as st

from aioioth import abc
from aioioth.errors import BrokenTransportError, VnlError
from aioioth_transports.macvlan import MacvlanTransport


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("", "expected the name of an interface: macvlan://eth0"),
        (16 * "x", "up to 15 characters"),
        ("eth0[mode=source]", "mode: expected one of bridge, private, vepa, passthru"),
        ("eth0[mode]", "mode needs a value"),
        ("eth0[bridge]", "no option 'bridge'"),
        ("eth0[mode=bridge", "expected a ']'"),
    ],
)
def test_bad_addresses(address: str, reason: str) -> None:
    with pytest.raises(VnlError, match=reason):
        MacvlanTransport(address)


@given(st.text())
def test_any_address_is_taken_or_refused(address: str) -> None:
    try:
        transport = MacvlanTransport(address)
    except VnlError:
        return
    assert isinstance(transport, abc.KernelTransport)


@pytest.mark.parametrize("name", ["eth9", "it's", "a\\[b", "50%25"])
async def test_frames_are_those_of_the_parent(name: str) -> None:
    """Its name reaches ``pcap://`` as it is, whatever is in it."""
    address = name.replace("'", "\\'")
    plain = MacvlanTransport(address)._parent
    with pytest.raises(BrokenTransportError) as caught:
        await MacvlanTransport(address).open("us")
    assert caught.value.errno in {errno.ENODEV, errno.EPERM}
    if caught.value.errno == errno.ENODEV:
        assert plain in str(caught.value)
