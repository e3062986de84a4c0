"""What a stack is asked to be, checked before anything is done."""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aioioth import _ip
from aioioth._ip import IPAddress, IPInterface, parse_ip
from aioioth.errors import ConfigurationError
from aioioth.networks import find_network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aioioth.abc import FrameTransport, Junction, Plug
    from aioioth.networks import Network

# <linux/if.h>: IFNAMSIZ is 16 with the NUL. <linux/if_ether.h>, <net/ipv6.h>.
MAX_NAME = 15
MIN_MTU = 68
MIN_IPV6_MTU = 1280
MAX_MTU = 65535
DEFAULT_MTU = 1500

_DEVICES = (None, "tap", "packet")

# What the kernel takes and every tool can print: '%' numbers names or begins a scope.
_NAME = re.compile(r"[!-$&-.0-9;-~]+")
_RESERVED = {".", "..", "lo", "all", "default"}


@dataclass(frozen=True, slots=True)
class InterfaceSettings:
    """One interface as it shall be.

    Attributes:
        name: Its name in the stack.
        vnl: Its network in words.
        transport: The way to the network.
        mtu: In bytes, headers not counted; None for what the network carries.
        mac: As ``02:00:00:00:00:01``; None for one that the kernel makes up.
        ipv6: Whether it gets an IPv6 address.
    """

    name: str
    vnl: str
    transport: FrameTransport
    mtu: int | None
    mac: str | None
    ipv6: bool

    def mtu_on(self, way: Plug | Junction) -> int:
        """Return the MTU to set on a network that carries ``way.mtu``.

        Raises:
            ConfigurationError: More was asked for than the network carries.
        """
        if self.mtu is None:
            mtu = min(DEFAULT_MTU, way.mtu)
            return _parse_mtu(mtu, self.name, ipv6=self.ipv6) or mtu
        if self.mtu > way.mtu:
            msg = (
                f"mtu={self.mtu} for {self.name}: {self.vnl} carries {way.mtu} at most"
            )
            raise ConfigurationError(msg)
        return self.mtu


@dataclass(frozen=True, slots=True)
class Gateway:
    """A default route.

    Attributes:
        address: The router's.
        interface: Name of the interface; needed for a link-local address only.
    """

    address: IPAddress
    interface: str | None


@dataclass(frozen=True, slots=True)
class Settings:
    """A stack as it shall be.

    Attributes:
        interfaces: Without ``lo``, which is always there.
        addresses: Interface name and address.
        gateways: Default routes.
        device: ``tap``, ``packet``, or None for what works.
    """

    interfaces: tuple[InterfaceSettings, ...]
    addresses: tuple[tuple[str, IPInterface], ...]
    gateways: tuple[Gateway, ...]
    device: str | None

    @classmethod
    def check(
        cls,
        vnls: Sequence[object],
        *,
        ip: object,
        gw: object,
        mtu: object,
        mac: object,
        device: str | None,
    ) -> Settings:
        """Check the arguments of `aioioth.Stack`, where they are described.

        Raises:
            ConfigurationError: Something cannot be right.
            UnknownSchemeError: A VNL's scheme is not known.
        """
        if device not in _DEVICES:
            msg = f"device={device!r}: must be 'tap', 'packet' or None"
            raise ConfigurationError(msg)
        return cls._of(_networks(vnls), ip=ip, gw=gw, mtu=mtu, mac=mac, device=device)

    @classmethod
    def check_added(
        cls,
        vnl: object,
        name: str | None,
        *,
        ip: object,
        mtu: object,
        mac: object,
        is_taken: Callable[[str], bool],
    ) -> Settings:
        """Check the arguments of `aioioth.Stack.add_interface`, described there.

        Besides them, ``is_taken`` tells whether the stack has an interface of a name.

        Raises:
            ConfigurationError: Something cannot be right.
            UnknownSchemeError: A VNL's scheme is not known.
        """
        found = find_network(vnl)
        if None not in {name, found.interface} and name != found.interface:
            msg = f"name={name!r}: the VNL says {found.interface!r}; leave one out"
            raise ConfigurationError(msg)
        name = name if name is not None else found.interface
        if name is None:
            numbered = (f"vde{number}" for number in itertools.count())
            name = next(each for each in numbered if not is_taken(each))
        if is_taken(check_name(name)):
            msg = f"interface name {name!r} is used already; take another"
            raise ConfigurationError(msg)
        return cls._of({name: found}, ip=ip, gw=(), mtu=mtu, mac=mac, device=None)

    @classmethod
    def _of(
        cls,
        networks: Mapping[str, Network],
        *,
        ip: object,
        gw: object,
        mtu: object,
        mac: object,
        device: str | None,
    ) -> Settings:
        names = list(networks)
        addresses = tuple(
            (name, parse_ip(text))
            for name, texts in _by_interface("ip", ip, names, lo=True).items()
            for text in _listed(texts)
        )
        with_ipv6 = {name for name, address in addresses if address.version == 6}
        mtus = _by_interface("mtu", mtu, names)
        if mtus and not isinstance(mtu, Mapping):
            mtus = dict.fromkeys(names, mtu)  # one for all, as users mean it
        macs = _by_interface("mac", mac, names)
        interfaces = tuple(
            InterfaceSettings(
                name=name,
                vnl=network.vnl,
                transport=network.transport,
                mtu=_parse_mtu(mtus.get(name), name, ipv6=name in with_ipv6),
                mac=None if macs.get(name) is None else parse_mac(macs[name]),
                ipv6=name in with_ipv6,
            )
            for name, network in networks.items()
        )
        gateways = tuple(_parse_gateway(each, names, addresses) for each in _listed(gw))
        if len({gateway.address.version for gateway in gateways}) < len(gateways):
            msg = f"gw={gw!r}: one for IPv4 and one for IPv6; others with add_route()"
            raise ConfigurationError(msg)
        return cls(interfaces, addresses, gateways, device)


