"""Where the kernel refuses: the message names the sysctl or device, and what to do.

The refusals are real: each program runs in a user namespace of its own, where limits
can be set and filters installed without touching anybody else.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

# Enter a user namespace as its root, so that its limits are ours to set.
ENTER = """
    import ctypes, os, pathlib, struct, sys
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.geteuid(), os.getegid()
    assert libc.unshare(0x10000000) == 0, os.strerror(ctypes.get_errno())
    pathlib.Path("/proc/self/setgroups").write_text("deny")
    pathlib.Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    pathlib.Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
"""

# Lose the privileges again, as an ordinary user has none.
DROP = """
    libc.prctl(38, 1, 0, 0, 0)                       # PR_SET_NO_NEW_PRIVS
    for capability in range(41):
        libc.prctl(24, capability, 0, 0, 0)          # PR_CAPBSET_DROP
    libc.capset(struct.pack("=Ii", 0x20080522, 0), bytes(24))
"""

TRY = """
    import asyncio, aioioth
    from aioioth.testing import no_leaks

    async def main():
        try:
            async with aioioth.Stack("memory://lan", ip="10.0.0.1/24"):
                print("opened")
        except aioioth.errors.MissingPrivilegeError as error:
            print(error)

    with no_leaks():
        asyncio.run(main())
"""

# A seccomp filter that answers EPERM to unshare, as containers have it. BPF: load the
# system call's number, compare, allow or refuse.
FILTER = """
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
    number = {"x86_64": 272, "aarch64": 97}[os.uname().machine]
    code = b"".join(struct.pack("=HBBI", *step) for step in (
        (0x20, 0, 0, 0), (0x15, 0, 1, number),
        (0x06, 0, 0, 0x00050000 | 1), (0x06, 0, 0, 0x7FFF0000)))
    libc.prctl(38, 1, 0, 0, 0)
    assert libc.prctl(22, 2, ctypes.byref(Program(4, code)), 0, 0) == 0
"""


def run(*parts: str) -> str:
    program = "".join(textwrap.dedent(part) for part in parts)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def limit(name: str) -> str:
    return f'pathlib.Path("/proc/sys/user/{name}").write_text("0")\n'


def test_user_namespaces_are_off() -> None:
    out = run(ENTER, limit("max_user_namespaces"), DROP, TRY)
    assert "making a user namespace: No space left on device." in out
    assert "'sudo sysctl user.max_user_namespaces=15000'" in out


def test_network_namespaces_are_off() -> None:
    out = run(ENTER, limit("max_net_namespaces"), TRY)
    assert "making a network namespace: No space left on device." in out
    assert "user.max_net_namespaces is 0" in out


def test_a_seccomp_filter() -> None:
    out = run(ENTER, FILTER, DROP, TRY)
    assert "making a user namespace: Operation not permitted." in out
    assert "seccomp filter" in out
    assert "--security-opt seccomp=unconfined" in out


def test_privileges_make_up_for_user_namespaces() -> None:
    """With CAP_SYS_ADMIN, no user namespace is needed."""
    assert run(ENTER, limit("max_user_namespaces"), TRY) == "opened\n"


@pytest.mark.parametrize("mapped", ["0", "1000"])
def test_inside_another_user_namespace(mapped: str) -> None:
    """As root of a container, and as an ordinary user in one."""
    assert run(ENTER.replace('f"0 {', f'f"{mapped} {{'), TRY) == "opened\n"
