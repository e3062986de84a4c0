"""TAP devices that the keeper has opened.

Source: <linux/if_tun.h>, Linux 6.1; Documentation/networking/tuntap.rst.
"""

from __future__ import annotations

import fcntl
import struct

TUNSETPERSIST = 0x400454CB
TUNSETCARRIER = 0x400454E2


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
