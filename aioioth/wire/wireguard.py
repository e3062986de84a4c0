"""What the kernel is told about a WireGuard link.

A link is configured through generic netlink, whose families get their numbers when
their modules are loaded: first the number is asked for, then the configuration is sent,
in as many messages as it takes.

Source: <linux/wireguard.h>, <linux/genetlink.h>, Linux 6.1.
"""

from __future__ import annotations

import base64
import binascii
import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from aioioth.wire.rtnetlink import NLM_F_ACK, attribute, attributes, nest, request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

    IPAddress = IPv4Address | IPv6Address
    IPNetwork = IPv4Network | IPv6Network

__all__ = [
    "KEY_SIZE",
    "Device",
    "Endpoint",
    "Peer",
    "configure",
    "family_number",
    "get_family",
    "parse_key",
]

KEY_SIZE = 32

_GENERIC = struct.Struct("=BBxx")  # command, version

_GENL_ID_CTRL = 0x10
_CTRL_CMD_GETFAMILY = 3
_CTRL_ATTR_FAMILY_ID = 1
_CTRL_ATTR_FAMILY_NAME = 2
_FAMILY = struct.Struct("=H")

_WG_CMD_SET_DEVICE = 1
_WG_GENL_VERSION = 1
_WGDEVICE_A_IFINDEX = 1
_WGDEVICE_A_PRIVATE_KEY = 3
_WGDEVICE_A_FLAGS = 5
_WGDEVICE_A_LISTEN_PORT = 6
_WGDEVICE_A_FWMARK = 7
_WGDEVICE_A_PEERS = 8
_WGDEVICE_F_REPLACE_PEERS = 1
_WGPEER_A_PUBLIC_KEY = 1
_WGPEER_A_PRESHARED_KEY = 2
_WGPEER_A_FLAGS = 3
_WGPEER_A_ENDPOINT = 4
_WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL = 5
_WGPEER_A_ALLOWEDIPS = 9
_WGPEER_F_REPLACE_ALLOWEDIPS = 2
_WGALLOWEDIP_A_FAMILY = 1
_WGALLOWEDIP_A_IPADDR = 2
_WGALLOWEDIP_A_CIDR_MASK = 3

# An attribute has less than 64 KiB, so peers and their networks may take several
# messages. 256 networks have 10 KiB.
_LONGEST = 32 << 10
_NETWORKS_AT_ONCE = 256

_PORT = struct.Struct("!H")
_NUMBER16 = struct.Struct("=H")
_SCOPE = struct.Struct("=I")


class Endpoint(NamedTuple):
    """Where a peer is reached.

    Attributes:
        address: Its host's.
        port: UDP.
        scope: Number of the link, for an IPv6 address that is good on one link only.
    """

    address: IPAddress
    port: int
    scope: int = 0


@dataclass(frozen=True)
class Peer:
    """Somebody on the network.

    Attributes:
        public_key: Says who it is.
        preshared_key: A secret besides; None for none.
        endpoint: None: the peer calls us.
        keepalive: Seconds between signs of life; 0 for none.
        networks: What is behind it; whatever else it sends is dropped.
    """

    public_key: bytes
    preshared_key: bytes | None = field(default=None, repr=False)
    endpoint: Endpoint | None = None
    keepalive: int = 0
    networks: tuple[IPNetwork, ...] = ()


@dataclass(frozen=True)
class Device:
    """A link and its peers.

    Attributes:
        private_key: Says who we are.
        port: UDP; 0 for any that is free.
        mark: For the host's routing rules; 0 for none.
        peers: Each with a public key of its own.
    """

    private_key: bytes = field(repr=False)
    port: int = 0
    mark: int = 0
    peers: tuple[Peer, ...] = ()


def parse_key(text: str) -> bytes | None:
    """Return a key that is written as ``wg genkey`` does it; None if it is none."""
    try:
        key = base64.b64decode(text.encode(), validate=True)
    except (ValueError, binascii.Error):
        return None
    # Whatever else decodes to the same key is a misprint.
    return (
        key if len(key) == KEY_SIZE and base64.b64encode(key) == text.encode() else None
    )


