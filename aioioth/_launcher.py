"""The launcher program: enters a stack and becomes the program that was asked for.

Run by ``_launch.py`` as ``python -I -S _launcher.py STATUS REQUEST``, both being
inherited descriptors. REQUEST is a file: the ignored signals, then the rest (see
`main`). STATUS is a pipe that tells how far it came::

    ""             it never came to the end: killed
    "+"            the program runs; the kernel closed STATUS when it started
    "ERRNO STEP"   a system call failed, and what it was for
    "+ERRNO exec"  there is no such program

Imports little, and nothing of ours: each millisecond here is one for every program.

Source:
    CPython's Modules/_posixsubprocess.c, whose order of steps this keeps;
    mount_namespaces(7), uts_namespaces(7), capabilities(7), prctl(2), capget(2).
"""

from __future__ import annotations

import ctypes
import marshal
import os
import sys

TYPE_CHECKING = False  # the module typing would cost more
if TYPE_CHECKING:
    from typing import Any

# <linux/sched.h>, Linux 6.1
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
# <linux/mount.h>
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_BIND = 0x1000
MS_REC = 0x4000
MS_SLAVE = 0x80000
MNT_DETACH = 0x2
MOUNT_ATTR_NOSUID = 0x2
# <asm/unistd.h>, <linux/fcntl.h>; glibc has a function for it since 2.36
SYS_MOUNT_SETATTR = 442
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
# <linux/prctl.h>
PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
# <linux/capability.h>: CAP_NET_BIND_SERVICE, _BROADCAST, _ADMIN, _RAW
NETWORK_CAPABILITIES = (10, 11, 12, 13)
_CAPABILITY_VERSION_3 = 0x20080522
# <asm/signal.h>, <asm/errno.h>: the modules signal and errno would cost more
SIG_DFL, SIG_IGN, SIG_SETMASK = 0, 1, 2
SIGKILL = 9
LAST_SIGNAL = 64
EPERM, ENOENT, ENOTDIR, EINVAL = 1, 2, 20, 22

# A directory that is there on each machine on which a stack works. Our files are made
# on a tmpfs that covers it for a moment.
_WORKSHOP = "/proc"

_SAFE = MS_NOSUID | MS_NODEV | MS_NOEXEC

_libc = ctypes.CDLL(None, use_errno=True)


class StepError(Exception):
    """A system call failed; ``step`` says what it was for."""

    def __init__(self, code: int, step: str) -> None:
        super().__init__(step)
        self.code = code
        self.step = step


def _call(step: str, function: str, *arguments: int | bytes | None) -> None:
    if getattr(_libc, function)(*arguments) < 0:
        raise StepError(ctypes.get_errno(), step)


def _prctl(step: str, option: int, argument: int, more: int = 0) -> None:
    # Unused arguments must be zero as longs; an int leaves the upper half undefined.
    padded = [ctypes.c_ulong(number) for number in (argument, more, 0, 0)]
    if _libc.prctl(option, *padded) < 0:
        raise StepError(ctypes.get_errno(), step)


def close_strays(keep: list[int]) -> None:
    """Let the program inherit nothing else; uvloop has left the door open."""
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor > 2 and descriptor not in keep:
            try:
                os.set_inheritable(descriptor, False)
            except OSError:
                continue  # the directory's own


def enter(user_namespace: int | None, network_namespace: int) -> None:
    """Go into the stack, and into mount and UTS namespaces of our own."""
    if user_namespace is not None:
        step = "joining the user namespace"
        _call(step, "setns", user_namespace, CLONE_NEWUSER)
    step = "joining the network namespace"
    _call(step, "setns", network_namespace, CLONE_NEWNET)
    _call("mount namespace", "unshare", CLONE_NEWNS)
    _call("UTS namespace", "unshare", CLONE_NEWUTS)
    # What the host mounts and unmounts later reaches the program too, so that it does
    # not hold the host's file systems for ever. Nothing goes the other way.
    _mount("mount propagation", b"none", "/", None, MS_REC | MS_SLAVE)
    if os.geteuid():
        forbid_privileged_files()


