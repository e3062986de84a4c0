"""Addresses, networks and MAC addresses as users write them."""

from __future__ import annotations

import ipaddress
import re

from aioioth.errors import ConfigurationError

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAC = re.compile(
    r"[0-9a-f]{2}(?:([:-])[0-9a-f]{2})(?:\1[0-9a-f]{2}){4}", re.IGNORECASE
)


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
        msg = f"ip={text!r} has no prefix length: write {example!r}, say"
        raise ConfigurationError(msg)
    try:
        return ipaddress.ip_interface(text)
    except ValueError as error:
        msg = f"ip={text!r} is no IPv4 or IPv6 address with a prefix length: {error}"
        raise ConfigurationError(msg) from None


def parse_address(what: str, text: object) -> IPAddress:
    """Return an address.

    Raises:
        ConfigurationError: It is none; the message begins with ``what``.
    """
    if isinstance(text, IPInterface):
        return text.ip
    if isinstance(text, IPAddress):
        return text
    try:
        return ipaddress.ip_address(text if isinstance(text, str) else repr(text))
    except ValueError as error:
        msg = f"{what} {text!r}: {error}"
        raise ConfigurationError(msg) from None


def parse_network(what: str, text: object) -> IPNetwork:
    """Return a network.

    Raises:
        ConfigurationError: It is none; the message begins with ``what``.
    """
    if isinstance(text, IPNetwork):
        return text
    try:
        return ipaddress.ip_network(text if isinstance(text, str) else repr(text))
    except ValueError as error:
        msg = f"{what} {text!r} is no network: {error}"
        raise ConfigurationError(msg) from None


def parse_mac(text: object) -> str:
    """Return a MAC address, written as ``02:00:00:00:00:01``.

    Raises:
        ConfigurationError: It is none.
    """
    if not isinstance(text, str) or not _MAC.fullmatch(text):
        msg = f"mac={text!r}: expected six bytes like '02:00:00:00:00:01'"
        raise ConfigurationError(msg)
    return text.replace("-", ":").lower()
