"""``wireguard://``: its file, and what it says when it cannot be.

The messages are in tests/unit/wire, links in tests/kernel/test_shortcut_wireguard.py.
"""

from __future__ import annotations

import errno
import ipaddress
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies as st

from aioioth import abc
from aioioth.abc import NewInterface
from aioioth.errors import BrokenTransportError, ConfigurationError, VnlError
from aioioth.wire.wireguard import Device
from aioioth_transports import _wgquick, wireguard
from aioioth_transports.wireguard import WireguardJunction, WireguardTransport

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
OTHER = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="
WHOLE = f"""
# An example with everything.
[interface]
PrivateKey = {KEY}
ListenPort=51820
FwMark = 0xca6c   # as wg-quick takes it
Address = 10.0.0.1/24, fd00::1/64
address = 10.1.0.1
MTU = 1380
DNS = 10.0.0.53
PostUp = iptables -A FORWARD -i %i -j ACCEPT

[Peer]
PublicKey = {OTHER}
PresharedKey = {KEY}
AllowedIPs = 10.0.0.2/32, 10.7.0.9/16
AllowedIPs = fd00::/64
Endpoint = [2001:db8::1]:51820
PersistentKeepalive = 25

[Peer]
PublicKey = {KEY}
AllowedIPs =
Endpoint = example.org:443
PersistentKeepalive = off
"""


def test_a_whole_file() -> None:
    found = _wgquick.parse(WHOLE)
    assert found.private_key == b"\1" * 32
    assert (found.port, found.mark, found.mtu) == (51820, 0xCA6C, 1380)
    assert list(map(str, found.addresses)) == [
        "10.0.0.1/24",
        "fd00::1/64",
        "10.1.0.1/32",
    ]
    assert found.has_routes
    assert list(found.ignored) == ["dns", "postup"]
    one, two = found.peers
    assert (one.public_key, one.preshared_key) == (b"\2" * 32, b"\1" * 32)
    assert list(map(str, one.networks)) == ["10.0.0.2/32", "10.7.0.0/16", "fd00::/64"]
    assert (one.place, one.keepalive) == (("2001:db8::1", 51820), 25)
    assert (two.networks, two.place, two.keepalive) == ([], ("example.org", 443), 0)
    assert two.preshared_key is None
    assert KEY not in repr(found)


INTERFACE = f"[Interface]\nPrivateKey = {KEY}\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected a PrivateKey in"),
        ("[Interface]\n", "expected a PrivateKey in"),
        ("PrivateKey = x", r"line 1: expected \[Interface\] first"),
        (f"{INTERFACE}Port 5", "line 3: expected NAME = VALUE"),
        (f"{INTERFACE}Port = 5", "line 3: this is no setting of an .Interface"),
        (f"{INTERFACE}ListenPort = 65536", "line 3: expected a number from 0 to 65535"),
        (f"{INTERFACE}FwMark = 0xg", "line 3: expected a number"),
        (f"{INTERFACE}Address = 10.0.0.1/33", "line 3: expected addresses, such as"),
        (f"{INTERFACE}MTU = x", "line 3: expected a number from 68"),
        (f"{INTERFACE}Table = 7", "line 3: Table: expected auto or off"),
        (f"{INTERFACE}[Other]", r"line 3: expected \[Interface\] or \[Peer\]"),
        (f"{INTERFACE}[Peer]\n[Peer]", "line 4: .* before this has no PublicKey"),
        (f"{INTERFACE}[Peer]\nPublicKey = {KEY[1:]}", "line 4: expected a key of 44"),
        (f"{INTERFACE}[Peer]\nEndpoint = ::1:5", r"line 4: .* HOST:PORT, or \[IPV6\]"),
        (f"{INTERFACE}[Peer]\nEndpoint = host:0", "line 4: .* a port from 1 to 65535"),
        (f"{INTERFACE}[Peer]\nAddress = ::1", "line 4: this is no setting of a .Peer"),
        (
            INTERFACE + 2 * f"[Peer]\nPublicKey = {OTHER}\n",
            "line 7: .* before this is there twice",
        ),
    ],
)
def test_bad_files(text: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as caught:
        _wgquick.parse(text)
    assert KEY[1:] not in str(caught.value)


@given(
    st.lists(st.sampled_from([*WHOLE.splitlines(), KEY, "[Peer]", "x", "Table=off"]))
)
def test_any_lines_are_taken_or_refused(lines: list[str]) -> None:
    with suppress(ConfigurationError):
        assert _wgquick.parse("\n".join(lines)).private_key


@given(st.text())
def test_any_text_is_taken_or_refused(text: str) -> None:
    for before in ("", INTERFACE, f"{INTERFACE}[Peer]\nPublicKey = {OTHER}\n"):
        with suppress(ConfigurationError):
            _wgquick.parse(before + text)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("", "expected a configuration file: wireguard://PATH"),
        ("x[y]", "no option 'y'"),
    ],
)
def test_bad_addresses(address: str, reason: str) -> None:
    with pytest.raises(VnlError, match=reason):
        WireguardTransport(address)


