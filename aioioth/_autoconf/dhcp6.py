"""Addresses, DNS servers and prefixes from DHCPv6 servers."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import ipaddress
import logging
import math
import socket
import time
from typing import TYPE_CHECKING

from aioioth._autoconf.dhcp6_exchange import Apply, Send
from aioioth._autoconf.dhcp6_machine import Machine
from aioioth._autoconf.findings import Findings
from aioioth._receiver import Receiver
from aioioth.errors import NetlinkError
from aioioth.iproute import Address
from aioioth.wire.dhcp6 import CLIENT_PORT, SERVER_PORT, SERVERS, Message

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioioth._autoconf.dhcp6_exchange import Action
    from aioioth._autoconf.dhcp6_lease import Lease
    from aioioth._autoconf.ground import Ground
    from aioioth._receiver import Datagram

_log = logging.getLogger("aioioth")

# What came while something is applied, and answers us.
_MOST_WAITING = 32


class Dhcp6Source:
    """A DHCPv6 client; see `aioioth._autoconf.ground.Source`.

    The interface needs a link-local address that is usable.

    Args:
        ground: The interface.
        prefix_length: Of a prefix to have for others, if there is one; None for none.
    """

    def __init__(self, ground: Ground, *, prefix_length: int | None = None) -> None:
        self._ground = ground
        self._machine = Machine(ground.mac, ground.fqdn, prefix_length)
        self._answers: collections.deque[Message] = collections.deque()
        self._changed = asyncio.Event()
        self._refresh = False
        self._receiver: Receiver | None = None

    async def run(self) -> None:
        """Find out, apply it, and keep it true, until cancelled.

        Raises:
            OSError: No socket can be had in the stack.
        """
        with contextlib.closing(Receiver(self._open(), self._take)) as receiver:
            self._receiver = receiver
            try:
                await self._keep()
            finally:
                self._receiver = None

    def refresh(self) -> None:
        """Ask again now: the carrier is back, or the user wants to know."""
        self._refresh = True
        self._changed.set()

    def release(self) -> None:
        """Tell the server that we are going."""
        if (message := self._machine.release()) is not None:
            self._send(message)

    async def _keep(self) -> None:
        machine = self._machine
        await self._carry_out(machine.start(time.monotonic()))
        while True:
            await self._until_something_is_to_do()
            self._changed.clear()
            while self._answers:
                message = self._answers.popleft()
                await self._carry_out(machine.received(message, time.monotonic()))
            if self._refresh:
                self._refresh = False
                await self._carry_out(machine.refresh(time.monotonic()))
            if machine.deadline <= time.monotonic():
                await self._carry_out(machine.timer(time.monotonic()))

    async def _until_something_is_to_do(self) -> None:
        deadline = self._machine.deadline
        delay = None if deadline == math.inf else deadline - time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._changed.wait()

    async def _carry_out(self, actions: Iterable[Action]) -> None:
        waiting = collections.deque(actions)
        while waiting:
            action = waiting.popleft()
            if isinstance(action, Send):
                self._send(action.message)
                continue
            taken = await self._apply(action)
            waiting += self._machine.duplicates(taken, time.monotonic())

    async def _apply(self, action: Apply) -> set[ipaddress.IPv6Address]:
        lease = action.lease
        findings = None if lease is None else self._findings(lease)
        try:
            taken = await self._ground.apply(findings, action.cause)
        except NetlinkError as error:
            _log.warning("%s: what DHCPv6 gives: %s", self._ground.label, error)
            return set()
        return {each for each in taken if isinstance(each, ipaddress.IPv6Address)}

    def _findings(self, lease: Lease) -> Findings:
        now = time.monotonic()
        lease = lease.at(now)
        return Findings(
            addresses=tuple(
                Address(
                    # Which others are on the link, routers say.
                    ipaddress.IPv6Interface((each.what, 128)),
                    self._ground.dev,
                    nodad=False,
                    valid=_left(each.valid, now),
                    preferred=_left(each.preferred, now),
                )
                for each in lease.held
                if isinstance(each.what, ipaddress.IPv6Address)
            ),
            dns=tuple(map(self._scoped, lease.dns)),
            domains=lease.domains,
            prefixes=lease.prefixes,
        )

    def _scoped(self, address: ipaddress.IPv6Address) -> ipaddress.IPv6Address:
        if not address.is_link_local:
            return address
        return ipaddress.IPv6Address(f"{address}%{self._ground.dev}")

    # Sockets

    def _open(self) -> socket.socket:
        sock = self._ground.socket(socket.AF_INET6, socket.SOCK_DGRAM, 0)
        try:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            dev = self._ground.dev.encode()
            # Each interface has its own client. What is sent leaves from the link-local
            # address, since that is all it reaches.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, dev)
            index = self._ground.index
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            sock.bind(("::", CLIENT_PORT))
        except BaseException:
            sock.close()
            raise
        return sock

    def _send(self, message: Message) -> None:
        if self._receiver is None:
            return
        servers = (str(SERVERS), SERVER_PORT, 0, self._ground.index)
        # The interface is down, or its queue is full: as if it were lost on the way.
        with contextlib.suppress(OSError):
            self._receiver.socket.sendto(message.pack(), servers)

    def _take(self, datagram: Datagram) -> None:
        host, port = datagram.source[:2]
        address = ipaddress.IPv6Address(host)
        if port != SERVER_PORT or not address.is_link_local:
            return
        try:
            message = Message.parse(datagram.data)
        except ValueError:
            return
        # What does not answer us shall not take the place of what does.
        if self._machine.wants(message) and len(self._answers) < _MOST_WAITING:
            self._answers.append(message)
            self._changed.set()


def _left(until: float, now: float) -> int | None:
    # Rather a little too long: the kernel has whole seconds, and takes no address that
    # is over. It is we who take it away in time.
    return None if until == math.inf else max(0, math.ceil(until - now))
