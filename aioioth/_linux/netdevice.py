"""Questions and orders about an interface, asked through any socket of its namespace.

Source: netdevice(7); <linux/sockios.h>, <linux/ethtool.h>, <linux/if.h>, Linux 6.1.
"""

from __future__ import annotations

import array
import errno
import fcntl
import struct

SIOCGIFNAME = 0x8910
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
SIOCGIFMTU = 0x8921
SIOCGIFHWADDR = 0x8927
SIOCGIFINDEX = 0x8933
SIOCETHTOOL = 0x8946

IFF_UP = 0x1

ETHTOOL_GLINK = 0x0A
ETHTOOL_STXCSUM = 0x17
ETHTOOL_STSO = 0x1F
ETHTOOL_SGSO = 0x24

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
    value = array.array("B", _ETHTOOL_VALUE.pack(ETHTOOL_GLINK, 0))
    request = _IFREQ_POINTER.pack(name.encode(), value.buffer_info()[0])
    fcntl.ioctl(sock, SIOCETHTOOL, request)
    return bool(_ETHTOOL_VALUE.unpack(value)[1])


def interface_is_up(sock: int, name: str) -> bool:
    """Tell whether interface ``name`` is up, with a carrier or without.

    Raises:
        OSError: There is no such interface (ENODEV).
    """
    answer = fcntl.ioctl(sock, SIOCGIFFLAGS, _IFREQ_FLAGS.pack(name.encode(), 0))
    return bool(_IFREQ_FLAGS.unpack(answer)[1] & IFF_UP)


def switch_offloads_off(sock: int, name: str) -> None:
    """Do ``ethtool -K NAME tx off tso off gso off``.

    Frames that leave through a veth pair and are read from a packet socket have to be
    complete: with the offloads on, checksums are partial and frames up to 64 KiB long.
    Ping works then and TCP hangs.

    Raises:
        OSError: There is no such interface (ENODEV), or the kernel refuses (EPERM).
    """
    for command in (ETHTOOL_STXCSUM, ETHTOOL_STSO, ETHTOOL_SGSO):
        value = array.array("B", _ETHTOOL_VALUE.pack(command, 0))
        request = _IFREQ_POINTER.pack(name.encode(), value.buffer_info()[0])
        try:
            fcntl.ioctl(sock, SIOCETHTOOL, request)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:  # it cannot be on, then
                raise
