"""Which of this process's descriptors are sockets of a given network namespace.

Source: <linux/sockios.h> (SIOCGSKNS, since Linux 4.9); ioctl_nsfs(2).
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import termios

SIOCGSKNS = 0x894C


def sockets_of(namespace: int) -> list[int]:
    """Return the descriptors of this process that are sockets in ``namespace``.

    The kernel is asked about each descriptor, so sockets count however they came to be:
    made, accepted, duplicated, or opened by a library in C.

    Args:
        namespace: Descriptor of a network namespace.
    """
    identity = _identity(namespace)
    found = []
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        try:
            # A TAP answers the question too.
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
            theirs = fcntl.ioctl(descriptor, SIOCGSKNS)
        except OSError:
            continue  # gone meanwhile, or its namespace is not ours to know
        try:
            if _identity(theirs) == identity:
                found.append(descriptor)
        finally:
            os.close(theirs)
    return sorted(found)


def unsent(descriptor: int) -> int:
    """Return how many bytes the peer of a socket has not read yet; 0 if unknown."""
    try:
        answer = fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4))  # SIOCOUTQ, too
    except OSError:
        return 0  # not a socket
    return int(struct.unpack("=i", answer)[0])


def _identity(namespace: int) -> tuple[int, int]:
    status = os.fstat(namespace)
    return status.st_dev, status.st_ino
