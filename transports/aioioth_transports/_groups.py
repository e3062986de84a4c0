"""UNIX groups, as options name them."""

from __future__ import annotations

import grp
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aioioth.vnl import Address


def find_group(address: Address, option: str) -> int | None:
    """Return the number of the group that an option names; None without the option.

    Raises:
        VnlError: This system has no such group.
    """
    name = address.options.get(option)
    if name is None:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        address.refuse(option, f"{option}: this system has no group {name!r}")
