"""What servers on one interface of a stack have in common."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aioioth._iproute import control_socket
from aioioth._linux import netdevice
from aioioth.errors import ConfigurationError
from aioioth.servers._server import Server

if TYPE_CHECKING:
    from aioioth.abc import Space
    from aioioth.stack import Stack


@dataclass(frozen=True)
class Place:
    """An interface.

    Attributes:
        dev: Its name.
        index: The kernel's number for it.
        mac: Its MAC address, as ``02:00:00:00:00:01``.
    """

    dev: str
    index: int
    mac: str


class LinkServer(Server):
    """Something that answers on one interface of a stack.

    Args:
        stack: Where it listens.
        dev: Name of the interface. None: the stack's first.
    """

    def __init__(self, stack: Stack, dev: str | None) -> None:
        super().__init__(stack)
        self._dev = dev

    def _find_place(self) -> Place:
        """Return the interface as it is now.

        Raises:
            ConfigurationError: There is none, or none of that name.
        """
        known = list(self._stack.interfaces)
        dev = self._dev or next(iter(known), None)
        if dev is None:
            msg = f"{self}: the stack has no interface; give it a VNL"
            raise ConfigurationError(msg)
        try:
            with control_socket(self._space()) as control:
                index = netdevice.interface_index(control, dev)
                return Place(dev, index, netdevice.interface_mac(control, dev))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            there = ", ".join(known) or "none"
            msg = f"{self}: there is no interface {dev!r}; there are: {there}"
            raise ConfigurationError(msg) from None

    def _space(self) -> Space:
        return self._stack._own_parts().space  # noqa: SLF001  (it is ours)
