"""The configuration files of wg-quick, as far as a stack needs them.

Source: wg(8), "CONFIGURATION FILE FORMAT"; wg-quick(8), "CONFIGURATION".
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, NoReturn, TypeVar

from aioioth.errors import ConfigurationError
from aioioth.wire.wireguard import parse_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network

    IPInterface = IPv4Interface | IPv6Interface
    IPNetwork = IPv4Network | IPv6Network

_T = TypeVar("_T")

# What is not a stack's business, or is said otherwise there.
_IGNORED = {"dns", "preup", "postup", "predown", "postdown", "saveconfig"}

_ENDPOINT = re.compile(
    r"(\[(?P<ipv6>[^\[\]]+)\]|(?P<host>[^\[\]:\s]+)):(?P<port>[0-9]{1,5})"
)
_NUMBER = re.compile("[0-9]{1,10}")
_MARK = re.compile("0[xX][0-9a-fA-F]{1,8}")


class Place(NamedTuple):
    """Where a peer is reached: a host's name or address, and a port."""

    host: str
    port: int


@dataclass(eq=False)
class PeerSection:
    """What a ``[Peer]`` says; see `aioioth.wire.wireguard.Peer`."""

    public_key: bytes = b""
    preshared_key: bytes | None = field(default=None, repr=False)
    networks: list[IPNetwork] = field(default_factory=list)
    place: Place | None = None
    keepalive: int = 0


@dataclass(eq=False)
class Configuration:
    """What a file says.

    Attributes:
        private_key: Says who we are.
        port: UDP; 0 for any that is free.
        mark: For the host's routing rules; 0 for none.
        addresses: The stack's.
        mtu: None if it does not say.
        has_routes: Whether what is behind the peers is to be routed there.
        peers: In their order.
        ignored: Settings that were passed over, each once.
    """

    private_key: bytes = field(default=b"", repr=False)
    port: int = 0
    mark: int = 0
    addresses: list[IPInterface] = field(default_factory=list)
    mtu: int | None = None
    has_routes: bool = True
    peers: list[PeerSection] = field(default_factory=list)
    ignored: dict[str, None] = field(default_factory=dict)


def parse(text: str) -> Configuration:
    """Return what a file says.

    Raises:
        ConfigurationError: It makes no sense; with the line's number, and never with a
            key.
    """
    return _Parser().parse(text)


class _Parser:
    """Reads line by line.

    Attributes:
        _number: Of the line.
    """

    def __init__(self) -> None:
        self._found = Configuration()
        self._peer: PeerSection | None = None
        self._keys: set[bytes] = set()
        self._section = ""
        self._number = 0

    def parse(self, text: str) -> Configuration:
        found = self._found
        for self._number, line in enumerate(text.split("\n"), 1):
            meant = line.partition("#")[0].strip()
            if meant.startswith("["):
                self._begin(meant)
            elif meant:
                self._read(meant)
        self._end_section()
        if not found.private_key:
            msg = "expected a PrivateKey in [Interface]"
            raise ConfigurationError(msg)
        return found

    def _begin(self, meant: str) -> None:
        self._end_section()
        self._section = meant.lower()
        if self._section == "[peer]":
            self._peer = PeerSection()
            self._found.peers.append(self._peer)
        elif self._section != "[interface]":
            self._refuse("expected [Interface] or [Peer]")

    def _end_section(self) -> None:
        peer, self._peer = self._peer, None
        if peer is None:
            return
        if not peer.public_key:
            self._refuse("the [Peer] before this has no PublicKey")
        if peer.public_key in self._keys:
            self._refuse("the [Peer] before this is there twice: one section for each")
        self._keys.add(peer.public_key)

    def _read(self, meant: str) -> None:
        name, equals, value = (part.strip() for part in meant.partition("="))
        if not equals:
            self._refuse("expected NAME = VALUE")
        key = name.lower()
        if self._peer is not None:
            self._read_peer(self._peer, key, value)
        elif self._section:
            self._read_interface(key, value)
        else:
            self._refuse("expected [Interface] first")

    def _read_interface(self, key: str, value: str) -> None:
        found = self._found
        if key == "privatekey":
            found.private_key = self._key(value)
        elif key == "listenport":
            found.port = self._integer(value, 0, 65535)
        elif key == "fwmark":
            found.mark = self._mark(value)
        elif key == "address":
            found.addresses += self._list(value, ipaddress.ip_interface)
        elif key == "mtu":
            found.mtu = self._integer(value, 68, 65535)
        elif key == "table":
            if value.lower() not in {"off", "auto"}:
                self._refuse("Table: expected auto or off; a stack has one table")
            found.has_routes = value.lower() == "auto"
        elif key in _IGNORED:
            found.ignored[key] = None
        else:
            self._refuse("this is no setting of an [Interface]: see wg-quick(8)")

    def _read_peer(self, peer: PeerSection, key: str, value: str) -> None:
        if key == "publickey":
            peer.public_key = self._key(value)
        elif key == "presharedkey":
            peer.preshared_key = self._key(value)
        elif key == "allowedips":
            peer.networks += self._list(
                value, lambda text: ipaddress.ip_network(text, strict=False)
            )
        elif key == "endpoint":
            peer.place = self._place(value)
        elif key == "persistentkeepalive":
            off = value.lower() == "off"
            peer.keepalive = 0 if off else self._integer(value, 0, 65535)
        else:
            self._refuse("this is no setting of a [Peer]: see wg(8)")

    def _key(self, value: str) -> bytes:
        key = parse_key(value)
        if key is None:
            self._refuse("expected a key of 44 characters, as 'wg genkey' makes them")
        return key

    def _integer(self, value: str, low: int, high: int) -> int:
        if not (_NUMBER.fullmatch(value) and low <= int(value) <= high):
            self._refuse(f"expected a number from {low} to {high}")
        return int(value)

    def _mark(self, value: str) -> int:
        if value.lower() == "off":
            return 0
        if _MARK.fullmatch(value):
            return int(value, 16)
        return self._integer(value, 0, 0xFFFFFFFF)

    def _list(self, value: str, read: Callable[[str], _T]) -> list[_T]:
        texts = [each.strip() for each in value.split(",")]
        try:
            return [read(each) for each in texts if each]
        except ValueError:
            self._refuse("expected addresses, such as 10.0.0.1/24, with commas between")

    def _place(self, value: str) -> Place:
        match = _ENDPOINT.fullmatch(value)
        if match is None:
            self._refuse("Endpoint: expected HOST:PORT, or [IPV6]:PORT")
        if not 1 <= int(match["port"]) <= 65535:
            self._refuse("Endpoint: expected a port from 1 to 65535")
        return Place(match["ipv6"] or match["host"], int(match["port"]))

    def _refuse(self, reason: str) -> NoReturn:
        msg = f"line {self._number}: {reason}"
        raise ConfigurationError(msg)
