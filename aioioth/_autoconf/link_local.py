"""The address that an interface needs before it can speak of any other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioioth import _iproute
from aioioth._linux import netdevice

if TYPE_CHECKING:
    from aioioth.abc import Space

__all__ = ["ensure_link_local"]


async def ensure_link_local(space: Space, dev: str) -> None:
    """Give an interface its link-local address, if it has lost or never had it.

    Args:
        space: The stack's.
        dev: Name of the interface.

    Raises:
        OSError: There is no such interface (any more).
        NetlinkError: The kernel refused.
    """
    with _iproute.control_socket(space) as control:
        index = netdevice.interface_index(control, dev)
        mac = netdevice.interface_mac(control, dev)
        is_up = netdevice.interface_is_up(control, dev)
    requests = _iproute.add_link_local(dev, index, mac, is_up=is_up)
    await _iproute.carry_out(space, requests)
