"""What the kernel has in a stack, followed as it changes, while somebody wants to know.

Source: netlink(7), rtnetlink(7); <linux/rtnetlink.h>, <linux/netlink.h>, Linux 6.1.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from itertools import islice
from typing import TYPE_CHECKING

from aioioth import _dumps, _nettables
from aioioth._nettables import Tables
from aioioth._receiver import Receiver
from aioioth.errors import ClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable

    from aioioth._receiver import Datagram
    from aioioth.abc import Space
    from aioioth.events import Event
    from aioioth.iproute import Address, Link, Neighbour, Route

    Tell = Callable[[Event], None]

_log = logging.getLogger("aioioth")

# <linux/rtnetlink.h>: links, neighbours, addresses and routes of IPv4 and IPv6.
_GROUPS = 0x1 | 0x4 | 0x10 | 0x40 | 0x100 | 0x400
# <linux/netlink.h>, <asm-generic/socket.h>, <linux/sock_diag.h>
_SOL_NETLINK = 270
_NETLINK_NO_ENOBUFS = 5
_SO_MEMINFO = 55
_SK_MEMINFO_DROPS = 8

# The system gives 416 KiB of it by default (net.core.rmem_max).
_RECEIVE_BYTES = 1 << 20
_MESSAGE_BYTES = 1 << 16

# What is announced during a dump waits for its end; too much, and there is another one.
_MOST_HELD = 4096
# Things that are looked at in a step, and in a turn of the loop: some 15 us each.
_AT_ONCE = 32
# Steps that a caller who wants to know waits for; with more to do, it gets the rest of
# it later. Enough for a stack with some thirty addresses and routes.
_STEPS_AT_ONCE = 4
# There were no descriptors left, say.
_RETRY_SECONDS = 1.0

_REQUESTS = {
    _nettables.LINKS: (_dumps.LINKS,),
    _nettables.ADDRESSES: (_dumps.ADDRESSES,),
    _nettables.ROUTES: (_dumps.routes_of(0, None),),
    _nettables.NEIGHBOURS: (_dumps.NEIGHBOURS, _dumps.PROXIES),
}


_CLOSED = "the stack"

# Every stack has a monitor, and few are ever used: this one is never filled.
_NOTHING_KNOWN = Tables()


class Monitor:
    """Follows links, addresses, routes and neighbours of one stack.

    It runs while somebody listens or waits, or for good after `start`; it has two
    sockets then. When it does not run, what it knows is what it knew last: after
    `wait_for`, what was found to be so. All on one event loop.

    Args:
        space: The stack's.
    """

    __slots__ = (
        "_asking",
        "_closed",
        "_held",
        "_listeners",
        "_lost",
        "_next",
        "_overrun",
        "_receiver",
        "_renewal",
        "_space",
        "_started",
        "_tables",
        "_users",
        "_waiting",
    )

    def __init__(self, space: Space) -> None:
        self._space = space
        self._tables = _NOTHING_KNOWN
        self._receiver: Receiver | None = None
        self._asking: socket.socket | None = None
        self._lost = 0
        self._renewal: Generator[None, None, None] | None = None
        # Not looked at yet: announcements, and who came in between.
        self._held: list[bytes | Tell] = []
        self._next: asyncio.TimerHandle | None = None
        self._listeners: list[Tell] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._overrun = False  # announcements were lost
        self._users = 0
        self._started = False
        self._closed = False

    # What there is

    @property
    def links(self) -> tuple[Link, ...]:
        """All links, ``lo`` included."""
        return self._tables.links

    @property
    def addresses(self) -> tuple[Address, ...]:
        """All addresses."""
        return self._tables.addresses

    @property
    def routes(self) -> tuple[Route, ...]:
        """All routes but those in the table ``local``."""
        return self._tables.routes

    @property
    def neighbours(self) -> tuple[Neighbour, ...]:
        """All neighbours."""
        return self._tables.neighbours

    @property
    def refused(self) -> Collection[Address]:
        """Addresses with a lifetime that were another's, so the kernel took them away.

        The others are among `addresses`, and ``duplicated`` there.
        """
        return self._tables.refused.keys()

    def filenos(self) -> tuple[int, ...]:
        """Return the descriptors of its sockets."""
        found = (
            None if self._receiver is None else self._receiver.socket,
            self._asking,
        )
        return tuple(sock.fileno() for sock in found if sock is not None)

    # Its life

    def start(self) -> None:
        """Run until `close`. Idempotent.

        `links` and the rest are there at once, or after `wait_for` if there are many.

        Raises:
            OSError: No socket can be had.
            ClosedError: It was closed.
        """
        if not self._started:
            self._hold()
            self._started = True

    def listen(self, tell: Tell) -> None:
        """Have ``tell`` called with all that is different from what it is now.

        It may not raise.

        Raises:
            OSError: No socket can be had.
            ClosedError: It was closed.
        """
        self._hold()
        if self._is_behind:
            self._held.append(tell)
        else:
            self._listeners.append(tell)

    def unlisten(self, tell: Tell) -> None:
        """End what `listen` began. Idempotent."""
        for them in (self._listeners, self._held):
            if tell in them:
                them.remove(tell)
                self._release()

    async def wait_for(self, predicate: Callable[[Monitor], bool]) -> None:
        """Wait until something is so; it is looked at again after each change.

        Args:
            predicate: Says whether it is; what it raises is raised here.

        Raises:
            OSError: No socket can be had.
            ClosedError: The stack was closed.
        """
        self._hold()
        try:
            # Of a table that is looked at just now, half may be missing.
            while self._renewal is not None or not predicate(self):
                await self._change()
        finally:
            self._release()

    async def _change(self) -> None:
        changed = asyncio.get_running_loop().create_future()
        self._waiting.append(changed)
        try:
            await changed
        finally:
            self._waiting.remove(changed)
        if self._closed:
            raise ClosedError(_CLOSED)

    def refresh(self) -> None:
        """Ask the kernel how everything is, now; for what it does not announce.

        Does nothing if it is not running.

        Raises:
            OSError: The kernel could not be asked; it will be, again.
        """
        if self._receiver is not None:
            self._catch_up(_nettables.ALL)

    def close(self) -> None:
        """Let everything go at once; who waits gets an error. Idempotent."""
        self._closed = True
        self._started = False
        self._stop()
        self._tables = _NOTHING_KNOWN
        self._wake()

    def forget_in_child(self) -> None:
        """Let our copies go after a fork; the receiver does it by itself."""
        self._closed = True
        self._renewal = None
        self._held.clear()
        self._tables = _NOTHING_KNOWN
        if self._asking is not None:
            self._asking.close()

    def _hold(self) -> None:
        if self._closed:
            raise ClosedError(_CLOSED)
        if self._receiver is None:
            self._run()
        else:
            # Who comes now shall not be told, or see, what was before.
            self._catch_up()
        self._users += 1

    def _release(self) -> None:
        self._users -= 1
        if not self._users:
            self._stop()

    def _run(self) -> None:
        family, protocol = socket.AF_NETLINK, socket.NETLINK_ROUTE
        sock = self._space.socket(family, socket.SOCK_RAW, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
            # As in `aioioth.netlink`: an overflow is no error, and shows all the same.
            sock.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
            sock.bind((0, _GROUPS))
            self._asking = _dumps.asking_socket(self._space)
        except BaseException:
            sock.close()
            raise
        self._lost = 0
        self._tables = Tables()
        self._receiver = Receiver(sock, self._take)
        try:
            # Nobody is told: this is what differences are counted from.
            self._catch_up(_nettables.ALL)
        except BaseException:
            self._stop()
            raise

    def _stop(self) -> None:
        self._postpone(None)
        if self._renewal is not None:
            self._renewal.close()
            self._renewal = None
        if self._receiver is not None:
            self._receiver.close()
            self._receiver = None
        if self._asking is not None:
            self._asking.close()
            self._asking = None
        self._held.clear()
        self._overrun = False

    # What comes

    @property
    def _is_behind(self) -> bool:
        """Whether there is something that was not looked at yet."""
        return bool(self._renewal or self._tables.stale or self._held)

    def _take(self, datagram: Datagram) -> None:
        if datagram.source[0]:  # not from the kernel
            return
        if self._is_behind:
            self._hold_back(datagram.data)
        else:
            self._look_for_losses()
            if not self._is_behind:
                self._tell(self._tables.take(datagram.data))
        if self._renewal is None and self._is_behind:
            self._step()

    def _hold_back(self, data: bytes) -> None:
        """Keep an announcement for when all before it was looked at."""
        self._look_for_losses()
        if len(self._held) < _MOST_HELD:
            self._held.append(data)
        else:
            self._overrun = True
            self._tables.stale |= _nettables.ALL

    def _look_for_losses(self) -> None:
        if (lost := self._count_lost()) != self._lost:
            self._lost = lost
            self._overrun = True
            self._tables.stale |= _nettables.ALL

    def _tell(self, told: Iterable[Event | None]) -> None:
        anything = False
        listeners = tuple(self._listeners)
        for event in told:
            if event is not None:
                anything = True
                for tell in listeners:
                    tell(event)
        if anything:
            self._wake()

    def _wake(self) -> None:
        for changed in self._waiting:
            if not changed.done():
                changed.set_result(None)

    def _catch_up(self, stale: Collection[str] = ()) -> None:
        """Have what was announced until now, and know it at once, unless it is much.

        Args:
            stale: Tables that have to be asked for in any case.

        Raises:
            OSError: The kernel could not be asked; it will be, again.
        """
        for data in self._announced():
            self._hold_back(data)
        self._tables.stale.update(stale)
        for _ in range(_STEPS_AT_ONCE):
            if not self._is_behind:
                return
            self._advance()
        if self._is_behind:
            self._postpone(0)

    # Step by step

    def _step(self) -> None:
        if not self._is_behind:
            return  # somebody could not wait
        try:
            self._advance()
        except OSError as error:
            _log.warning("asking the kernel for links and addresses: %s", error)
            return
        if self._is_behind:
            self._postpone(0)

    def _postpone(self, delay: float | None) -> None:
        """Have `_step` called later, once; None for not at all."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if delay is not None:
            loop = asyncio.get_running_loop()
            self._next = loop.call_later(delay, self._step)

    def _advance(self) -> None:
        """Do one step of what there is to do."""
        if self._renewal is None:
            self._renewal = self._renew()
        try:
            next(self._renewal)
        except StopIteration:
            self._renewal = None
            self._wake()
        except OSError:
            self._renewal = None
            self._tables.stale |= _nettables.ALL
            self._postpone(_RETRY_SECONDS)
            raise

    def _renew(self) -> Generator[None, None, None]:
        """Have no stale tables any more, but for what comes meanwhile."""
        if self._overrun:
            self._forget_held()
        if self._tables.stale:
            yield from self._ask()
        at = 0
        while self._held and not self._overrun:
            held = self._held.pop(0)
            if isinstance(held, bytes):
                self._tell(self._tables.take(held))
            else:
                self._listeners.append(held)
            at += 1
            if not at % _AT_ONCE:
                yield

    def _ask(self) -> Generator[None, None, None]:
        assert self._asking is not None
        tables = frozenset(self._tables.stale)
        self._tables.stale.clear()
        requests = (
            each for table in _REQUESTS if table in tables for each in _REQUESTS[table]
        )
        # All of it in the first step: what is different later is announced later.
        parts = _dumps.read(self._asking, *requests)
        pieces = self._tables.renew(tables, _dumps.taken_apart(parts))
        while some := list(islice(pieces, _AT_ONCE)):
            self._tell(some)
            yield

    def _forget_held(self) -> None:
        """Drop what came before something that was lost."""
        self._overrun = False
        for held in self._held:
            if not isinstance(held, bytes):
                self._listeners.append(held)
        self._held.clear()
        for _ in self._announced():
            pass
        self._lost = self._count_lost()

    def _announced(self) -> Generator[bytes, None, None]:
        """Return what waits in the socket, as far as it is not endless."""
        assert self._receiver is not None
        for _ in range(_MOST_HELD):
            try:
                data, source = self._receiver.socket.recvfrom(_MESSAGE_BYTES)
            except OSError:  # BlockingIOError, mostly
                return
            if not source[0]:
                yield data

    def _count_lost(self) -> int:
        """Return how many announcements did not fit into the socket so far."""
        assert self._receiver is not None
        answer = self._receiver.socket.getsockopt(
            socket.SOL_SOCKET, _SO_MEMINFO, 4 * (_SK_MEMINFO_DROPS + 1)
        )
        lost: int = struct.unpack_from("=I", answer, 4 * _SK_MEMINFO_DROPS)[0]
        return lost
