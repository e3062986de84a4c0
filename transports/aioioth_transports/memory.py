"""``memory://NAME``: a learning switch inside the process, shared by name.

Stacks that give the same name are on the same switch, whatever loop or thread they live
on. The switch exists while anybody is plugged in.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from aioioth.switch import Switch

if TYPE_CHECKING:
    from aioioth.switch import SwitchPort

# Transports hold the switch, so a name is free again when nobody uses it.
_switches: weakref.WeakValueDictionary[str, Switch] = weakref.WeakValueDictionary()


class MemoryTransport:
    """See `aioioth.abc.FrameTransport`; the address is any text, also none."""

    def __init__(self, address: str) -> None:
        self._switch = _switches.setdefault(address, Switch(name=f"memory://{address}"))

    async def open(self, label: str) -> SwitchPort:
        """Return a port of the switch."""
        return await self._switch.open(label)
