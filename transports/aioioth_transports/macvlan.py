"""``macvlan://PARENT[mode=MODE]``: one more address on a link, by the kernel's engine.

The stack is on the LAN behind PARENT, such as ``eth0``, and no frame enters the
program. Modes: ``bridge`` (the default: stacks on the same parent reach each other,
too), ``private`` (they do not), ``vepa`` (they do if the switch outside sends frames
back to where they came from), and ``passthru`` (one stack has the parent for itself,
and its MAC address: ``mac=`` does not count then).

The host cannot be reached through its own link, nor the stack by the host. Switches
and access points may refuse what has another address than the host: most WLANs do, and
clouds.

It takes root (CAP_NET_ADMIN). Where frames are wanted, as for a `Cable`, it is
``pcap://PARENT``: the same LAN, without the other stacks on the parent.

Source: drivers/net/macvlan.c, Linux 6.1; ip-link(8).
"""

from __future__ import annotations

import errno
import re
import socket
import struct
from functools import partial
from typing import TYPE_CHECKING

from aioioth.errors import BrokenTransportError
from aioioth.vnl import parse_bracket
from aioioth.wire.hostlinks import MACVLAN_MODES, macvlan
from aioioth_transports._hostlink import HostLinkJunction, Recipe, require_privilege
from aioioth_transports._sockets import (
    hardware_address,
    interface_index,
    interface_mtu,
    interface_name,
)
from aioioth_transports.pcap import PcapTransport

if TYPE_CHECKING:
    from aioioth_transports.pcap import PcapPlug

# <linux/if_arp.h>, Linux 6.1
_ARPHRD_ETHER = 1
_KIND = struct.Struct("=H")


class MacvlanTransport:
    """See `aioioth.abc.KernelTransport`.

    Args:
        address: ``PARENT[mode=MODE]``.

    Raises:
        VnlError: The parent cannot be an interface, or there is no such mode.
    """

    def __init__(self, address: str) -> None:
        parsed = parse_bracket(address, options=("mode",))
        self._parent = interface_name(parsed, example="macvlan://eth0")
        self._mode = parsed.options.get("mode", "bridge")
        if self._mode not in MACVLAN_MODES:
            parsed.refuse("mode", f"mode: expected one of {', '.join(MACVLAN_MODES)}")
        self._vnl = f"macvlan://{address}"

    async def join(self, label: str, /) -> HostLinkJunction:
        """Find the parent; see `aioioth.abc.KernelTransport.join`.

        Raises:
            MissingPrivilegeError: Links of the host may not be made.
            BrokenTransportError: There is no such parent, or it is no Ethernet.
        """
        parent = self._parent
        require_privilege(
            f"making a macvlan of {parent}",
            "Without, take macvtap:// on an interface that root made for you, or "
            "bridge:// between stacks of this machine.",
        )
        index, mtu = self._find_parent()
        recipe = Recipe(
            kind="macvlan",
            words=f"link {parent} type macvlan mode {self._mode}",
            make=partial(macvlan, parent=index, mode=self._mode),
            mtu=mtu,
            has_mac=self._mode != "passthru",
            reasons={
                errno.ENODEV: f"{parent} is gone",
                errno.EBUSY: f"{parent} is a port of a bridge or bond: take that one",
                errno.EADDRINUSE: f"something on {parent} has that MAC address already",
                errno.EINVAL: self._single(),
            },
            passing={errno.EADDRINUSE, errno.EINVAL},
        )
        return HostLinkJunction(recipe)

    async def open(self, label: str) -> PcapPlug:
        """Open the LAN as frames; see `aioioth.abc.FrameTransport.open`.

        Raises:
            BrokenTransportError: See `aioioth_transports.pcap.PcapTransport.open`.
        """
        literal = re.sub(r"""(['"\\%\[])""", r"\\\1", self._parent)
        return await PcapTransport(literal).open(label)

    def _find_parent(self) -> tuple[int, int]:
        """Return its number and MTU."""
        name = self._parent
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            try:
                index = interface_index(any_socket, name)
                mtu = interface_mtu(any_socket, name)
                address = hardware_address(any_socket.fileno(), name)
            except OSError as error:
                reason = f"there is no interface {name!r}: see 'ip link'"
                raise BrokenTransportError(
                    self._vnl, reason, errno=error.errno
                ) from error
        if _KIND.unpack_from(address)[0] != _ARPHRD_ETHER:
            reason = f"{name} is no Ethernet, which macvlan needs: see 'ip link'"
            raise BrokenTransportError(self._vnl, reason, errno=errno.EINVAL)
        return index, mtu

    def _single(self) -> str:
        if self._mode == "passthru":
            return f"{self._parent} has macvlans already, and passthru wants it alone"
        return f"somebody has {self._parent} alone (mode passthru)"
