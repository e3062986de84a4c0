"""Questions and orders about an interface, asked through any socket of its namespace.

Source: netdevice(7); <linux/sockios.h>, <linux/ethtool.h>, <linux/if.h>, Linux 6.1.
"""

from __future__ import annotations

import array
import fcntl
import re
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

SIOCGIFNAME = 0x8910
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
SIOCGIFMTU = 0x8921
SIOCGIFHWADDR = 0x8927
SIOCGIFINDEX = 0x8933
SIOCETHTOOL = 0x8946

IFF_UP = 0x1

ETHTOOL_GLINK = 0x0A
ETHTOOL_GSTRINGS = 0x1B
ETHTOOL_GSSET_INFO = 0x37
ETHTOOL_SFEATURES = 0x3B

ETH_SS_FEATURES = 4
ETH_GSTRING_LEN = 32

# Features of a veth interface (net/ethtool/common.c): what can be left to somebody, and
# what has to be done, always.
_LEFT = {"tx-checksum-ip-generic", "tx-tcp-segmentation", "tx-tcp6-segmentation"}
_DONE = re.compile(
    "tx-(?!generic)[a-z0-9_-]*segmentation|tx-checksum-(sctp|fcoe-crc)|tx-gso-list"
    "|tx-vlan(-stag)?-hw-insert"
)

# The same for all interfaces.
_features: dict[str, int] = {}

_IFREQ_INT = struct.Struct("=16si20x")
_IFREQ_FLAGS = struct.Struct("=16sH22x")
_IFREQ_POINTER = struct.Struct("@16sP16x")
_IFREQ_ADDRESS = struct.Struct("=16sH6s16x")
_ETHTOOL_VALUE = struct.Struct("=II")


def interface_index(sock: int, name: str) -> int:
    """Return the index of interface ``name``, 1 or more.

    Raises:
        OSError: There is no such interface (ENODEV).
    """
    answer = fcntl.ioctl(sock, SIOCGIFINDEX, _IFREQ_INT.pack(name.encode(), 0))
    index: int = _IFREQ_INT.unpack(answer)[1]
    return index


def interface_name(sock: int, index: int) -> str:
    """Return the name of the interface with ``index``.

    Raises:
        OSError: There is no such interface (ENODEV).
    """
    answer = fcntl.ioctl(sock, SIOCGIFNAME, _IFREQ_INT.pack(b"", index))
    name: bytes = _IFREQ_INT.unpack(answer)[0]
    return name.rstrip(b"\0").decode()


def interface_mtu(sock: int, name: str) -> int:
    """Return the MTU of interface ``name`` in bytes, headers not counted.

    Raises:
        OSError: There is no such interface (ENODEV).
    """
    answer = fcntl.ioctl(sock, SIOCGIFMTU, _IFREQ_INT.pack(name.encode(), 0))
    mtu: int = _IFREQ_INT.unpack(answer)[1]
    return mtu


def interface_mac(sock: int, name: str) -> str:
    """Return the MAC address of interface ``name``, as ``02:00:00:00:00:01``.

    Raises:
        OSError: There is no such interface (ENODEV).
    """
    request = _IFREQ_ADDRESS.pack(name.encode(), 0, b"")
    answer = fcntl.ioctl(sock, SIOCGIFHWADDR, request)
    mac: bytes = _IFREQ_ADDRESS.unpack(answer)[2]
    return mac.hex(":")


def set_interface_up(sock: int, name: str, *, up: bool) -> None:
    """Do ``ip link set NAME up`` or ``down``.

    Raises:
        OSError: There is no such interface (ENODEV), or the kernel refuses (EPERM).
    """
    request = _IFREQ_FLAGS.pack(name.encode(), 0)
    flags = _IFREQ_FLAGS.unpack(fcntl.ioctl(sock, SIOCGIFFLAGS, request))[1]
    flags = flags | IFF_UP if up else flags & ~IFF_UP
    fcntl.ioctl(sock, SIOCSIFFLAGS, _IFREQ_FLAGS.pack(name.encode(), flags))


def has_carrier(sock: int, name: str) -> bool:
    """Tell whether interface ``name`` has a carrier.

    Not by the flag IFF_RUNNING, which says so only when the kernel's linkwatch has run,
    some milliseconds later.

    Raises:
        OSError: There is no such interface (ENODEV).
    """
    value = _ethtool(sock, name, _ETHTOOL_VALUE.pack(ETHTOOL_GLINK, 0))
    return bool(_ETHTOOL_VALUE.unpack(value)[1])


def interface_is_up(sock: int, name: str) -> bool:
    """Tell whether interface ``name`` is up, with a carrier or without.

    Raises:
        OSError: There is no such interface (ENODEV).
    """
    answer = fcntl.ioctl(sock, SIOCGIFFLAGS, _IFREQ_FLAGS.pack(name.encode(), 0))
    return bool(_IFREQ_FLAGS.unpack(answer)[1] & IFF_UP)


def set_offloads(sock: int, name: str, *, on: bool) -> None:
    """Have a veth interface leave checksums and the cutting of TCP segments, or not.

    As `aioioth._linux.tuntap.set_offloads` does for a TAP. What a virtio header has no
    words for is done by the kernel in any case, such as SCTP's checksums, the segments
    in a tunnel, and VLAN tags: a packet socket gets complete frames, but for that.

    Raises:
        OSError: There is no such interface (ENODEV), or the kernel refuses (EPERM).
    """
    bits = _feature_bits(sock, name)
    valid, wanted = [0] * _words(bits), [0] * _words(bits)
    for feature, bit in bits.items():
        leaves = feature in _LEFT
        if leaves or _DONE.fullmatch(feature):
            word, mask = bit // 32, 1 << bit % 32
            valid[word] |= mask
            wanted[word] |= mask * (leaves and on)
    blocks = [each for pair in zip(valid, wanted, strict=True) for each in pair]
    request = struct.pack(f"=II{len(blocks)}I", ETHTOOL_SFEATURES, len(valid), *blocks)
    _ethtool(sock, name, request)


def switch_offloads_off(sock: int, name: str) -> None:
    """See `set_offloads`: frames that leave are complete.

    With the offloads on, ping works and TCP hangs if nobody reads the virtio header.

    Raises:
        OSError: There is no such interface (ENODEV), or the kernel refuses (EPERM).
    """
    set_offloads(sock, name, on=False)


def _feature_bits(sock: int, name: str) -> Mapping[str, int]:
    """Return the numbers of features by name; they differ from kernel to kernel."""
    if not _features:
        request = struct.pack("=IIQI", ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0)
        count = struct.unpack("=IIQI", _ethtool(sock, name, request))[3]
        request = struct.pack("=III", ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count)
        strings = _ethtool(sock, name, request + bytes(count * ETH_GSTRING_LEN))[12:]
        for bit in range(count):
            text = strings[bit * ETH_GSTRING_LEN :][:ETH_GSTRING_LEN]
            _features[text.partition(b"\0")[0].decode()] = bit
    return _features


def _words(bits: Mapping[str, int]) -> int:
    return max(bits.values()) // 32 + 1


def _ethtool(sock: int, name: str, request: bytes) -> bytes:
    value = array.array("B", request)
    pointer = _IFREQ_POINTER.pack(name.encode(), value.buffer_info()[0])
    fcntl.ioctl(sock, SIOCETHTOOL, pointer)
    return value.tobytes()
