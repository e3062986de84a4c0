"""An interface whose frames another process carries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioioth._iproute import control_socket
from aioioth._kernelcount import count
from aioioth._linux import netdevice
from aioioth.errors import ConfigurationError

if TYPE_CHECKING:
    from aioioth._namespace import Namespace
    from aioioth._pump import Counters
    from aioioth._sharing import SharedInterface


class RemoteLink:
    """What can be said of it here, in place of a `aioioth._link.Link`.

    Args:
        interface: What its owner says.
        space: The namespace that it is in.
    """

    def __init__(self, interface: SharedInterface, space: Namespace) -> None:
        self._name = interface.name
        self._space = space
        self.device_kind: str = interface.device

    @property
    def attached(self) -> bool:
        """Whether it has a carrier, which its owner takes away with the network."""
        with control_socket(self._space) as sock:
            return netdevice.has_carrier(sock, self._name)

    async def set_carrier(self, *, on: bool) -> None:
        """Refuse; see `aioioth.Interface.set_carrier`.

        Raises:
            ConfigurationError: Always.
        """
        what = "plugged in" if on else "pulled out"
        msg = f"{self._name} can only be {what} by the process that made the stack"
        raise ConfigurationError(msg)

    def stats(self) -> tuple[Counters, Counters]:
        """Return what was sent and received so far, by the kernel's count."""
        return count(self._space, self._name)
