"""What a stack is asked to be, checked before anything is done."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aioioth._plugins import load_transport
from aioioth.abc import FrameTransport
from aioioth.errors import ConfigurationError
from aioioth.vnl import parse_vnl

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioioth.abc import Plug

IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# <linux/if.h>: IFNAMSIZ is 16 with the NUL. <linux/if_ether.h>, <net/ipv6.h>.
MAX_NAME = 15
MIN_MTU = 68
MIN_IPV6_MTU = 1280
MAX_MTU = 65517
DEFAULT_MTU = 1500

_MAC = re.compile(r"[0-9a-f]{2}(?:([:-])[0-9a-f]{2})(?:\1[0-9a-f]{2}){4}", re.IGNORECASE)


@dataclass(frozen=True)
class InterfaceSettings:
    """One interface as it shall be.

    Attributes:
        name: Its name in the stack.
        vnl: The network in words; ``""`` for ``lo``.
        transport: The way to the network; None for ``lo``.
        addresses: With their prefix lengths.
        mtu: In bytes, headers not counted; None for what the network carries.
        mac: As ``02:00:00:00:00:01``; None for one that the kernel makes up.
    """

    name: str
    vnl: str
    transport: FrameTransport | None
    addresses: tuple[IPInterface, ...]
    mtu: int | None
    mac: str | None

    def mtu_on(self, plug: Plug) -> int:
        """Return the MTU to set on a network that carries ``plug.mtu``.

        Raises:
            ConfigurationError: More was asked for than the network carries.
        """
        if self.mtu is None:
            return min(DEFAULT_MTU, plug.mtu)
        if self.mtu > plug.mtu:
            msg = f"mtu={self.mtu} for {self.name}: {self.vnl} carries {plug.mtu} at most"
            raise ConfigurationError(msg)
        return self.mtu


@dataclass(frozen=True)
class Gateway:
    """A default route.

    Attributes:
        address: The router's.
        interface: Name of the interface; needed for a link-local address only.
    """

    address: IPAddress
    interface: str | None

    def __str__(self) -> str:
        via = f"via {self.address}"
        return via if self.interface is None else f"{via} dev {self.interface}"


def interface_settings(  # noqa: PLR0913  (one for each keyword of Stack)
    vnls: Sequence[str | FrameTransport], *, ip: Any, mtu: Any, mac: Any
) -> tuple[InterfaceSettings, ...]:
    """Check the interfaces of a stack.

    Args:
        vnls: One for each interface.
        ip: See `aioioth.Stack`.
        mtu: See `aioioth.Stack`.
        mac: See `aioioth.Stack`.

    Returns:
        The settings in the order of ``vnls``, and ``lo`` if it was mentioned.

    Raises:
        ConfigurationError: Something cannot be right.
        UnknownSchemeError: A VNL's scheme is not known.
    """
    networks = _networks(vnls)
    names = [*networks, "lo"]
    first = next(iter(networks), None)
    addresses = _by_interface("ip", ip, names, first, default=())
    mtus = _by_interface("mtu", mtu, names, first, default=None)
    macs = _by_interface("mac", mac, names, first, default=None)
    if not isinstance(mtu, Mapping) and mtu is not None:
        mtus = dict.fromkeys(networks, mtu)  # the one that makes sense for all
    made = []
    for name in names:
        transport = networks.get(name)
        settings = InterfaceSettings(
            name=name,
            vnl="" if transport is None else transport[0],
            transport=None if transport is None else transport[1],
            addresses=tuple(parse_ip(text) for text in _listed(addresses.get(name, ()))),
            mtu=_parse_mtu(mtus.get(name), name),
            mac=_parse_mac(macs.get(name)),
        )
        _check_ipv6_mtu(settings)
        if transport is not None or settings.addresses or settings.mtu or settings.mac:
            made.append(settings)
    return tuple(made)


def gateways(
    gw: Any, interfaces: Sequence[InterfaceSettings]  # noqa: ANN401
) -> tuple[Gateway, ...]:
    """Check the default routes of a stack.

    Raises:
        ConfigurationError: A gateway is not on any interface's network.
    """
    return tuple(_parse_gateway(text, interfaces) for text in _listed(gw))


def parse_ip(text: object) -> IPInterface:
    """Return an address with its prefix length.

    Raises:
        ConfigurationError: It is no address, or has no prefix length.
    """
    if isinstance(text, IPInterface):
        return text
    if not isinstance(text, str):
        msg = f"ip={text!r}: expected a text like '10.0.0.1/24'"
        raise ConfigurationError(msg)
    if "/" not in text:
        example = f"{text}/64" if ":" in text else f"{text}/24"
        msg = f"ip={text!r} has no prefix length: write {example!r} if that is the network"
        raise ConfigurationError(msg)
    try:
        return ipaddress.ip_interface(text)
    except ValueError as error:
        msg = f"ip={text!r} is no IPv4 or IPv6 address with a prefix length: {error}"
        raise ConfigurationError(msg) from None


def check_name(name: str) -> str:
    """Return a name that the kernel takes for an interface.

    Raises:
        ConfigurationError: It is too long, or has characters that the kernel refuses.
    """
    if not 0 < len(name.encode()) <= MAX_NAME:
        msg = f"interface name {name!r}: must have 1 to {MAX_NAME} bytes"
        raise ConfigurationError(msg)
    if name in {".", ".."} or "/" in name or ":" in name or re.search(r"\s", name):
        msg = f"interface name {name!r}: may not have '/', ':' or white space in it"
        raise ConfigurationError(msg)
    return name


def _networks(
    vnls: Iterable[str | FrameTransport],
) -> dict[str, tuple[str, FrameTransport]]:
    networks: dict[str, tuple[str, FrameTransport]] = {}
    for number, vnl in enumerate(vnls):
        name = f"vde{number}"
        if isinstance(vnl, str):
            parsed = parse_vnl(vnl)
            if parsed.interface is not None:
                name = parsed.interface
            transport = load_transport(parsed.scheme)(parsed.address)
            entry = str(parsed), transport
        elif isinstance(vnl, FrameTransport):
            entry = str(vnl), vnl
        else:
            msg = f"{vnl!r}: expected a VNL like 'vde:///tmp/sw', or a Switch"
            raise ConfigurationError(msg)
        if check_name(name) in networks or name == "lo":
            msg = f"interface name {name!r} is used twice; name one: 'eth1:{entry[0]}'"
            raise ConfigurationError(msg)
        networks[name] = entry
    return networks


def _by_interface(
    keyword: str, value: Any, names: list[str], first: str | None, *, default: Any
) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        for name in value:
            if name not in names:
                msg = f"{keyword}: no interface is named {name!r}; there are {names}"
                raise ConfigurationError(msg)
        return value
    if value is None or value == default:
        return {}
    if first is None:
        msg = f"{keyword}={value!r} needs an interface: give the stack a VNL"
        raise ConfigurationError(msg)
    return {first: value}


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, (str, IPInterface, IPAddress)):
        return [value]
    if isinstance(value, Sequence):
        return list(value)
    return [value]


def _parse_mtu(mtu: object, name: str) -> int | None:
    if mtu is None:
        return None
    if not isinstance(mtu, int) or not MIN_MTU <= mtu <= MAX_MTU:
        msg = f"mtu={mtu!r} for {name}: must be {MIN_MTU} to {MAX_MTU} bytes"
        raise ConfigurationError(msg)
    return mtu


def _check_ipv6_mtu(settings: InterfaceSettings) -> None:
    if settings.mtu is None or settings.mtu >= MIN_IPV6_MTU:
        return
    for address in settings.addresses:
        if address.version == 6:
            msg = (
                f"mtu={settings.mtu} for {settings.name}: IPv6 ({address}) needs "
                f"{MIN_IPV6_MTU} at least (RFC 8200)"
            )
            raise ConfigurationError(msg)


def _parse_mac(mac: object) -> str | None:
    if mac is None:
        return None
    if not isinstance(mac, str) or not _MAC.fullmatch(mac):
        msg = f"mac={mac!r}: expected six bytes like '02:00:00:00:00:01'"
        raise ConfigurationError(msg)
    mac = mac.replace("-", ":").lower()
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        msg = f"mac={mac!r}: a multicast or all-zero address cannot be an interface's"
        raise ConfigurationError(msg)
    return mac


def _parse_gateway(text: object, interfaces: Sequence[InterfaceSettings]) -> Gateway:
    bare, _, scope = str(text).partition("%")
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        msg = f"gw={text!r}: expected an IPv4 or IPv6 address without prefix length"
        raise ConfigurationError(msg) from None
    if scope and scope not in [settings.name for settings in interfaces]:
        msg = f"gw={text!r}: the stack has no interface {scope!r}"
        raise ConfigurationError(msg)
    if address.is_link_local and address.version == 6:
        if not scope:
            msg = f"gw={text!r}: say on which interface, for example '{bare}%vde0'"
            raise ConfigurationError(msg)
        return Gateway(address, scope)
    known = [ip.network for settings in interfaces for ip in settings.addresses]
    if not any(address in network for network in known):
        networks = ", ".join(str(network) for network in known) or "none at all"
        msg = f"gw={text!r} is on no network of the stack; it has {networks}"
        raise ConfigurationError(msg)
    return Gateway(address, scope or None)
