"""How far a stack has configured itself: what `aioioth.Stack.configure` returns."""

from __future__ import annotations

from enum import Flag

__all__ = ["Achieved"]


class Achieved(Flag):
    """The sources of configuration that have done their work.

    The values are those of VirtualSquare's ``ioth_config()``.
    """

    NOTHING = 0
    #: Addresses, routes and DNS servers that were given.
    STATIC = 1
    #: The interface has its MAC address, and is up.
    ETH = 2
    #: A DHCP server leased an IPv4 address.
    DHCP = 4
    #: A DHCPv6 server gave addresses, or told its DNS servers.
    DHCP6 = 8
    #: A router advertised itself.
    RA = 16
