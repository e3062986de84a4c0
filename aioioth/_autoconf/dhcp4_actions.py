"""What the DHCPv4 client's machine wants to be done, and where it is.

Source: RFC 2131 section 4.4.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aioioth._autoconf.dhcp4_lease import Lease
    from aioioth.wire.dhcp4 import Message

_NOBODY = IPv4Address(0)


class State(enum.Enum):
    """Of a client, as in RFC 2131 figure 5."""

    INIT = enum.auto()  # waiting before it begins (again)
    SELECTING = enum.auto()
    REQUESTING = enum.auto()
    PROBING = enum.auto()  # not there: a part of what comes before BOUND
    BOUND = enum.auto()
    RENEWING = enum.auto()
    REBINDING = enum.auto()
    REBOOTING = enum.auto()  # it has an address, and asks if it may keep it


@dataclass(frozen=True)
class Send:
    """Send a message.

    Attributes:
        message: What.
        source: Our address; 0.0.0.0 if we have none.
        server: To whom; None: to everybody on the link.
    """

    message: Message
    source: IPv4Address = _NOBODY
    server: IPv4Address | None = None


@dataclass(frozen=True)
class Probe:
    """Ask once, by ARP, whether anybody has an address."""

    address: IPv4Address


@dataclass(frozen=True)
class Bind:
    """Use a lease, in place of another one if there is any."""

    lease: Lease


@dataclass(frozen=True)
class Lose:
    """Stop using the lease.

    Attributes:
        cause: Why, in words.
    """

    cause: str


Action = Send | Probe | Bind | Lose