def forbid_privileged_files() -> None:
    """Make set-user-ID bits and capabilities of files void, as ``nosuid`` does.

    An ordinary user's stack has nobody else's id that a program could change to. And
    one like ping, whose file has a capability, would lose those that we give, and the
    parent-death signal with them. Kernels before 5.12 cannot do it to all mounts.
    """
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_NOSUID)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    _libc.syscall(
        ctypes.c_long(SYS_MOUNT_SETATTR), AT_FDCWD, b"/", AT_RECURSIVE, attributes, size
    )


def _mount(
    step: str, source: bytes, target: str, kind: bytes | None, flags: int
) -> None:
    _call(step, "mount", source, os.fsencode(target), kind, flags, None)


def furnish(files: dict[str, bytes]) -> None:
    """Replace files of the host by ours, for this mount namespace only.

    One that the host does not have is left out: there is nothing to mount it on.
    """
    present = [target for target in files if os.path.isfile(target)]  # noqa: PTH113  (pathlib would double the start-up time)
    _mount("mounting a tmpfs", b"tmpfs", _WORKSHOP, b"tmpfs", _SAFE)
    for number, target in enumerate(present):
        made = f"{_WORKSHOP}/{number}"
        _write(made, files[target])
        _mount(f"mounting {target}", made.encode(), target, None, MS_BIND)
    show_interfaces()
    _call("unmounting the tmpfs", "umount2", _WORKSHOP.encode(), MNT_DETACH)
    # glibc asks a name service cache of the host before anything else.
    if os.path.isdir("/var/run/nscd"):  # noqa: PTH112
        _mount("hiding nscd", b"tmpfs", "/var/run/nscd", b"tmpfs", _SAFE)


def show_interfaces() -> None:
    """Let ``/sys/class/net`` list the stack's interfaces, if the kernel allows it.

    It does not in a container that hides parts of ``/sys``; few programs look there.
    """
    made = f"{_WORKSHOP}/sys"
    os.mkdir(made)  # noqa: PTH102
    try:
        _mount("sysfs", b"sysfs", made, b"sysfs", _SAFE)
        # Not all of it, since the host's mounts below /sys would be hidden. The entries
        # of class/net are links to the devices, of which a stack has virtual ones.
        for part in ("class/net", "devices/virtual/net"):
            _mount("sysfs", f"{made}/{part}".encode(), f"/sys/{part}", None, MS_BIND)
    except StepError:
        return


def _write(path: str, content: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        with open(descriptor, "wb") as file:  # noqa: PTH123
            os.fchmod(descriptor, 0o644)  # whatever the umask says
            file.write(content)
    except OSError as error:
        raise StepError(error.errno or EINVAL, f"writing {path}") from None


def name_service(configured: bytes) -> bytes:
    """Return an ``nsswitch.conf`` whose host names come from files and DNS alone.

    Other modules ask the host's services over UNIX sockets.
    """
    lines = [
        line
        for line in configured.splitlines()
        if not line.lstrip().startswith(b"hosts:")
    ]
    return b"\n".join([*lines, b"hosts: files dns", b""])


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return b""


def become(uid: int | None, gid: int | None, groups: list[int] | None) -> None:
    """Change user and groups as ``subprocess`` does, but keep the capabilities."""
    _prctl("keeping capabilities", PR_SET_KEEPCAPS, 1)
    try:
        if groups is not None:
            os.setgroups(groups)
        if gid is not None:
            os.setregid(gid, gid)
        if uid is not None:
            os.setreuid(uid, uid)
    except OSError as error:
        # An id that the user namespace does not have is EINVAL to the kernel.
        code = EPERM if error.errno == EINVAL else error.errno or EPERM
        raise StepError(code, "setup") from None


def raise_ambient() -> None:
    """Let the program, and those that it starts, do with the network what it likes.

    Capabilities that we do not have are left out: without a user namespace there may
    be few.
    """
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    if _libc.capget(header, sets) < 0:
        raise StepError(ctypes.get_errno(), "capabilities")
    ours = [each for each in NETWORK_CAPABILITIES if sets[1] & 1 << each]
    for capability in ours:
        sets[2] |= 1 << capability
    if _libc.capset(header, sets) < 0:
        raise StepError(ctypes.get_errno(), "capabilities")
    for capability in ours:
        _prctl("capabilities", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)


def die_with(parent: int) -> None:
    """End when the thread that started us does, also when that was a moment ago."""
    _prctl("parent-death signal", PR_SET_PDEATHSIG, SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), SIGKILL)


