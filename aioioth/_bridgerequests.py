"""What the kernel is asked about a bridge and its ports.

Source: rtnetlink(7), bridge(8); <linux/if_link.h>, <linux/if_bridge.h>, Linux 6.1.
"""

from __future__ import annotations

import secrets
import struct
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from aioioth._bridging import BRIDGE, BRIDGE_INDEX
from aioioth._iproute import Request
from aioioth.wire import rtnetlink

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# So that a request fits into a message to the keeper.
_VLANS_AT_ONCE = 256

# <linux/if_link.h>, <linux/if_bridge.h>, Linux 6.1
_IFLA_BR_AGEING_TIME = 4
_IFLA_BR_VLAN_FILTERING = 7
_IFLA_INFO_SLAVE_KIND = 4
_IFLA_INFO_SLAVE_DATA = 5
_IFLA_PROTINFO = 12
_IFLA_BRPORT_STATE = 1
_IFLA_BRPORT_ISOLATED = 33
_IFLA_BRIDGE_VLAN_INFO = 2
_BRIDGE_VLAN_INFO = struct.Struct("=HH")
_PVID_UNTAGGED = 0x2 | 0x4
_BR_STATE_DISABLED = b"\0"
_USER_HZ = 100


@dataclass(frozen=True)
class PortSettings:
    """What a port, or the whole bridge, is to be like; None: as it is."""

    ageing: int | None
    isolated: bool
    untagged: int | None
    tagged: tuple[int, ...]

    @property
    def has_vlans(self) -> bool:
        return self.untagged is not None or bool(self.tagged)


def random_name() -> tuple[str, int]:
    """Return name and number for a port; other programs make some as well."""
    index = secrets.randbits(30) | 1 << 30
    return f"p{index:x}", index


def plug_in(name: str) -> Request:
    """Return what makes an interface a port."""
    body = rtnetlink.link_body(name=name, master=BRIDGE_INDEX)
    return Request(f"ip link set {name} master {BRIDGE}", rtnetlink.set_link(body))


def configure_port(settings: PortSettings, name: str, index: int) -> list[Request]:
    """Return what has a port, and the bridge, be as wanted; see `random_name`."""
    requests = []
    if settings.ageing is not None:
        value = settings.ageing * _USER_HZ
        requests.append(_set_bridge("ageing_time", _IFLA_BR_AGEING_TIME, value))
    if settings.isolated:
        requests.append(_set_port(name, _IFLA_BRPORT_ISOLATED, b"\1"))
    if settings.has_vlans:
        requests.append(_set_bridge("vlan_filtering", _IFLA_BR_VLAN_FILTERING, b"\1"))
        requests.append(_vlans(index, rtnetlink.RTM_DELLINK, {1: 0}))
        wanted = dict.fromkeys(settings.tagged, 0)
        if settings.untagged is not None:
            wanted[settings.untagged] = _PVID_UNTAGGED
        requests += [
            _vlans(index, rtnetlink.RTM_SETLINK, dict(batch))
            for batch in _in_batches(wanted.items())
        ]
    return requests


def _set_bridge(word: str, attribute: int, value: int | bytes) -> Request:
    info = rtnetlink.link_info("bridge", rtnetlink.attribute(attribute, value))
    body = rtnetlink.link_body(info, index=BRIDGE_INDEX)
    words = f"ip link set {BRIDGE} type bridge {word}"
    return Request(words, rtnetlink.set_link(body))


def _set_port(name: str, attribute: int, value: bytes) -> Request:
    info = rtnetlink.nest(
        rtnetlink.IFLA_LINKINFO,
        rtnetlink.attribute(_IFLA_INFO_SLAVE_KIND, "bridge"),
        rtnetlink.nest(_IFLA_INFO_SLAVE_DATA, rtnetlink.attribute(attribute, value)),
    )
    body = rtnetlink.link_body(info, name=name)
    words = f"ip link set {name} type bridge_slave"
    return Request(words, rtnetlink.set_link(body))


def disable(index: int) -> Request:
    """Return what has no frames pass a port any more.

    This is bridge(8)'s way. After ip(8)'s (``type bridge_slave state 0``) the kernel
    tells all who want to know that the port has changed, upon which the bridge sees a
    carrier and enables it again.
    """
    state = rtnetlink.attribute(_IFLA_BRPORT_STATE, _BR_STATE_DISABLED)
    info = rtnetlink.nest(_IFLA_PROTINFO, state)
    body = rtnetlink.link_body(info, family=rtnetlink.AF_BRIDGE, index=index)
    message = rtnetlink.request(rtnetlink.RTM_SETLINK, body, rtnetlink.NLM_F_ACK)
    return Request(f"bridge link set port {index} state 0", message)


def delete(index: int) -> Request:
    """Return what takes a port's interface away."""
    message = rtnetlink.del_link(rtnetlink.link_body(index=index))
    return Request(f"ip link delete port {index}", message)


def _vlans(index: int, kind: int, vlans: dict[int, int]) -> Request:
    infos = [
        rtnetlink.attribute(_IFLA_BRIDGE_VLAN_INFO, _BRIDGE_VLAN_INFO.pack(flags, vlan))
        for vlan, flags in vlans.items()
    ]
    spec = rtnetlink.nest(rtnetlink.IFLA_AF_SPEC, *infos)
    body = rtnetlink.link_body(spec, family=rtnetlink.AF_BRIDGE, index=index)
    message = rtnetlink.request(kind, body, rtnetlink.NLM_F_ACK)
    return Request(f"bridge vlan of port {index}", message)


def _in_batches(vlans: Iterable[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    left = iter(vlans)
    while batch := list(islice(left, _VLANS_AT_ONCE)):
        yield batch
