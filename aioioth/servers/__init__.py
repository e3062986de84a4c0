"""Servers for test and small networks, each an async context manager on a stack.

* `Lan`: a whole network: all of them, and names for those who join
* `Dhcp4Server`, `Dhcp6Server`: addresses for a while
* `RouterAdvertiser`: IPv6 routers' advertisements
* `DnsServer`: names: given, made of hashes, or asked of others

A module is imported when one of its names is asked for: dnspython takes its time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aioioth.servers.dhcp4 import Dhcp4Server
    from aioioth.servers.dhcp6 import Dhcp6Server
    from aioioth.servers.dns import DnsServer
    from aioioth.servers.lan import Lan
    from aioioth.servers.ra import RouterAdvertiser

__all__ = ["Dhcp4Server", "Dhcp6Server", "DnsServer", "Lan", "RouterAdvertiser"]

_MODULES = {
    "Dhcp4Server": "dhcp4",
    "Dhcp6Server": "dhcp6",
    "DnsServer": "dns",
    "Lan": "lan",
    "RouterAdvertiser": "ra",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  (whatever it is)
    if name not in _MODULES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    return getattr(module, name)
