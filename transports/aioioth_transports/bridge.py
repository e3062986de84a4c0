"""``bridge://NAME[[OPTIONS]]``: a Linux bridge in a hidden namespace of ours.

Stacks on it are joined inside the kernel, without root and at the kernel's own speed.
All programs of the same user that give the same name are on the same bridge. It is made
by the first and is gone with the last; it has no address.

Options, separated by ``/``: ``private`` (for this process alone), ``ageing=SECONDS``
(how long an address is remembered that was not heard; 300), ``isolated`` (frames pass
only to and from ports that are not), ``untagged=VLAN`` (of frames without a tag here)
and ``tagged=VLAN+VLAN...`` (whose frames have tags here). ``ageing`` is the whole
bridge's. Once a port has VLANs, one without is in VLAN 1.

Source: `aioioth.bridge`.
"""

from __future__ import annotations

import re

from aioioth.bridge import Bridge
from aioioth.errors import ConfigurationError
from aioioth.vnl import parse_bracket

_LARGEST_AGEING = 1_000_000
_LAST_VLAN = 4094
_VLANS = re.compile(r"[0-9]{1,4}(\+[0-9]{1,4})*")


class BridgeTransport(Bridge):
    """See `aioioth.abc.KernelTransport`.

    Args:
        address: ``NAME[[OPTIONS]]``.

    Raises:
        ConfigurationError: An option is unknown or has a bad value.
    """

    def __init__(self, address: str) -> None:
        parsed = parse_bracket(
            address,
            options=("ageing", "untagged", "tagged"),
            flags=("private", "isolated"),
        )
        ageing = untagged = None
        if "ageing" in parsed.options:
            ageing = parsed.integer("ageing", 0, low=1, high=_LARGEST_AGEING)
        if "untagged" in parsed.options:
            untagged = parsed.integer("untagged", 0, low=1, high=_LAST_VLAN)
        tagged = parsed.options.get("tagged")
        if tagged is not None and not _VLANS.fullmatch(tagged):
            parsed.refuse("tagged", "tagged: expected VLANs like 10+20")
        try:
            super().__init__(
                parsed.base,
                private="private" in parsed.options,
                ageing=ageing,
                isolated="isolated" in parsed.options,
                untagged=untagged,
                tagged=[] if tagged is None else map(int, tagged.split("+")),
            )
        except ConfigurationError as error:
            parsed.refuse("", str(error))
