"""The compiled step of a pump: a wake-up's frames in C, where that is installed.

`aioioth-speedups` is a distribution of its own and never required. It serves networks
that are a socket of whole frames (`aioioth.abc.FrameSocket`), for which the pump would
otherwise make a system call for each frame, and the stack would cut and sum up each
itself.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

_log = logging.getLogger("aioioth")

# What `Mover.move` says, first of three. Less than FULL: all is well.
FULL, SOURCE_BROKEN, SINK_BROKEN = 2, 3, 4

_SWITCH = "AIOIOTH_SPEEDUPS"
_MODULE = "aioioth_speedups"

# Ethernet's header with two VLAN tags.
_HEADERS = 22


class Mover(Protocol):
    """One direction between a device that leaves work to us and a frame socket.

    Attributes:
        dropped: Whether `take_drops` has something.
        error: Why an end is broken: an errno.
    """

    @property
    def dropped(self) -> bool: ...
    @property
    def error(self) -> int: ...

    def move(self, budget: int, /) -> tuple[int, int, int]:
        """Move what waits; returns how it ended, how many frames, and their bytes.

        Frames that a sink which is full did not take are kept, and go first next time.
        """
        ...

    def take_drops(self) -> dict[int, int]:
        """Return the frames lost since the last time, by errno."""
        ...

    def clear(self) -> int:
        """Forget the frames that are kept, and return how many."""
        ...


def are_there() -> bool:
    """Tell whether there is a compiled step, and nobody has switched it off."""
    return os.environ.get(_SWITCH) != "0" and _load() is not None


def make_sender(device: int, frame_socket: int, drops: Iterable[int]) -> Mover:
    """Make what moves frames from a device, which leaves work to us, to a socket."""
    module = _load()
    assert module is not None
    mover: Mover = module.Sender(device, frame_socket, drops)
    return mover


def make_receiver(
    frame_socket: int, device: int, drops: Iterable[int], mtu: int
) -> Mover:
    """Make what moves frames from a socket, with packets up to ``mtu``, to a device."""
    module = _load()
    assert module is not None
    size = min(mtu + _HEADERS, module.LONGEST)
    mover: Mover = module.Receiver(frame_socket, device, drops, size)
    return mover


def why_broken(mover: Mover) -> OSError:
    """Return why an end is broken, as that end's own methods would have raised it."""
    return OSError(mover.error, os.strerror(mover.error))


@functools.cache
def _load() -> ModuleType | None:
    try:
        return importlib.import_module(_MODULE)
    except ModuleNotFoundError:
        return None
    except ImportError as error:  # made for another machine
        _log.warning("aioioth-speedups is installed and cannot be used: %s", error)
        return None
