"""What a forked child must let go of.

A child that keeps copies of our descriptors would hold the keeper, the switch's ports
and the interfaces of its parent, and share the parent's epoll set. `os.fork` therefore
runs every registered ``forget_in_child`` in the child, before anything else there.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forgetting(Protocol):
    """Something that a forked child must let go of."""

    def forget_in_child(self) -> None:
        """Close descriptors without touching the loop, which is the parent's."""
        ...


_registered: weakref.WeakSet[Forgetting] = weakref.WeakSet()


def forget_in_children(item: Forgetting) -> None:
    """Let go of ``item`` in every child that is forked while it exists."""
    _registered.add(item)


def _after_in_child() -> None:
    for item in list(_registered):
        item.forget_in_child()


os.register_at_fork(after_in_child=_after_in_child)
