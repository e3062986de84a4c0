"""Compared with pyroute2's idea of the same configuration."""

from __future__ import annotations

import base64
import errno
import ipaddress
import socket
import struct
from typing import Any

import pytest
from hypothesis import given, strategies as st
from pyroute2.netlink.generic.wireguard import wgmsg

from aioioth.wire import rtnetlink, wireguard
from aioioth.wire.wireguard import Device, Endpoint, Peer

KEYS = st.binary(min_size=32, max_size=32)
NETWORKS = st.one_of(
    st.ip_addresses(network="10.0.0.0/8"), st.ip_addresses(network="fd00::/16")
).map(lambda address: ipaddress.ip_network(str(address)))
ENDPOINTS = st.builds(
    Endpoint, st.ip_addresses(), st.integers(1, 65535), st.integers(0, 0)
)
PEERS = st.builds(
    Peer,
    public_key=KEYS,
    preshared_key=st.none() | KEYS,
    endpoint=st.none() | ENDPOINTS,
    keepalive=st.integers(0, 65535),
    networks=st.lists(NETWORKS, max_size=6).map(tuple),
)
DEVICES = st.builds(
    Device,
    private_key=KEYS,
    port=st.integers(0, 65535),
    mark=st.integers(0, 2**32 - 1),
    peers=st.lists(PEERS, max_size=4, unique_by=lambda peer: peer.public_key).map(
        tuple
    ),
)


def told(data: bytes) -> Any:
    """Return what pyroute2 makes of a message."""
    message = wgmsg(data)
    message.decode()
    return message


def encoded(key: bytes) -> bytes:
    return base64.b64encode(key)


def read_back(messages: list[bytes]) -> Device:
    """Return the configuration that messages are, by pyroute2's account."""
    first = told(messages[0])
    assert first.get_attr("WGDEVICE_A_FLAGS") == 1
    peers: dict[bytes, Peer] = {}
    for number, data in enumerate(messages):
        message = told(data)
        assert message.get_attr("WGDEVICE_A_IFINDEX") == 7
        assert message["cmd"] == 1
        assert message["version"] == 1
        assert bool(message.get_attr("WGDEVICE_A_PRIVATE_KEY")) == (number == 0)
        for entry in message.get_attr("WGDEVICE_A_PEERS") or []:
            peer = peer_of(entry)
            before = peers.get(peer.public_key)
            if before is None:
                assert entry.get_attr("WGPEER_A_FLAGS") == 2
                peers[peer.public_key] = peer
            else:
                assert entry.get_attr("WGPEER_A_FLAGS") is None
                peers[peer.public_key] = Peer(
                    before.public_key,
                    before.preshared_key,
                    before.endpoint,
                    before.keepalive,
                    before.networks + peer.networks,
                )
    return Device(
        key_of(first, "WGDEVICE_A_PRIVATE_KEY") or b"",
        first.get_attr("WGDEVICE_A_LISTEN_PORT"),
        first.get_attr("WGDEVICE_A_FWMARK"),
        tuple(peers.values()),
    )


def key_of(message: Any, name: str) -> bytes | None:
    found = message.get_attr(name)
    return None if found is None else base64.b64decode(found)


def peer_of(entry: Any) -> Peer:
    where = entry.get_attr("WGPEER_A_ENDPOINT")
    endpoint = None
    if where is not None:
        address = ipaddress.ip_address(where["addr"])
        assert where["family"] == (
            socket.AF_INET if address.version == 4 else socket.AF_INET6
        )
        endpoint = Endpoint(address, where["port"])
    networks = [each["addr"] for each in entry.get_attr("WGPEER_A_ALLOWEDIPS") or []]
    public = key_of(entry, "WGPEER_A_PUBLIC_KEY")
    assert public is not None
    return Peer(
        public,
        key_of(entry, "WGPEER_A_PRESHARED_KEY"),
        endpoint,
        entry.get_attr("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL") or 0,
        tuple(ipaddress.ip_network(each) for each in networks),
    )


@given(DEVICES)
def test_a_configuration(device: Device) -> None:
    assert read_back(list(wireguard.configure(30, 7, device))) == device


