"""An interface set up with a MAC address, or down: the source ``eth``."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from aioioth import _iproute
from aioioth._autoconf.link_local import ensure_link_local
from aioioth._iproute import control_socket
from aioioth._linux import netdevice
from aioioth.errors import NetlinkError
from aioioth.hashes import eui64_address
from aioioth.iproute import Address

if TYPE_CHECKING:
    from aioioth.abc import Space


def mac_of(space: Space, dev: str) -> str:
    """Return the MAC address that an interface has.

    Raises:
        OSError: There is no such interface.
    """
    with control_socket(space) as control:
        return netdevice.interface_mac(control, dev)


async def set_up(space: Space, dev: str, mac: str | None) -> None:
    """Set an interface up; a new MAC address makes a new link-local address.

    Args:
        space: The stack's.
        dev: Its name.
        mac: None: the one it has.

    Raises:
        NetlinkError: The kernel refused.
    """
    old = mac_of(space, dev)
    is_new = mac not in {None, old}
    had_address = is_new and await _drop_link_local(space, dev, old)
    await _iproute.carry_out(space, [_iproute.set_link(dev, mac=mac, up=True)])
    if had_address:
        await ensure_link_local(space, dev)


async def set_down(space: Space, dev: str) -> None:
    """Set an interface down.

    Raises:
        NetlinkError: The kernel refused.
    """
    await _iproute.carry_out(space, [_iproute.set_link(dev, up=False)])


async def _drop_link_local(space: Space, dev: str, mac: str) -> bool:
    """Take away the address that was made of a MAC address, if there is one."""
    address = Address(f"{eui64_address(mac, 'fe80::')}/64", dev)
    try:
        await _iproute.change_in(space, "del", address)
    except NetlinkError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        return False
    return True
