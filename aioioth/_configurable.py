"""What the parts of a stack's interface that change it stand on.

Where things are, from the methods of a stack down to the kernel::

    _addressing, _linkmethods, _configuring    the methods
    _ensuring, _iproute                        change addresses, routes, ...
    _linkmaking, _qdiscs, _sysctls             change links, queues and settings
    _listing, on _dumps                        ask what there is
    _netstate, on _nettables                   follow it as it changes; _ready waits
    iproute, on _said                          values, and the checks of what they say
    _decoding, wire/                           the kernel's messages
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from aioioth._running import Running


class Configurable:
    """A stack, as far as changing it goes.

    All of it belongs to the event loop that the stack was opened on.
    """

    @abstractmethod
    def check_usable(self) -> asyncio.AbstractEventLoop:
        """Return the stack's loop; see `aioioth.Stack.check_usable`."""

    @abstractmethod
    def _own_parts(self) -> Running:
        """Return what the stack consists of."""

    def _usable_parts(self) -> Running:
        """Return the same on its own event loop, and nowhere else."""
        self.check_usable()
        return self._own_parts()