def check_name(name: str) -> str:
    """Return a name that the kernel takes for an interface.

    Raises:
        ConfigurationError: It is too long, or has characters that the kernel refuses.
    """
    if not 0 < len(name) <= MAX_NAME:
        msg = f"interface name {name!r}: must have 1 to {MAX_NAME} characters"
        raise ConfigurationError(msg)
    if not _NAME.fullmatch(name):
        msg = (
            f"interface name {name!r}: must be ASCII, without '/', ':', '%' and spaces"
        )
        raise ConfigurationError(msg)
    if name in _RESERVED:
        msg = f"interface name {name!r} has a meaning of its own; take another"
        raise ConfigurationError(msg)
    return name


def _networks(
    vnls: Iterable[object],
) -> dict[str, Network]:
    networks: dict[str, Network] = {}
    for number, vnl in enumerate(vnls):
        found = find_network(vnl)
        name = found.interface or f"vde{number}"
        if check_name(name) in networks:
            msg = f"interface name {name!r} is used twice; name one: 'eth1:{found.vnl}'"
            raise ConfigurationError(msg)
        networks[name] = found
    return networks


def _by_interface(
    keyword: str, value: object, names: list[str], *, lo: bool = False
) -> Mapping[str, object]:
    """Return a value for each interface; one that is no mapping is the first one's."""
    if isinstance(value, Mapping):
        known = [*names, "lo"] if lo else names
        for name in value:
            if name not in known:
                msg = f"{keyword}: no interface is named {name!r}; there are {known}"
                raise ConfigurationError(msg)
        return value
    if value is None or (value != "" and not _listed(value)):
        return {}
    if not names:
        msg = f"{keyword}={value!r} needs an interface: give the stack a VNL"
        raise ConfigurationError(msg)
    return {names[0]: value}


def _listed(value: object) -> Sequence[object]:
    if value is None:
        return ()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return value
    return (value,)


def _parse_mtu(mtu: object, name: str, *, ipv6: bool) -> int | None:
    if mtu is None:
        return None
    if not isinstance(mtu, int) or not MIN_MTU <= mtu <= MAX_MTU:
        msg = f"mtu={mtu!r} for {name}: must be {MIN_MTU} to {MAX_MTU} bytes"
        raise ConfigurationError(msg)
    if ipv6 and mtu < MIN_IPV6_MTU:
        msg = f"mtu={mtu} for {name}: IPv6 needs {MIN_IPV6_MTU} at least (RFC 8200)"
        raise ConfigurationError(msg)
    return mtu


def parse_mac(mac: object) -> str:
    """Return a MAC address that an interface can have.

    Raises:
        ConfigurationError: It is none, or a group's.
    """
    mac = _ip.parse_mac(mac)
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        msg = f"mac={mac!r}: a multicast or all-zero address cannot be an interface's"
        raise ConfigurationError(msg)
    return mac


def _parse_gateway(
    text: object, names: list[str], addresses: Iterable[tuple[str, IPInterface]]
) -> Gateway:
    bare, _, scope = str(text).partition("%")
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        msg = f"gw={text!r}: expected an IPv4 or IPv6 address without prefix length"
        raise ConfigurationError(msg) from None
    if scope and scope not in names:
        msg = f"gw={text!r}: no interface is named {scope!r}; there are {names}"
        raise ConfigurationError(msg)
    if address.version == 6 and address.is_link_local:
        if not scope:
            msg = f"gw={text!r}: say on which interface, for example '{bare}%vde0'"
            raise ConfigurationError(msg)
        return Gateway(address, scope)
    known = [interface.network for _, interface in addresses]
    if not any(address in network for network in known):
        networks = ", ".join(str(network) for network in known) or "none at all"
        msg = f"gw={text!r} is on no network of the stack; it has {networks}"
        raise ConfigurationError(msg)
    return Gateway(address, scope or None)
