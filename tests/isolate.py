"""Run a command in an empty network namespace, with only a loopback interface.

Usage: python tests/isolate.py COMMAND [ARGUMENT...]

A socket that leaks out of a stack then fails instead of reaching the outside. The
command runs as the user who calls, with that user's privileges.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys
from pathlib import Path

# <linux/sched.h>, <linux/sockios.h>, <linux/if.h>, Linux 6.1
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1


def unshare(flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags):
        code = ctypes.get_errno()
        raise OSError(code, f"unshare: {os.strerror(code)}")


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    uid, gid = os.geteuid(), os.getegid()
    try:
        unshare(CLONE_NEWNET)
    except PermissionError:
        unshare(CLONE_NEWUSER | CLONE_NEWNET)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH22x", b"lo", IFF_UP)
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, request)
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