def get_family() -> bytes:
    """Return the request for the number of WireGuard's family; see `family_number`."""
    body = _GENERIC.pack(_CTRL_CMD_GETFAMILY, 1)
    return request(_GENL_ID_CTRL, body + attribute(_CTRL_ATTR_FAMILY_NAME, "wireguard"))


def family_number(body: bytes) -> int:
    """Return the number in the answer."""
    found = attributes(body[_GENERIC.size :])[_CTRL_ATTR_FAMILY_ID]
    return int(_FAMILY.unpack(found)[0])


def configure(family: int, index: int, device: Device) -> Iterator[bytes]:
    """Return what makes a link like this; all are to be sent, in turn.

    Args:
        family: See `family_number`.
        index: The link's number.
        device: What it had before is forgotten.
    """
    general = [
        attribute(_WGDEVICE_A_PRIVATE_KEY, device.private_key),
        attribute(_WGDEVICE_A_FLAGS, _WGDEVICE_F_REPLACE_PEERS),
        attribute(_WGDEVICE_A_LISTEN_PORT, _NUMBER16.pack(device.port)),
        attribute(_WGDEVICE_A_FWMARK, device.mark),
    ]
    some: list[bytes] = []
    size = 0
    for entry in _entries(device):
        if some and size + len(entry) > _LONGEST:
            yield _set_device(family, index, general, some)
            general, some, size = [], [], 0
        some.append(entry)
        size += len(entry)
    yield _set_device(family, index, general, some)


def _set_device(
    family: int, index: int, general: list[bytes], peers: list[bytes]
) -> bytes:
    parts = [
        _GENERIC.pack(_WG_CMD_SET_DEVICE, _WG_GENL_VERSION),
        attribute(_WGDEVICE_A_IFINDEX, index),
        *general,
    ]
    if peers:
        parts.append(nest(_WGDEVICE_A_PEERS, *peers))
    return request(family, b"".join(parts), NLM_F_ACK)


def _entries(device: Device) -> Iterator[bytes]:
    """Return each peer as an element of the list, or several that add to each other."""
    for peer in device.peers:
        key = attribute(_WGPEER_A_PUBLIC_KEY, peer.public_key)
        first = [key, *_details(peer)]
        networks = [_network(network) for network in peer.networks]
        yield _peer(first, networks[:_NETWORKS_AT_ONCE])
        for start in range(_NETWORKS_AT_ONCE, len(networks), _NETWORKS_AT_ONCE):
            yield _peer([key], networks[start : start + _NETWORKS_AT_ONCE])


def _peer(about: list[bytes], networks: list[bytes]) -> bytes:
    listed = [nest(_WGPEER_A_ALLOWEDIPS, *networks)] if networks else []
    return nest(0, *about, *listed)


def _details(peer: Peer) -> Iterator[bytes]:
    if peer.preshared_key is not None:
        yield attribute(_WGPEER_A_PRESHARED_KEY, peer.preshared_key)
    yield attribute(_WGPEER_A_FLAGS, _WGPEER_F_REPLACE_ALLOWEDIPS)
    if peer.endpoint is not None:
        yield attribute(_WGPEER_A_ENDPOINT, _socket_address(peer.endpoint))
    seconds = _NUMBER16.pack(peer.keepalive)
    yield attribute(_WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, seconds)


def _socket_address(endpoint: Endpoint) -> bytes:
    """Return a struct sockaddr_in or sockaddr_in6."""
    address, port = endpoint.address, _PORT.pack(endpoint.port)
    if address.version == 4:
        return _FAMILY.pack(socket.AF_INET) + port + address.packed + bytes(8)
    family, flow = _FAMILY.pack(socket.AF_INET6), bytes(4)
    return family + port + flow + address.packed + _SCOPE.pack(endpoint.scope)


def _network(network: IPNetwork) -> bytes:
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    return nest(
        0,
        attribute(_WGALLOWEDIP_A_FAMILY, _FAMILY.pack(family)),
        attribute(_WGALLOWEDIP_A_IPADDR, network.network_address.packed),
        attribute(_WGALLOWEDIP_A_CIDR_MASK, bytes((network.prefixlen,))),
    )
