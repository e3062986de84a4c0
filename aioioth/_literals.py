"""Which hosts are names, that somebody has to be asked about."""

from __future__ import annotations

import ipaddress

# What the socket module takes for INADDR_ANY and INADDR_BROADCAST.
_SPECIAL = {"", "<broadcast>"}


def is_name(host: object) -> bool:
    """Tell whether ``host`` has to be looked up; addresses and None have not."""
    if isinstance(host, (bytes, bytearray)):
        host = bytes(host).decode("ascii", "replace")
    if not isinstance(host, str) or host in _SPECIAL:
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False
