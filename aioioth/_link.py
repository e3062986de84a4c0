"""An interface and its way to a network: a device, an attachment, two pumps."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from typing_extensions import override

from aioioth import _speedups
from aioioth._attachment import Attachment
from aioioth._fork import forget_in_children
from aioioth._linux.sockets import unsent
from aioioth._pump import DEVICE_DROPS, PLUG_DROPS, Counters, Pump
from aioioth.abc import CarriesOffloads, FrameSocket
from aioioth.errors import ClosedError, WrongLoopError
from aioioth.events import CarrierDown, CarrierUp

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioioth._device import Device
    from aioioth._pump import End
    from aioioth.abc import FrameTransport, Plug
    from aioioth.events import Event

_log = logging.getLogger("aioioth")


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
        self._buffer = buffer
        self._notify = notify
        self._loop = asyncio.get_running_loop()
        self._pumps: tuple[Pump, ...] = ()
        self._carrier = True
        self._pulled_out = False
        # Why it is of no use any more, and for whom.
        self._end: Callable[[], Exception] | None = None
        self._changing = asyncio.Lock()
        self._attachment = Attachment(name, label, transport, self)
        self._attachment.attach(plug)
        forget_in_children(self)

    def stats(self) -> tuple[Counters, Counters]:
        """Return what was sent and received so far, as it is now."""
        drops = self._attachment.drops()
        drops.update(self.received.drops)
        received = replace(self.received, drops=dict(drops))
        return replace(self.sent, drops=dict(self.sent.drops)), received

    @property
    def device_kind(self) -> str:
        """How its frames come: ``tap`` or ``packet``."""
        return self.device.kind

    @property
    def attached(self) -> bool:
        """Whether the interface is on its network right now."""
        return self._attachment.plug is not None

    async def set_carrier(self, *, on: bool) -> None:
        """Plug the cable in or out; see `aioioth.Interface.set_carrier`."""
        self._check_usable()
        async with self._changing:
            self._check_usable()
            if on != self._pulled_out:
                return
            if on:
                await self._attachment.plug_in()
                self._pulled_out = False
                self._notify(CarrierUp(self.name, 1))
                return
            self._pulled_out = True
            had_carrier = self._carrier
            self._attachment.pull_out()
            self._set_carrier(on=False)
            if had_carrier:
                self._notify(CarrierDown(self.name, "pulled out"))

    def flush(self) -> None:
        """Send what the interface has queued, one budget at most."""
        for pump in self._pumps:
            pump.flush()

    def unsent(self) -> int:
        """Return how many bytes the network has not taken yet; 0 if unknown."""
        plug = self._attachment.plug
        return 0 if plug is None else unsent(plug.fileno())

    def leave(self) -> None:
        """Leave the network for good and let the device be. Idempotent."""
        if self._end is None:
            self._end = self._is_closed
        self._attachment.close()

    def close(self) -> None:
        """Leave the network and give the interface up. Idempotent, never raises."""
        self.leave()
        self.device.close()

    def forget_in_child(self) -> None:
        """Close our copies after a fork; the loop's epoll set is the parent's too."""
        for pump in self._pumps:
            pump.forget()
        self._pumps = ()
        self._end = self._is_the_parents
        self._attachment.forget_in_child()
        self.device.close()

    # What the attachment tells

    def plugged(self, plug: Plug) -> None:
        """Move frames both ways; see `aioioth._attachment.Owner`."""
        compiled = isinstance(plug, FrameSocket) and _speedups.are_there()
        offloads = self._set_offloads(on=compiled or isinstance(plug, CarriesOffloads))
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
        self._pumps = sending, receiving
        if offloads and isinstance(plug, CarriesOffloads):
            self._carry_offloads(plug, receiving)
        elif offloads and isinstance(plug, FrameSocket):
            self._speed_up(plug.frame_socket(), plug.mtu)
        self._set_carrier(on=True)
        for pump in self._pumps:
            pump.start()

    def unplugged(self, _: Plug) -> None:
        """Move no frames; see `aioioth._attachment.Owner`."""
        for pump in self._pumps:
            pump.stop()
        self._pumps = ()

    def lost(self, cause: str) -> None:
        """Tell the stack and the user; see `aioioth._attachment.Owner`."""
        self._set_carrier(on=False)
        self._notify(CarrierDown(self.name, cause))

    def regained(self, attempts: int) -> None:
        """Tell the user; see `aioioth._attachment.Owner`."""
        self._notify(CarrierUp(self.name, attempts))

    def _on_broken(self, end: End, error: OSError) -> None:
        if end is not self.device:
            self._attachment.lose(str(error))
            return
        # Somebody deleted the interface; there is nothing to come back to.
        self._end = self._is_gone
        self._attachment.close()
        _log.warning("%s: interface %s is gone: %s", self._label, self.name, error)
        self._notify(CarrierDown(self.name, f"the interface is gone: {error}"))

    def _carry_offloads(self, plug: CarriesOffloads, receiving: Pump) -> None:
        if plug.carry_offloads(receiving.deliver):
            for pump in self._pumps:
                pump.carry_headers()
        else:
            self._set_offloads(on=False)

    def _speed_up(self, frame_socket: int, mtu: int) -> None:
        sending, receiving = self._pumps
        device = self.device.fileno()
        sending.use(_speedups.make_sender(device, frame_socket, PLUG_DROPS))
        receiving.use(_speedups.make_receiver(frame_socket, device, DEVICE_DROPS, mtu))

    def _set_offloads(self, *, on: bool) -> bool:
        """Have the stack leave work to the network, or not; returns what it does."""
        if on != self.device.offloads:
            try:
                self.device.set_offloads(on=on, buffer=self._buffer)
            except OSError as error:  # the interface was deleted meanwhile
                _log.warning("%s: offloads of %s: %s", self._label, self.name, error)
        return self.device.offloads

    def _set_carrier(self, *, on: bool) -> None:
        if on == self._carrier:
            return
        self._carrier = on
        try:
            self.device.set_carrier(on=on)
        except OSError as error:  # the interface was deleted meanwhile
            _log.warning("%s: carrier of %s: %s", self._label, self.name, error)

    def _check_usable(self) -> None:
        if self._end is not None:
            raise self._end()
        if asyncio.get_running_loop() is not self._loop:
            raise WrongLoopError(str(self))

    @override
    def __str__(self) -> str:
        return f"interface {self.name} of {self._label}"

    def _is_closed(self) -> Exception:
        return ClosedError(str(self))

    def _is_gone(self) -> Exception:
        return ClosedError(str(self), hint="gone: somebody deleted it")

    def _is_the_parents(self) -> Exception:
        return WrongLoopError(str(self), forked=True)
