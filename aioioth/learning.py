"""Where an address was last heard: the table of a switch.

Source: IEEE 802.1D section 7 (learning, filtering, ageing).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

__all__ = ["Entry", "LearningTable"]

_Key = TypeVar("_Key", bound="Hashable")
_Where = TypeVar("_Where", bound="Hashable")

# A table that a flood of forged addresses cannot blow up; real ones have 1 to 16 Ki.
_CAPACITY = 8192


class Entry(NamedTuple, Generic[_Key, _Where]):
    """One line of the table.

    Attributes:
        key: The address, and what else tells networks apart.
        where: Where it was last heard.
        age: How long ago, in seconds.
    """

    key: _Key
    where: _Where
    age: float


class LearningTable(Generic[_Key, _Where]):
    """Remembers for some time where each address was last heard.

    It has no clock: ``now`` is any that goes forward, in seconds. Not thread-safe.

    Args:
        ageing: Seconds after which an address is forgotten.
        capacity: Most addresses; new ones are not learned while the table is full of
            fresh ones.
    """

    def __init__(self, *, ageing: float, capacity: int = _CAPACITY) -> None:
        self._ageing = ageing
        self._capacity = capacity
        self._heard: dict[_Key, tuple[_Where, float]] = {}
        self._full_until = float("-inf")

    def __len__(self) -> int:
        """Return how many are held, those included that are to be forgotten."""
        return len(self._heard)

    def learn(self, key: _Key, where: _Where, now: float) -> None:
        """Note that an address was heard; it may have moved."""
        if key not in self._heard and len(self._heard) >= self._capacity:
            if now < self._full_until:
                return
            self._heard = {
                each: entry
                for each, entry in self._heard.items()
                if now - entry[1] < self._ageing
            }
            # If they are all fresh, there is no point in looking for each frame.
            self._full_until = now + 1.0
            if len(self._heard) >= self._capacity:
                return
        self._heard[key] = where, now

    def find(self, key: _Key, now: float) -> _Where | None:
        """Return where an address was heard; None if not, or not lately."""
        entry = self._heard.get(key)
        if entry is None or now - entry[1] >= self._ageing:
            return None
        return entry[0]

    def forget(self, where: _Where) -> None:
        """Forget all that was heard there."""
        self._heard = {
            key: entry for key, entry in self._heard.items() if entry[0] != where
        }

    def entries(self, now: float) -> Iterator[Entry[_Key, _Where]]:
        """Return what is known and fresh, as of this call."""
        # All at once: who iterates may do so later, and learn meanwhile.
        known = [
            Entry(key, where, now - heard)
            for key, (where, heard) in self._heard.items()
            if now - heard < self._ageing
        ]
        return iter(known)
