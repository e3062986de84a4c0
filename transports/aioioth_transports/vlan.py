"""``vlan://[ID]/untag=ID/tag=A[-B][:A[-B]]…/trunk/qinq{VNL}``: a part of a network.

The number after ``vlan://`` is the VLAN of the inner network that the stack sees as its
own, untagged one; ``vlan://4{…}`` is all that most need. ``untag`` (or ``u``) is the
other way round: what is untagged there has this number here. ``tag`` (or ``t``) lists
VLANs that are tagged on both sides, ``A-B`` with number A here and B there; they are
separated by ``:`` or ``.``. ``trunk`` (or ``x``) lets all other VLANs but 1 pass as
they are. ``qinq`` (or ``q`` or ``ad``) marks them with 0x88a8, for VLANs inside a VLAN:
``vlan://4{vlan://5/qinq{…}}``. Numbers go from 1 to 4094; 0 is none.

What a VLAN is not named for does not pass. Priorities stay when a number is replaced.

Source: IEEE 802.1Q-2018; the options of Debian's libvdeplug-vlan 0.1.0, see
`aioioth.wire.vlan`. Debian's own gives out received frames of wrong length when they
keep a tag, and ignores ``tag`` with a single number.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from aioioth.errors import VnlError
from aioioth.nested import NestedTransport
from aioioth.networks import find_nested
from aioioth.vnl import parse_slash
from aioioth.wire.vlan import (
    CUSTOMER_TAG,
    MAX_VLAN,
    SERVICE_TAG,
    TAG_SIZE,
    VlanTranslator,
)

if TYPE_CHECKING:
    from aioioth.vnl import Address

__all__ = ["VlanTransport"]

_OPTIONS = ("untag", "u", "tag", "t")
_FLAGS = ("trunk", "x", "qinq", "q", "ad")
_NUMBER = re.compile("[0-9]{1,4}")
_LISTED = re.compile("(?P<here>[0-9]{1,4})(?:-(?P<there>[0-9]{1,4}))?")


class VlanTransport(NestedTransport):
    """See `aioioth.abc.FrameTransport`.

    Args:
        address: What stands after ``vlan://``.

    Raises:
        VnlError: It makes no sense.
        ConfigurationError: The network in braces makes none.
    """

    def __init__(self, address: str) -> None:
        parsed = parse_slash(address, options=_OPTIONS, flags=_FLAGS, nested=True)
        translator = partial(
            VlanTranslator,
            inside_untagged=_base(parsed),
            outside_untagged=parsed.integer(
                _written(parsed, "untag", "u"), 0, low=0, high=MAX_VLAN
            ),
            tagged=_tagged(parsed),
            trunk=not parsed.options.keys().isdisjoint({"trunk", "x"}),
            tag_type=(
                CUSTOMER_TAG
                if parsed.options.keys().isdisjoint({"qinq", "q", "ad"})
                else SERVICE_TAG
            ),
        )
        super().__init__(find_nested(parsed), translator, TAG_SIZE)


def _written(parsed: Address, *names: str) -> str:
    """Return the one of an option's names that was used."""
    return next((name for name in names if name in parsed.options), names[0])


def _base(parsed: Address) -> int:
    if not parsed.base:
        return 0
    if not (_NUMBER.fullmatch(parsed.base) and int(parsed.base) <= MAX_VLAN):
        reason = f"expected a VLAN's number up to {MAX_VLAN}, or '/' and options"
        parsed.refuse("", reason)
    return int(parsed.base)


def _tagged(parsed: Address) -> dict[int, int]:
    """Return the VLANs there, by those here."""
    name = _written(parsed, "tag", "t")
    tagged: dict[int, int] = {}
    here_taken = {0: "0 is no VLAN"}
    there_taken = {0: "0 is no VLAN"}
    if number := parsed.integer(_written(parsed, "untag", "u"), 0, low=0, high=4094):
        here_taken[number] = f"{number} is what 'untag' stands for here"
    if number := _base(parsed):
        there_taken[number] = f"{number} is the VLAN that is untagged here"
    for item in re.finditer("[^:.]+", parsed.options.get(name, "")):
        match = _LISTED.fullmatch(item[0])
        if match is None:
            reason = f"{name}: expected VLANs, such as 5 or 5-6, with ':' between them"
            _refuse_in(parsed, name, item.start(), reason)
        here = int(match["here"])
        there = here if match["there"] is None else int(match["there"])
        for number, taken in (here, here_taken), (there, there_taken):
            if number > MAX_VLAN:
                taken[number] = f"VLANs go up to {MAX_VLAN}"
            if number in taken:
                _refuse_in(parsed, name, item.start(), f"{name}: {taken[number]}")
            taken[number] = f"{number} is listed twice"
        tagged[here] = there
    return tagged


def _refuse_in(parsed: Address, name: str, offset: int, reason: str) -> NoReturn:
    """Refuse a part of an option's value."""
    try:
        parsed.refuse(name, reason)
    except VnlError as error:
        place = error.position
        if parsed.text.startswith(parsed.options[name], place):
            place += offset  # else quotes or escapes are in the way
        raise VnlError(parsed.text, place, reason) from None
