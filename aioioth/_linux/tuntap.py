"""TAP devices that the keeper has opened.

Source: <linux/if_tun.h>, Linux 6.1; Documentation/networking/tuntap.rst.
"""

from __future__ import annotations

import fcntl
import struct

TUNSETPERSIST = 0x400454CB
TUNSETOFFLOAD = 0x400454D0
TUNSETCARRIER = 0x400454E2

TUN_F_CSUM = 0x01
TUN_F_TSO4 = 0x02
TUN_F_TSO6 = 0x04


def set_persistent(descriptor: int) -> None:
    """Let the interface outlive its descriptor.

    Closing a TAP that is not persistent waits for an RCU grace period: 16 to 48 ms in
    which the loop stands still. A persistent one closes in 40 us and is freed by the
    kernel in the background, together with its namespace.
    """
    fcntl.ioctl(descriptor, TUNSETPERSIST, 1)


def set_carrier(descriptor: int, *, on: bool) -> None:
    """Plug the interface's cable in or out, as seen from inside the stack."""
    fcntl.ioctl(descriptor, TUNSETCARRIER, struct.pack("=i", on))


def set_offloads(descriptor: int, *, on: bool) -> None:
    """Have the stack leave checksums and the cutting of TCP segments to us.

    Frames in the interface's queue stay as they are.
    """
    features = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 if on else 0
    fcntl.ioctl(descriptor, TUNSETOFFLOAD, features)
