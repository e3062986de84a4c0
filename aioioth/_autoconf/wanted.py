"""What an interface's configuration shall be, however it was written down."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aioioth._hosts import check_address, check_domain, listed
from aioioth._ip import IPAddress, IPInterface, parse_ip
from aioioth._said import number
from aioioth._settings import parse_mac
from aioioth.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from typing import Final

    from aioioth._settings import Settings

# In the order in which they are started, and, but for the last, cleared backwards.
ETH, RA, DHCP6, DHCP, STATIC = "eth", "ra", "dhcp6", "dhcp", "static"
SOURCES = (ETH, RA, DHCP6, DHCP, STATIC)


@dataclass(frozen=True)
class Items:
    """What can be said by hand, each as often as one likes.

    Attributes:
        ip: Addresses with prefix length.
        gw: Default routers.
        dns: DNS servers.
        domain: Where names are searched that have no dot in them.
    """

    ip: tuple[IPInterface, ...] = ()
    gw: tuple[IPAddress, ...] = ()
    dns: tuple[IPAddress, ...] = ()
    domain: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.ip or self.gw or self.dns or self.domain)


@dataclass(frozen=True)
class Wanted:
    """A change of an interface's configuration.

    Attributes:
        interface: Its name; None: the stack's first.
        index: Its number, instead.
        start: Sources to ask, from now on; those that are asked already ask again.
        clear: Sources to undo, before that.
        slaac: Whether router advertisements give addresses, too.
        prefix_length: Of a network that DHCPv6 shall delegate; None for none.
        fqdn: The stack's name for these sources; None: as before.
        mac: For ``eth``.
        add: To be there besides what is there.
        remove: Not to be there any more, wherever it was given by hand.
        debug: Whether all that is known is logged then.
    """

    interface: str | None = None
    index: int | None = None
    start: frozenset[str] = frozenset()
    clear: frozenset[str] = frozenset()
    slaac: bool = False
    prefix_length: int | None = None
    fqdn: str | None = None
    mac: str | None = None
    add: Items = field(default_factory=Items)
    remove: Items = field(default_factory=Items)
    debug: bool = False


def _check_ip(value: object) -> IPInterface:
    """Return an address; without a prefix length it is /24, or /64 with IPv6."""
    if isinstance(value, IPAddress):
        value = str(value)
    if isinstance(value, str) and "/" not in value:
        value = f"{value}/{64 if ':' in value else 24}"
    return parse_ip(value)


def _check_router(value: object) -> IPAddress:
    return check_address("gw", value)


def _check_server(value: object) -> IPAddress:
    return check_address("dns", value)


def _check_domain(value: object) -> str:
    return check_domain("domain", value)


ITEMS: Final[Mapping[str, Callable[[object], Any]]] = {
    "ip": _check_ip,
    "gw": _check_router,
    "dns": _check_server,
    "domain": _check_domain,
}


def check_fqdn(value: object) -> str:
    """Return a stack's name in the network, in small letters.

    Hash addresses depend on them, and DNS knows no others.

    Raises:
        ConfigurationError: It cannot be one.
    """
    return check_domain("fqdn", value)


def check_timeout(seconds: object) -> float:
    """Return how long to wait for the network.

    Raises:
        ConfigurationError: It is no time.
    """
    if not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
        msg = f"timeout={seconds!r}: expected seconds to wait; 0 for not at all"
        raise ConfigurationError(msg)
    return seconds


def hostname(name: str) -> str | None:
    """Return a stack's name, if it can be a host's."""
    try:
        return check_domain("name", name)
    except ConfigurationError:
        return None


def from_keywords(  # noqa: PLR0913  (one keyword for each thing that can be chosen)
    *,
    interface: str | None,
    fqdn: str | None,
    mac: str | None,
    switches: Mapping[str, bool | None],
    slaac: bool,
    prefix_length: int | None,
    add: Mapping[str, object],
    remove: Mapping[str, object],
) -> Wanted:
    """Return what the keywords of `aioioth.Stack.configure` say, described there.

    Args:
        interface: As there.
        fqdn: As there.
        mac: As there.
        switches: For each source whether to start it, to clear it, or neither.
        slaac: As in `Wanted`.
        prefix_length: As in `Wanted`.
        add: One value or several of each of `ITEMS`.
        remove: Likewise.

    Raises:
        ConfigurationError: Something cannot be right.
    """
    for source, on in switches.items():
        if on not in {True, False, None}:
            msg = f"{source}={on!r}: must be True, False or None"
            raise ConfigurationError(msg)
    if prefix_length is not None:
        number("prefix_length", prefix_length, 1, 128)
        if not switches[DHCP6]:
            msg = f"prefix_length={prefix_length} is for dhcp6: say dhcp6=True, too"
            raise ConfigurationError(msg)
    if mac is not None and not switches[ETH]:
        msg = f"mac={mac!r} is for eth: say eth=True, too"
        raise ConfigurationError(msg)
    return Wanted(
        interface=interface,
        start=frozenset(source for source, on in switches.items() if on),
        clear=frozenset(source for source, on in switches.items() if on is False),
        slaac=slaac,
        prefix_length=prefix_length,
        fqdn=None if fqdn is None else check_fqdn(fqdn),
        mac=None if mac is None else parse_mac(mac),
        add=_items(add),
        remove=_items(remove),
    )


def _items(said: Mapping[str, object]) -> Items:
    return Items(
        **{
            what: tuple(ITEMS[what](each) for each in listed(values))
            for what, values in said.items()
        }
    )


def at_open(
    names: Sequence[str],
    *,
    dhcp: object,
    dhcp6: object,
    ra: object,
) -> tuple[Wanted, ...]:
    """Return what the keywords of `aioioth.Stack` say, described there.

    Args:
        names: The stack's interfaces.
        dhcp: As there.
        dhcp6: As there.
        ra: As there.

    Raises:
        ConfigurationError: Something cannot be right.
    """
    said = ((DHCP, dhcp), (DHCP6, dhcp6), (RA, ra))
    places = {source: _places(source, value, names) for source, value in said}
    wanted = []
    for dev in names:
        start = frozenset(source for source in places if dev in places[source])
        if start:
            wanted.append(Wanted(interface=dev, start=start, slaac=True))
    return tuple(wanted)


def _places(keyword: str, value: object, names: Sequence[str]) -> Collection[str]:
    """Return the interfaces that a switch is on for."""
    if value is True:
        if not names:
            msg = f"{keyword}=True needs an interface: give the stack a VNL"
            raise ConfigurationError(msg)
        return names[:1]
    if value is False or value is None:
        return ()
    chosen = [value] if isinstance(value, str) else value
    if not isinstance(chosen, (list, tuple, set, frozenset)):
        msg = f"{keyword}={value!r}: expected True, False or names of interfaces"
        raise ConfigurationError(msg)
    for each in chosen:
        if each not in names:
            msg = f"{keyword}: no interface is named {each!r}; there are {list(names)}"
            raise ConfigurationError(msg)
    return chosen


def given(settings: Settings) -> Iterator[tuple[str, Items]]:
    """Yield what a stack was given by hand, for each interface that was given it."""
    for dev in dict.fromkeys(name for name, _ in settings.addresses):
        ips = tuple(ip for name, ip in settings.addresses if name == dev)
        routers = tuple(
            gateway.address
            for gateway in settings.gateways
            if gateway.interface == dev
            or (
                gateway.interface is None
                and any(gateway.address in ip.network for ip in ips)
            )
        )
        yield dev, Items(ips, routers)
