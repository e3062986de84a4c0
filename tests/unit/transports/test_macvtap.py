"""``macvtap://`` as text, and for who may not; what it does is in tests/kernel."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given, strategies as st

from aioioth import abc
from aioioth.errors import BrokenTransportError, VnlError
from aioioth_transports import macvtap
from aioioth_transports.macvtap import MacvtapTransport


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("", "expected the name of an interface: macvtap://mv0"),
        (16 * "x", "up to 15 characters"),
        ("mv0/x", "no option 'x'"),
    ],
)
def test_bad_addresses(address: str, reason: str) -> None:
    with pytest.raises(VnlError, match=reason):
        MacvtapTransport(address)


@given(st.text())
def test_any_address_is_taken_or_refused(address: str) -> None:
    try:
        transport = MacvtapTransport(address)
    except VnlError:
        return
    assert isinstance(transport, abc.FrameTransport)


async def test_there_is_no_such_interface() -> None:
    advice = "there is no interface mv0. Make it: 'ip link add .* type macvtap"
    with pytest.raises(BrokenTransportError, match=advice) as caught:
        await MacvtapTransport("mv0").open("us")
    assert caught.value.errno == errno.ENODEV


async def test_an_interface_of_another_kind() -> None:
    with pytest.raises(BrokenTransportError, match="lo is hardware, not macvtap"):
        await MacvtapTransport("lo").open("us")


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (
            FileNotFoundError,
            "is not there. .* run 'mknod /dev/tap1 c MAJOR MINOR with ",
        ),
        (PermissionError, "you may not use /dev/tap1: it needs root"),
    ],
)
async def test_a_device_that_does_not_open(
    error: type[OSError], advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = errno.ENOENT if error is FileNotFoundError else errno.EACCES

    def refuse(*_: object) -> int:
        raise error(code, "no")

    monkeypatch.setattr(macvtap, "_kind_of", lambda _: "macvtap")
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(BrokenTransportError, match=advice) as caught:
        await MacvtapTransport("lo").open("us")
    assert caught.value.errno == code


async def test_a_device_of_another_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def open_null(path: str, flags: int) -> int:
        return opened("/dev/null", flags)

    monkeypatch.setattr(macvtap, "_kind_of", lambda _: "macvtap")
    monkeypatch.setattr(os, "open", open_null)
    with pytest.raises(BrokenTransportError, match="not lo's device, but another"):
        await MacvtapTransport("lo").open("us")