def restore_signals(ignored: int, blocked: int | None) -> None:
    """Undo what Python and libuv have done to signals.

    Args:
        ignored: Mask of the signals that the program shall ignore.
        blocked: Mask of those it shall have blocked; None leaves them as they are.
    """
    for number in range(1, LAST_SIGNAL + 1):
        _libc.signal(number, ctypes.c_void_p(ignored >> number - 1 & 1))
    if blocked is not None:
        _libc.sigprocmask(SIG_SETMASK, (ctypes.c_uint64 * 16)(blocked), None)


def _strings(texts: list[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * (len(texts) + 1))(*texts, None)


def execute(
    paths: list[bytes], arguments: list[bytes], environment: list[bytes]
) -> int:
    """Become the first of ``paths`` that is a program; return why none is.

    ``os.execve`` would not do: it refuses an empty name, which ``subprocess`` takes.
    """
    argv, envp = _strings(arguments), _strings(environment)
    first = code = 0
    for path in paths:
        _libc.execve(path, argv, envp)
        code = ctypes.get_errno()
        if code not in {ENOENT, ENOTDIR}:
            first = first or code
    return first or code


def settle(umask: int, process_group: int, *, new_session: bool) -> None:
    """Do a part of what the caller's arguments ask for, as ``subprocess`` does."""
    if umask >= 0:
        os.umask(umask)
    try:
        if new_session:
            os.setsid()
        if process_group >= 0:
            os.setpgid(0, process_group)
    except OSError as error:
        raise StepError(error.errno or EPERM, "setup") from None


def prepare(request: dict[str, Any]) -> None:
    """Do everything but become the program."""
    if request["cwd"] is not None:
        try:
            os.chdir(request["cwd"])
        except OSError as error:
            raise StepError(error.errno or ENOENT, "cwd") from None
    enter(request["user_namespace"], request["network_namespace"])
    _call("host name", "sethostname", request["hostname"], len(request["hostname"]))
    switch = name_service(_read("/etc/nsswitch.conf"))
    furnish(request["files"] | {"/etc/nsswitch.conf": switch})
    new_session = request["start_new_session"]
    settle(request["umask"], request["process_group"], new_session=new_session)
    become(request["uid"], request["gid"], request["groups"])
    raise_ambient()
    die_with(request["parent"])


def main() -> None:
    """Do all of it; see the module."""
    status, source = int(sys.argv[1]), int(sys.argv[2])
    # Ctrl-C ends a program that has not begun yet; Python would show a traceback.
    _libc.signal(2, ctypes.c_void_p(SIG_DFL))
    with open(source, "rb") as file:
        ignored = int.from_bytes(file.read(8), sys.byteorder)
        request = marshal.loads(file.read())  # noqa: S302  (from our own parent)
    close_strays(request["keep"])
    try:
        prepare(request)
        restore_signals(ignored, request["blocked"])
        os.write(status, b"+")
        code = execute(request["paths"], request["arguments"], request["environment"])
        os.write(status, b"%d exec" % code)
    except StepError as failure:
        os.write(status, f"{failure.code} {failure.step}".encode())
    os._exit(255)


if __name__ == "__main__":
    main()