async def test_there_are_no_frames() -> None:
    transport = WireguardTransport("/etc/wireguard/wg0.conf")
    assert isinstance(transport, abc.KernelTransport)
    with pytest.raises(BrokenTransportError, match="IP packets, not frames") as caught:
        await transport.open("us")
    assert caught.value.errno == errno.EOPNOTSUPP


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "wg0.conf"
        path.touch(0o600)
        path.write_text(text)
        return path

    return write


@pytest.fixture
def _may(monkeypatch: pytest.MonkeyPatch) -> None:
    """As root: the file is looked at after that."""
    monkeypatch.setattr(wireguard, "require_privilege", lambda *_: None)


@pytest.mark.usefixtures("_may")
async def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BrokenTransportError, match=r"no.conf: cannot be read: No such"):
        await WireguardTransport(f"{tmp_path}/no.conf").join("us")
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(BrokenTransportError, match="cannot be read: it is no regular"):
        await WireguardTransport(f"{tmp_path}/fifo").join("us")
    with pytest.raises(BrokenTransportError, match="cannot be read: "):
        await WireguardTransport("~nobody-of-that-name/wg0.conf").join("us")


@pytest.mark.usefixtures("_may")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
async def test_a_file_that_others_may_use(
    write: Callable[[str], Path], mode: int
) -> None:
    path = write(INTERFACE)
    path.chmod(mode)
    with pytest.raises(BrokenTransportError, match=f"chmod go= {path}") as caught:
        await WireguardTransport(str(path)).join("us")
    assert caught.value.errno == errno.EACCES


@pytest.mark.usefixtures("_may")
async def test_a_file_that_makes_no_sense(write: Callable[[str], Path]) -> None:
    path = write(INTERFACE + "x")
    with pytest.raises(BrokenTransportError, match=r"wg0.conf: line 3: expected NAME"):
        await WireguardTransport(str(path)).join("us")
    path.write_bytes(b"\xff")
    with pytest.raises(BrokenTransportError, match=r"wg0.conf: is no text"):
        await WireguardTransport(str(path)).join("us")
    path.write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(BrokenTransportError, match=r"cannot be read: File too large"):
        await WireguardTransport(str(path)).join("us")


@pytest.mark.usefixtures("_may")
async def test_a_junction(
    write: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    text = WHOLE.replace("example.org", "127.0.0.9")
    junction = await WireguardTransport(str(write(text))).join("us")
    assert (junction.kind, junction.mtu) == ("wireguard", 1380)
    assert "not done: dns, postup" in caplog.text
    device = junction._device
    endpoints = [peer.endpoint for peer in device.peers]
    assert endpoints == [
        (ipaddress.ip_address("2001:db8::1"), 51820, 0),
        (ipaddress.ip_address("127.0.0.9"), 443, 0),
    ]
    junction.close()


def ways(text: str) -> list[str]:
    found = _wgquick.parse(text)
    junction = WireguardJunction(Device(found.private_key), found)
    nobody: Any = None
    return [
        words
        for words, _ in junction._ways(NewInterface("wg0", 1, 1420, None, 0, nobody))
    ]


def test_addresses_and_routes() -> None:
    assert ways(WHOLE) == [
        "ip address add 10.0.0.1/24 dev wg0",
        "ip address add fd00::1/64 dev wg0",
        "ip address add 10.1.0.1/32 dev wg0",
        "ip route add 10.0.0.2/32 dev wg0",
        "ip route add 10.7.0.0/16 dev wg0",  # fd00::/64 is there with the address
    ]
    assert len(ways(WHOLE.replace("MTU", "Table = off\nMTU"))) == 3
    assert _wgquick.parse(INTERFACE).mtu is None
