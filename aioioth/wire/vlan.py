"""VLAN tags: which frames get one, lose one, or have theirs replaced.

A tag is 4 bytes behind the addresses: 0x8100, or 0x88a8 for the outer one of two, then
3 bits of priority, one that tells what may be dropped first, and 12 of the VLAN's
number. Number 0 says a priority and no VLAN: such a frame counts as untagged.

Source: IEEE 802.1Q-2018 sections 6.9 and 9; the meaning of the options is that of
Debian's libvdeplug-vlan 0.1.0.
"""

from __future__ import annotations

import struct
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Buffer

__all__ = ["CUSTOMER_TAG", "MAX_VLAN", "SERVICE_TAG", "TAG_SIZE", "VlanTranslator"]

CUSTOMER_TAG = 0x8100
SERVICE_TAG = 0x88A8
TAG_SIZE = 4
MAX_VLAN = 4094

_VID = 0x0FFF
_HEADER_SIZE = 14
# What a trunk does not carry unless it is listed: the number 1 is that of untagged
# frames on many switches, 4095 is reserved.
_NOT_TRUNKED = frozenset({0, 1, 4095})
_UNTAGGED = 0
_TAG = struct.Struct("!HH")


class VlanTranslator:
    """Translates between VLANs inside, where a stack is, and those outside.

    What comes in is translated just the other way round, so an answer always finds its
    way back. A VLAN that is named on the one side is nothing else there.

    Args:
        inside_untagged: VLAN outside of what is untagged inside; 0 for none.
        outside_untagged: VLAN inside of what is untagged outside; 0 for none.
        tagged: VLAN outside of a VLAN inside; no number twice on a side.
        trunk: Whether VLANs that are not named pass as they are.
        tag_type: EtherType of the tags; with any other a frame counts as untagged.

    Attributes:
        drops: Frames from outside that were not passed on, by cause.
    """

    def __init__(
        self,
        *,
        inside_untagged: int = 0,
        outside_untagged: int = 0,
        tagged: Mapping[int, int] | None = None,
        trunk: bool = False,
        tag_type: int = CUSTOMER_TAG,
    ) -> None:
        self.drops: Counter[str] = Counter()
        pairs = dict(tagged or {})
        if inside_untagged:
            pairs[_UNTAGGED] = inside_untagged
        if outside_untagged:
            pairs[outside_untagged] = _UNTAGGED
        if not inside_untagged and not outside_untagged:
            pairs[_UNTAGGED] = _UNTAGGED
        self._outward = pairs
        self._inward = {outside: inside for inside, outside in pairs.items()}
        assert len(self._inward) == len(pairs), "a VLAN twice on a side"
        if trunk:
            others = set(range(MAX_VLAN + 1)) - _NOT_TRUNKED
            others -= self._outward.keys() | self._inward.keys()
            unchanged = {vlan: vlan for vlan in others}
            self._outward |= unchanged
            self._inward |= unchanged
        self._tag_type = tag_type
        self._high, self._low = divmod(tag_type, 256)

    def outgoing(self, frame: memoryview) -> Buffer | None:
        """Return a frame as it is outside; None if it may not leave, or is cut off."""
        return self._translate(frame, self._outward)

    def incoming(self, frame: memoryview) -> Buffer | None:
        """Return a frame as it is inside; None if it may not enter, which is counted.

        Args:
            frame: Any bytes.
        """
        changed = self._translate(frame, self._inward)
        if changed is None:
            cut = frame.nbytes < _HEADER_SIZE or self._is_cut(frame)
            self.drops["malformed" if cut else "other VLAN"] += 1
        return changed

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _translate(self, frame: memoryview, vlans: Mapping[int, int]) -> Buffer | None:
        if frame.nbytes < _HEADER_SIZE or self._is_cut(frame):
            return None
        control, payload = 0, 12
        if self._is_tag(frame, 12):
            control, payload = frame[14] << 8 | frame[15], 16
        vlan = vlans.get(control & _VID)
        if vlan is None or vlan == control & _VID:
            return None if vlan is None else frame
        if not vlan:
            # A second tag would come to light, a VLAN of the sender's choice.
            hops = self._is_tag(frame, payload)
            return None if hops else b"".join((frame[:12], frame[payload:]))
        # The priority stays: it is the sender's business, the number is ours.
        tag = _TAG.pack(self._tag_type, control & ~_VID | vlan)
        return b"".join((frame[:12], tag, frame[payload:]))

    def _is_tag(self, frame: memoryview, place: int) -> bool:
        return frame[place] == self._high and frame[place + 1] == self._low

    def _is_cut(self, frame: memoryview) -> bool:
        """Whether there is a tag without an EtherType behind it."""
        return frame.nbytes < _HEADER_SIZE + TAG_SIZE and self._is_tag(frame, 12)
