"""The DHCPv4 client of one interface: its machine, on sockets and timers.

The machine is `aioioth._autoconf.dhcp4_machine`; pyroute2's client is not used because
it opens its sockets in the caller's namespace, knows neither the client's name (option
81) nor how to decline an address, and stops without a word at messages of a type that
it does not know.

Source: RFC 2131; RFC 5227 section 2.3 (announcing the address).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import secrets
from typing import TYPE_CHECKING

from aioioth._autoconf.dhcp4_actions import Bind, Lose, Probe, Send, State
from aioioth._autoconf.dhcp4_machine import Machine
from aioioth._autoconf.dhcp4_sockets import Sockets
from aioioth.errors import ClosedError, NetlinkError
from aioioth.wire.arp import ArpPacket
from aioioth.wire.dhcp4 import Message

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Address

    from aioioth._autoconf.dhcp4_actions import Action
    from aioioth._autoconf.ground import Ground

_log = logging.getLogger("aioioth")

# Until the kernel is asked again to do what it refused.
_REFUSED_PAUSE = 10.0

_NO_MAC = b"\xff" * 6


class Dhcp4Source:
    """Has an IPv4 address from a DHCP server, and keeps it.

    See `aioioth._autoconf.ground.Source`.

    Args:
        ground: The interface.
        metric: Of the routes; the lowest of several interfaces' wins.

    Raises:
        ValueError: The ground's name is no DNS name.
    """

    def __init__(self, ground: Ground, *, metric: int = 1000) -> None:
        self._ground = ground
        self._metric = metric
        self._machine = Machine(
            ground.mac,
            ground.fqdn,
            random=random.random,  # noqa: S311  (guessing it gains nobody anything)
            new_xid=lambda: secrets.randbits(32),
        )
        self._loop: asyncio.AbstractEventLoop | None = None  # while it runs
        self._sockets = Sockets(ground, self._take, self._hear)
        self._timer: asyncio.TimerHandle | None = None
        # What is to be applied: the last word only.
        self._news: Bind | Lose | None = None
        self._has_news = asyncio.Event()
        self._server_mac = _NO_MAC
        self._announced: IPv4Address | None = None

    async def run(self) -> None:
        """See `aioioth._autoconf.ground.Source.run`."""
        self._loop = asyncio.get_running_loop()
        try:
            self._sockets.listen(on=True)  # whether it can be done at all
            self._do(self._machine.start)
            while True:
                await self._has_news.wait()
                await self._apply()
        finally:
            self._loop = None
            if self._timer is not None:
                self._timer.cancel()
            self._sockets.close()

    def refresh(self) -> None:
        """See `aioioth._autoconf.ground.Source.refresh`."""
        self._announced = None  # who is there now may never have heard of us
        self._do(self._machine.refresh)

    def release(self) -> None:
        """See `aioioth._autoconf.ground.Source.release`."""
        if self._loop is None:
            return
        for action in self._machine.release():
            if isinstance(action, Send) and action.server is not None:
                packed = action.message.pack()
                with contextlib.suppress(OSError, ClosedError):
                    self._sockets.leave(
                        packed, action.source, action.server, self._server_mac
                    )

    async def _apply(self) -> None:
        assert self._loop is not None
        news, self._news = self._news, None
        self._has_news.clear()
        ground = self._ground
        try:
            if isinstance(news, Bind):
                now = self._loop.time()
                await ground.apply(news.lease.findings(ground.dev, self._metric, now))
                self._announce(news.lease.address.ip)
            else:
                await ground.apply(None, "" if news is None else news.cause)
                self._announced = None
        except NetlinkError as error:
            _log.warning("%s: DHCP on %s: %s", ground.label, ground.dev, error)
            await self._later(news)

    def _announce(self, address: IPv4Address) -> None:
        """Have those forget the last one who had the address, once for each time.

        Otherwise they go on sending to its MAC address, for up to a minute.
        """
        if address == self._announced:
            return
        self._announced = address
        packet = ArpPacket.announcement(self._ground.mac, address)
        with contextlib.suppress(OSError, ClosedError):
            self._sockets.announce(packet.pack())

    async def _later(self, news: Bind | Lose | None) -> None:
        """Have it tried again after a while, or what comes instead at once."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REFUSED_PAUSE):
                await self._has_news.wait()
        if self._news is None:
            self._news = news
            self._has_news.set()

    # From here on nothing waits

    def _take(self, data: bytes, mac: bytes) -> None:
        try:
            message = Message.parse(data)
        except ValueError as error:
            _log.debug(
                "%s: DHCP on %s: %s", self._ground.label, self._ground.dev, error
            )
            return

        def receive(now: float) -> list[Action]:
            actions = self._machine.receive(message, now)
            if self._machine.state in {State.PROBING, State.BOUND}:
                self._server_mac = mac  # it was the answer
            return actions

        self._do(receive)

    def _hear(self, data: bytes) -> None:
        try:
            packet = ArpPacket.parse(data)
        except ValueError:
            return
        self._do(lambda now: self._machine.hear(packet, now))

    def _on_timer(self) -> None:
        self._do(self._machine.timer)

    def _do(self, what: Callable[[float], list[Action]]) -> None:
        """Have the machine do a step, and do what it wants."""
        if self._loop is None:
            return
        for action in what(self._loop.time()):
            if isinstance(action, (Bind, Lose)):
                self._news = action
                self._has_news.set()
                continue
            try:
                self._send(action)
            except (OSError, ClosedError) as error:
                # The interface is down, say; what gets no answer is sent again.
                ground = self._ground
                _log.debug("%s: DHCP on %s: %s", ground.label, ground.dev, error)
        if not self._machine.is_listening:
            self._sockets.listen(on=False)
        if self._machine.state is not State.PROBING:
            self._sockets.hush()
        self._set_timer()

    def _send(self, action: Send | Probe) -> None:
        if isinstance(action, Probe):
            self._sockets.probe(
                ArpPacket.probe(self._ground.mac, action.address).pack()
            )
            return
        packed = action.message.pack()
        if action.server is None:
            self._sockets.broadcast(packed, action.source)
        else:
            self._sockets.unicast(packed, action.source, action.server)

    def _set_timer(self) -> None:
        assert self._loop is not None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._machine.deadline != math.inf:
            self._timer = self._loop.call_at(self._machine.deadline, self._on_timer)
