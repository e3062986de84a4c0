"""``tap://`` as text, and for who may not; what it does is in tests/kernel."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given, strategies as st

from aioioth import abc
from aioioth.errors import BrokenTransportError, VnlError
from aioioth_transports import tap
from aioioth_transports.tap import TapTransport


@pytest.mark.parametrize(
    "address", [16 * "x", "a:b", "a b", ".", "..", "%2f", "ü" * 8, "'a/b'"]
)
def test_what_is_no_name(address: str) -> None:
    with pytest.raises(VnlError, match="an interface's name has up to 15 characters"):
        TapTransport(address)


def test_there_are_no_options() -> None:
    with pytest.raises(VnlError, match="no option 'up': there are none") as caught:
        TapTransport("tap0/up")
    assert caught.value.position == 5


@pytest.mark.parametrize("address", ["", "tap0", 15 * "x", "'tap0'", "%74ap0"])
def test_names(address: str) -> None:
    assert isinstance(TapTransport(address), abc.FrameTransport)


@given(st.text())
def test_any_address_is_taken_or_refused(address: str) -> None:
    try:
        transport = TapTransport(address)
    except VnlError:
        return
    assert isinstance(transport, abc.FrameTransport)


async def test_who_may_not_open_the_device_is_told(tap_opens: bool) -> None:
    if tap_opens:
        pytest.skip("this user may")
    with pytest.raises(BrokenTransportError, match=r"/dev/net/tun: .* root") as caught:
        await TapTransport("tap0").open("us")
    assert caught.value.errno in {errno.EACCES, errno.EPERM, errno.ENOENT}


async def test_a_kernel_without_taps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tap, "_DEVICE", "/dev/net/nothing")
    with pytest.raises(BrokenTransportError, match="modprobe tun") as caught:
        await TapTransport("tap0").open("us")
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.EPERM, f"'ip tuntap add dev x0 mode tap user {os.geteuid()}'"),
        (errno.EBUSY, "x0 is in use"),
        (errno.EINVAL, "take another name"),
        (errno.ENFILE, "x0: Too many open files in system"),
    ],
)
async def test_what_the_kernel_says_is_explained(
    code: int, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, name: str) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(tap, "_DEVICE", "/dev/null")
    monkeypatch.setattr(tap, "take_interface", refuse)
    with pytest.raises(BrokenTransportError, match=advice) as caught:
        await TapTransport("x0").open("us")
    assert caught.value.errno == code
