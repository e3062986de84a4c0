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

Identity = tuple[int, int]


def sockets_of(namespace: int) -> list[int]:
    """Return the descriptors of this process that are sockets in ``namespace``.

    The kernel is asked about each descriptor, so sockets count however they came to be:
    made, accepted, duplicated, or opened by a library in C.

    Args:
        namespace: Descriptor of a network namespace.
    """
    wanted = identity(namespace)
    descriptors = map(int, os.listdir("/proc/self/fd"))
    return sorted(fd for fd in descriptors if namespace_of(fd) == wanted)


def namespace_of(descriptor: int) -> Identity | None:
    """Return which network namespace a socket is in.

    None if it is no socket, is closed, or its namespace is not ours to know: the host's
    is not, for an ordinary user.
    """
    try:
        # A TAP answers the question too.
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return None
        namespace = fcntl.ioctl(descriptor, SIOCGSKNS)
    except OSError:
        return None
    try:
        return identity(namespace)
    finally:
        os.close(namespace)


def identity(namespace: int) -> Identity:
    """Return what tells an open namespace from all others."""
    status = os.fstat(namespace)
    return status.st_dev, status.st_ino


def unsent(descriptor: int) -> int:
    """Return how many bytes the peer of a socket has not read yet; 0 if unknown."""
    try:
        answer = fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4))  # SIOCOUTQ, too
    except OSError:
        return 0  # not a socket
    return int(struct.unpack("=i", answer)[0])
