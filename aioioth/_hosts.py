"""A stack's own ``/etc/hosts``, and what may stand in it."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from typing_extensions import override

from aioioth import _names
from aioioth._ip import IPAddress, IPInterface
from aioioth._names import AddressInfo, Request
from aioioth.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

HostAddresses = str | IPAddress | Sequence[str | IPAddress]

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_MAX_NAME = 253  # RFC 1035 section 2.3.4, in text


class Hosts(MutableMapping[str, HostAddresses]):
    """A table of names and their addresses, as ``/etc/hosts`` is one.

    ``hosts["db"] = "10.0.0.5"``, or a list; ``hosts["db"]`` is then a tuple of
    `ipaddress` objects. Case and a dot at the end make no difference. May be changed
    any time, from any thread, and given to several stacks: they all see the change.

    Args:
        names: What is in it from the beginning.

    Raises:
        ConfigurationError: A name or an address cannot be right.
    """

    def __init__(self, names: Mapping[str, HostAddresses] | None = None) -> None:
        self._addresses: dict[str, tuple[IPAddress, ...]] = {}
        if names is not None:
            self.update(names)

    @override
    def __getitem__(self, name: str) -> tuple[IPAddress, ...]:
        return self._addresses[_key(name)]

    @override
    def __setitem__(self, name: str, value: HostAddresses) -> None:
        self._addresses[_check_name(name)] = _check_addresses(name, value)

    @override
    def __delitem__(self, name: str) -> None:
        del self._addresses[_key(name)]

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(list(self._addresses))

    @override
    def __len__(self) -> int:
        return len(self._addresses)

    @override
    def __repr__(self) -> str:
        shown = {name: list(map(str, each)) for name, each in self._items()}
        return f"Hosts({shown!r})"

    def _items(self) -> list[tuple[str, tuple[IPAddress, ...]]]:
        return list(self._addresses.items())

    def name_of(self, address: IPAddress) -> str | None:
        """Return the first name that has the address; None if there is none."""
        names = (name for name, each in self._items() if address in each)
        return next(names, None)

    def render(self) -> str:
        """Return it as the lines of a file ``/etc/hosts``, ``localhost`` first."""
        lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
        for name, each in self._items():
            lines += [f"{address}\t{name}" for address in each]
        return "\n".join(lines) + "\n"


def as_hosts(value: object) -> Hosts:
    """Return a table as it is, another mapping's copy, or an empty one for None.

    Raises:
        ConfigurationError: It is nothing like it, or a name or address cannot be right.
    """
    if isinstance(value, Hosts):
        return value
    if value is None or isinstance(value, Mapping):
        return Hosts(value)
    msg = f"hosts={value!r}: expected a mapping like {{'db': '10.0.0.5'}}, or Hosts"
    raise ConfigurationError(msg)


def _key(name: str) -> str:
    """Return what a name is kept under.

    Raises:
        KeyError: It is no name that could be kept.
    """
    try:
        return _names.fold(name.encode("idna").decode())
    except (AttributeError, UnicodeError):
        raise KeyError(name) from None


def _check_name(name: object) -> str:
    if not isinstance(name, str):
        msg = f"hosts: {name!r} is no name; write a text like 'db' or 'db.example'"
        raise ConfigurationError(msg)
    folded = check_domain("hosts", name)
    if _names.loopback(folded):
        msg = f"hosts: {name!r} is always the stack's own loopback; take another name"
        raise ConfigurationError(msg)
    if _parsed(folded) is not None:
        msg = f"hosts: {name!r} is an address; write the name first: {{'db': {name!r}}}"
        raise ConfigurationError(msg)
    return folded


def check_domain(keyword: str, name: object) -> str:
    """Return a name as it is compared, IDNA done.

    Raises:
        ConfigurationError: It cannot be a host's or a domain's.
    """
    problem = f"{keyword}: {name!r} is no name; write one like 'example.org'"
    try:
        folded = _names.fold(str(name).encode("idna").decode())
    except UnicodeError:
        raise ConfigurationError(problem) from None
    labels = folded.split(".")
    if len(folded) > _MAX_NAME or not all(map(_LABEL.fullmatch, labels)):
        raise ConfigurationError(problem)
    return folded


def _check_addresses(name: str, value: object) -> tuple[IPAddress, ...]:
    keyword = f"hosts[{name!r}]"
    found = dict.fromkeys(check_address(keyword, each) for each in listed(value))
    if not found:
        msg = f"{keyword}: give it an address, or leave the name out"
        raise ConfigurationError(msg)
    return tuple(found)


def check_address(keyword: str, value: object) -> IPAddress:
    """Return an address.

    Raises:
        ConfigurationError: It is none.
    """
    if isinstance(value, IPInterface):
        return value.ip
    if isinstance(value, IPAddress):
        return value
    if isinstance(value, str):  # ipaddress takes numbers and bytes, too
        with suppress(ValueError):
            return ipaddress.ip_address(value)
    msg = f"{keyword}: {value!r} is no address; write one like '10.0.0.5' or 'fd00::5'"
    raise ConfigurationError(msg)


def _parsed(text: str) -> list[AddressInfo] | None:
    def no_index(name: str) -> int:
        raise OSError(name)

    try:
        outcome = _names.parse(text, None, interface_index=no_index)
    except socket.gaierror:
        return None
    return None if isinstance(outcome, Request) else outcome


def listed(value: object) -> Sequence[object]:
    """Return one thing as a list of it, None as an empty one."""
    if value is None:
        return ()
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return value
    return (value,)
