"""Sockets made before they are asked for, while many are asked for.

A socket costs a round trip to the keeper, most of which is waiting for a process to
wake up: seven more in the same trip cost little. So whoever opens socket after socket
gets them a handful at a time, and what nobody came for is closed a moment later. A
program that opens one now and then never has any to spare.
"""

from __future__ import annotations

import os
import threading
import weakref
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    Kind = tuple[int, int, int]  # family, type, protocol

# Asking again within that time is asking for many.
_BURST_SECONDS = 0.005
# What nobody came for within that time is closed.
_LIFE_SECONDS = 0.05
# More would gain little: a trip is then spread over eight, and each costs its own work.
_MOST = 8

_all: weakref.WeakSet[SpareSockets] = weakref.WeakSet()


def drop_all_spares() -> None:
    """Close all spare sockets of the process, before somebody counts descriptors."""
    for spares in list(_all):
        spares.drop()


@dataclass
class _Supply:
    """The spares of one kind.

    Attributes:
        free: Descriptors.
        used: When a socket was last asked for, by the monotonic clock.
        count: How many the keeper was asked for at once.
    """

    free: list[int] = field(default_factory=list)
    used: float = 0.0
    count: int = 1


class SpareSockets:
    """The spare sockets of one namespace. Safe to use from any thread.

    Args:
        loop: Closes in time what is left.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._supplies: dict[Kind, _Supply] = {}
        self._watched = self._closed = False
        _all.add(self)

    def take(self, kind: Kind) -> tuple[int | None, int]:
        """Return a socket's descriptor, the caller's.

        Or None, and how many to ask the keeper for.
        """
        now = monotonic()
        with self._lock:
            supply = self._supplies.setdefault(kind, _Supply())
            is_burst = now - supply.used < _BURST_SECONDS
            supply.used = now
            if supply.free:
                return supply.free.pop(), 0
            supply.count = min(2 * supply.count, _MOST) if is_burst else 1
            return None, supply.count

    def keep(self, kind: Kind, descriptors: list[int]) -> None:
        """Take over what came beyond the one that was asked for."""
        with self._lock:
            supply = self._supplies.setdefault(kind, _Supply())
            if descriptors and not self._closed and self._is_watched():
                supply.free += descriptors
                return
        for descriptor in descriptors:
            os.close(descriptor)

    def descriptors(self) -> set[int]:
        """Return what is spare now."""
        with self._lock:
            return {each for supply in self._supplies.values() for each in supply.free}

    def drop(self) -> None:
        """Close what is spare now."""
        with self._lock:
            for supply in self._supplies.values():
                while supply.free:
                    os.close(supply.free.pop())

    def close(self) -> None:
        """Close what is spare, and keep nothing more. Idempotent."""
        self._closed = True
        self.drop()

    def forget_in_child(self) -> None:
        """Close our copies after a fork: the parent's sockets are no spares of ours."""
        self._lock = threading.Lock()
        self.close()

    def _is_watched(self) -> bool:
        """Have somebody close the spares in time, if there is anybody."""
        if not self._watched:
            try:
                self._loop.call_soon_threadsafe(self._watch)
            except RuntimeError:  # the loop is closed
                return False
            self._watched = True
        return True

    def _watch(self) -> None:
        self._loop.call_later(_LIFE_SECONDS, self._look)

    def _look(self) -> None:
        """Close the spares if no socket was asked for lately; look again otherwise."""
        with self._lock:
            last = max(supply.used for supply in self._supplies.values())
        if monotonic() - last < _LIFE_SECONDS:
            self._watch()
            return
        self._watched = False
        self.drop()