def test_as_pyroute2_writes_it() -> None:
    private, public, preshared = (bytes((n,)) * 32 for n in (1, 2, 3))
    message = wgmsg()
    message["cmd"], message["version"] = 1, 1
    message["header"]["type"], message["header"]["flags"] = 30, 5
    message["header"]["sequence_number"] = 1
    allowed = [
        {
            "attrs": [
                ["WGALLOWEDIP_A_FAMILY", family],
                ["WGALLOWEDIP_A_IPADDR", socket.inet_pton(family, address)],
                ["WGALLOWEDIP_A_CIDR_MASK", bits],
            ]
        }
        for family, address, bits in (
            (socket.AF_INET, "10.0.0.0", 24),
            (socket.AF_INET6, "fd00::", 64),
        )
    ]
    message["attrs"] = [
        ["WGDEVICE_A_IFINDEX", 7],
        ["WGDEVICE_A_PRIVATE_KEY", encoded(private)],
        ["WGDEVICE_A_FLAGS", 1],
        ["WGDEVICE_A_LISTEN_PORT", 51820],
        ["WGDEVICE_A_FWMARK", 5],
        [
            "WGDEVICE_A_PEERS",
            [
                {
                    "attrs": [
                        ["WGPEER_A_PUBLIC_KEY", encoded(public)],
                        ["WGPEER_A_PRESHARED_KEY", encoded(preshared)],
                        ["WGPEER_A_FLAGS", 2],
                        ["WGPEER_A_ENDPOINT", {"addr": "192.0.2.1", "port": 51821}],
                        ["WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL", 25],
                        ["WGPEER_A_ALLOWEDIPS", allowed],
                    ]
                }
            ],
        ],
    ]
    message.encode()
    peer = Peer(
        public,
        preshared,
        Endpoint(ipaddress.ip_network("192.0.2.1").network_address, 51821),
        25,
        (ipaddress.ip_network("10.0.0.0/24"), ipaddress.ip_network("fd00::/64")),
    )
    device = Device(private, 51820, 5, (peer,))
    (ours,) = wireguard.configure(30, 7, device)
    theirs = bytes(message.data)
    # They number the elements of lists, a peer and two networks: nobody looks at it.
    differences = [
        (one, other) for one, other in zip(ours, theirs, strict=True) if one != other
    ]
    assert differences == [(0, 1), (0, 1), (0, 2)]


@pytest.mark.parametrize(("peers", "networks"), [(3000, 1), (1, 3000), (40, 300)])
def test_more_than_one_message_holds(peers: int, networks: int) -> None:
    listed = tuple(
        ipaddress.ip_network(0x0A000000 + number) for number in range(networks)
    )
    device = Device(
        bytes(32),
        peers=tuple(
            Peer(number.to_bytes(32, "big"), networks=listed) for number in range(peers)
        ),
    )
    messages = list(wireguard.configure(30, 7, device))
    assert len(messages) > 1
    assert max(map(len, messages)) < 1 << 16
    assert read_back(messages) == device


def test_an_endpoint_on_a_link() -> None:
    address = ipaddress.ip_network("fe80::1").network_address
    found = wireguard._socket_address(Endpoint(address, 51820, 3))
    assert found == struct.pack("=H", socket.AF_INET6) + bytes.fromhex(
        "ca6c 00000000 fe800000000000000000000000000001"
    ) + struct.pack("=I", 3)


def test_keys_do_not_show() -> None:
    peer = Peer(b"p" * 32, preshared_key=b"secret".ljust(32))
    assert "secret" not in repr(Device(b"secret".ljust(32), peers=(peer,)))


def test_the_family() -> None:
    """The kernel's own number for a family that every kernel has."""
    asked = wireguard.get_family().replace(
        b"wireguard\0\0\0", b"nlctrl".ljust(12, b"\0")
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16) as sock:
        sock.send(asked)
        ((_, body),) = rtnetlink.messages(sock.recv(65536))
        assert wireguard.family_number(body) == 0x10
        sock.send(asked.replace(b"nlctrl", b"nobody"))
        with pytest.raises(OSError) as caught:
            list(rtnetlink.messages(sock.recv(65536)))
        assert caught.value.errno == errno.ENOENT


@given(KEYS)
def test_a_key(key: bytes) -> None:
    assert wireguard.parse_key(encoded(key).decode()) == key


@given(st.text())
def test_any_text_is_a_key_or_none(text: str) -> None:
    key = wireguard.parse_key(text)
    assert key is None or encoded(key).decode() == text


@pytest.mark.parametrize(
    "text", ["", "AA==", "A" * 43 + "B", "A" * 42 + "B=", "é" * 44]
)
def test_no_keys(text: str) -> None:
    assert wireguard.parse_key(text) is None
