"""What a forked child must let go of.

A child that keeps copies of our descriptors would hold the keeper, the switch's ports
and the interfaces of its parent, and steal the answers to its netlink requests.
`os.fork` therefore runs every registered ``forget_in_child`` in the child, before
anything else there.

The child also shares the parent's epoll set: taking a reader away there takes it away
from the parent. So nothing in the child may touch the parent's loop, at no time.
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


# In the order of registration, which is the order of forgetting: the keeper first.
_registered: weakref.WeakKeyDictionary[Forgetting, None] = weakref.WeakKeyDictionary()


def forget_in_children(item: Forgetting) -> None:
    """Let go of ``item`` in every child that is forked while it exists."""
    _registered[item] = None


def _after_in_child() -> None:
    for item in list(_registered):
        item.forget_in_child()


os.register_at_fork(after_in_child=_after_in_child)
