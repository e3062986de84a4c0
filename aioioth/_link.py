"""An interface and its way to a network: device, plug, two pumps, re-attachment."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from aioioth._fork import forget_in_children
from aioioth._linux.sockets import unsent
from aioioth._pump import DEVICE_DROPS, PLUG_DROPS, Counters, Pump
from aioioth.abc import CountsDrops
from aioioth.events import CarrierDown, CarrierUp

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioioth._device import Device
    from aioioth._pump import End
    from aioioth.abc import FrameTransport, Plug
    from aioioth.events import Event

_log = logging.getLogger("aioioth")

# A switch that is restarted by hand is back in a second or two; one that stays away is
# asked every five seconds, each stack at its own moment.
_FIRST_DELAY = 0.1
_LAST_DELAY = 5.0


class Link:
    """Keeps one interface on its network until it is closed.

    Args:
        name: The interface's name.
        label: Who plugs in, for the network's own listings.
        device: The interface's frames. Taken over.
        transport: Opened again whenever the plug breaks.
        plug: The network's frames. Taken over.
        buffer: Shared by the pumps of the loop.
        notify: Called with each event.
    """

    def __init__(  # noqa: PLR0917  (one call site, all wiring)
        self,
        name: str,
        label: str,
        device: Device,
        transport: FrameTransport,
        plug: Plug,
        buffer: memoryview,
        notify: Callable[[Event], None],
    ) -> None:
        self.name = name
        self.device = device
        self.sent: Counters = Counters()
        self.received: Counters = Counters()
        self._label = label
        self._transport = transport
        self._buffer = buffer
        self._notify = notify
        self._loop = asyncio.get_running_loop()
        self._plug: Plug | None = None
        self._pumps: tuple[Pump, ...] = ()
        self._undo = ExitStack()
        self._reattaching: asyncio.Task[None] | None = None
        self._forgotten = False
        self._attach(plug)
        forget_in_children(self)

    def stats(self) -> tuple[Counters, Counters]:
        """Return what was sent and received so far, as it is now."""
        received = replace(self.received, drops=dict(self.received.drops))
        _add_drops(received, self._plug)
        return replace(self.sent, drops=dict(self.sent.drops)), received

    @property
    def device_kind(self) -> str:
        """How its frames come: ``tap`` or ``packet``."""
        return self.device.kind

    @property
    def attached(self) -> bool:
        """Whether the interface is on its network right now."""
        return self._plug is not None

    def flush(self) -> None:
        """Send what the interface has queued, one budget at most."""
        for pump in self._pumps:
            pump.flush()

    def unsent(self) -> int:
        """Return how many bytes the network has not taken yet; 0 if unknown."""
        return 0 if self._plug is None else unsent(self._plug.fileno())

    def close(self) -> None:
        """Leave the network and give the interface up. Idempotent, never raises."""
        if self._reattaching is not None and not self._loop.is_closed():
            self._reattaching.cancel()
        self._undo.close()
        self.device.close()

    def forget_in_child(self) -> None:
        """Close our copies after a fork; the loop's epoll set is the parent's too."""
        self._undo.pop_all()
        for pump in self._pumps:
            pump.forget()
        if self._plug is not None:
            self._plug.close()
        self._plug, self._pumps, self._reattaching = None, (), None
        self._forgotten = True
        self.device.close()

    def _attach(self, plug: Plug) -> None:
        sending = Pump(
            self._loop,
            self.device,
            plug,
            PLUG_DROPS,
            self.sent,
            self._buffer,
            self._on_broken,
        )
        receiving = Pump(
            self._loop,
            plug,
            self.device,
            DEVICE_DROPS,
            self.received,
            self._buffer,
            self._on_broken,
        )
        self._plug, self._pumps = plug, (sending, receiving)
        # Undone in reverse: readers first, then what they read.
        self._undo.callback(self._detached)
        self._undo.callback(plug.close)
        hangup = plug.hangup_fileno()
        if hangup != -1:
            self._loop.add_reader(hangup, self._on_hangup)
            self._undo.callback(self._remove_reader, hangup)
        for pump in self._pumps:
            self._undo.callback(pump.stop)
            pump.start()

    def _detached(self) -> None:
        _add_drops(self.received, self._plug)
        self._plug, self._pumps = None, ()

    def _remove_reader(self, descriptor: int) -> None:
        if not self._loop.is_closed():
            self._loop.remove_reader(descriptor)

    def _on_hangup(self) -> None:
        if not self._forgotten:
            self._lose("the other side has ended")

    def _on_broken(self, end: End, error: OSError) -> None:
        if end is self.device:
            # Somebody deleted the interface; there is nothing to come back to.
            self._undo.close()
            _log.warning("%s: interface %s is gone: %s", self._label, self.name, error)
            self._notify(CarrierDown(self.name, f"the interface is gone: {error}"))
        else:
            self._lose(str(error))

    def _lose(self, cause: str) -> None:
        self._undo.close()
        self._set_carrier(on=False)
        _log.warning("%s: %s lost its network: %s", self._label, self.name, cause)
        self._notify(CarrierDown(self.name, cause))
        self._reattaching = self._loop.create_task(
            self._reattach(), name=f"aioioth: re-attach {self.name} of {self._label}"
        )

    async def _reattach(self) -> None:
        delay = _FIRST_DELAY
        for attempt in itertools.count(1):
            await asyncio.sleep(delay * random.uniform(0.8, 1.2))  # noqa: S311
            delay = min(2 * delay, _LAST_DELAY)
            try:
                plug = await self._transport.open(self._label)
            except OSError as error:  # not there yet, or no descriptors left
                _log.debug("%s: %s: %s", self._label, self.name, error)
                continue
            self._reattaching = None
            self._set_carrier(on=True)
            self._attach(plug)
            _log.info("%s: %s has its network again", self._label, self.name)
            self._notify(CarrierUp(self.name, attempt))
            return

    def _set_carrier(self, *, on: bool) -> None:
        try:
            self.device.set_carrier(on=on)
        except OSError as error:  # the interface was deleted meanwhile
            _log.warning("%s: carrier of %s: %s", self._label, self.name, error)


def _add_drops(received: Counters, plug: object) -> None:
    """Add what the network says that it lost on the way to us."""
    if isinstance(plug, CountsDrops):
        for cause, count in plug.drops.items():
            received.drops[cause] = received.drops.get(cause, 0) + count
