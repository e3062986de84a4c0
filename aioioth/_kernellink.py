"""An interface that the kernel itself connects to its network."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from typing_extensions import override

from aioioth._kernelcount import count
from aioioth.errors import ClosedError, WrongLoopError
from aioioth.events import CarrierDown, CarrierUp

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioioth._namespace import Namespace
    from aioioth._pump import Counters
    from aioioth.abc import Junction
    from aioioth.events import Event


class KernelLink:
    """The counterpart of a `aioioth._link.Link` where no frame enters the program.

    Args:
        name: The interface's name.
        label: Whose it is, for messages.
        space: The stack's namespace; stays the stack's.
        junction: Its place in the network. Taken over.
        notify: Called with each event.
    """

    __slots__ = (
        "_changing",
        "_closed",
        "_junction",
        "_label",
        "_loop",
        "_notify",
        "_process",
        "_space",
        "attached",
        "name",
    )

    def __init__(
        self,
        name: str,
        label: str,
        space: Namespace,
        junction: Junction,
        notify: Callable[[Event], None],
    ) -> None:
        self.name: str = name
        self.attached: bool = True
        self._label = label
        self._space = space
        self._junction = junction
        self._notify = notify
        self._loop = asyncio.get_running_loop()
        self._process = os.getpid()
        self._changing = asyncio.Lock()
        self._closed = False

    @property
    def device_kind(self) -> str:
        """What the interface is for the kernel: ``veth``, for example."""
        return self._junction.kind

    def stats(self) -> tuple[Counters, Counters]:
        """Return what was sent and received so far, by the kernel's count."""
        return count(self._space, self.name)

    async def set_carrier(self, *, on: bool) -> None:
        """Plug the cable in or out; see `aioioth.Interface.set_carrier`."""
        self._check_usable()
        async with self._changing:
            self._check_usable()
            if on == self.attached:
                return
            await self._junction.set_carrier(on=on)
            self._check_usable()
            self.attached = on
        self._notify(
            CarrierUp(self.name, 1) if on else CarrierDown(self.name, "pulled out")
        )

    def flush(self) -> None:
        """Do nothing: what was sent is on the network; see `aioioth._drain`."""

    def unsent(self) -> int:
        """Return 0; see `aioioth._drain`."""
        return 0

    def leave(self) -> None:
        """Leave the network for good and let the interface be. Idempotent."""
        self._closed = True
        self.attached = False
        self._junction.close()

    def close(self) -> None:
        """Leave the network. Idempotent, never raises."""
        self.leave()

    def _check_usable(self) -> None:
        if self._process != os.getpid():
            raise WrongLoopError(str(self), forked=True)
        if self._closed:
            raise ClosedError(str(self))
        if asyncio.get_running_loop() is not self._loop:
            raise WrongLoopError(str(self))

    @override
    def __str__(self) -> str:
        return f"interface {self.name} of {self._label}"
