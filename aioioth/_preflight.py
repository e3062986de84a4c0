"""What to say when the kernel refuses: the exact sysctl, device or profile.

Source:
    user_namespaces(7), namespaces(7); Documentation/admin-guide/sysctl/user.rst,
    Linux 6.1; Debian's kernel.unprivileged_userns_clone; Ubuntu's
    kernel.apparmor_restrict_unprivileged_userns.
"""

from __future__ import annotations

import errno
import os
import resource
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from aioioth._keeper import messages, orders
from aioioth.errors import AioiothError, MissingPrivilegeError

if TYPE_CHECKING:
    from collections.abc import Generator

TUN = "opening /dev/net/tun"

_PROC = Path("/proc")

# In the order of how often they are the reason, by the trackers of rootless tools.
_USER_NAMESPACE_SYSCTLS = (
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        (
            "AppArmor restricts user namespaces: run "
            "'sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0', or give "
            "your Python an AppArmor profile with the rule 'userns,'."
        ),
    ),
    (
        "kernel/unprivileged_userns_clone",
        "0",
        (
            "User namespaces are off for ordinary users: run "
            "'sudo sysctl kernel.unprivileged_userns_clone=1'."
        ),
    ),
    (
        "user/max_user_namespaces",
        "0",
        "User namespaces are off: run 'sudo sysctl user.max_user_namespaces=15000'.",
    ),
)

_SECCOMP = (
    "A seccomp filter is active, as in most containers, and may be the reason: start "
    "the container with a profile that allows unshare(2) and setns(2), for example "
    "'docker run --security-opt seccomp=unconfined'."
)
_NO_REASON = (
    "No sysctl explains it; look for a security module's message in 'dmesg', and note "
    "that the kernel refuses user namespaces inside a chroot."
)


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _seccomp_active(proc: Path) -> bool:
    status = _read(proc / "self/status") or ""
    return any(line.split() == ["Seccomp:", "2"] for line in status.splitlines())


def user_namespace_advice(code: int, proc: Path = _PROC) -> str:
    """Return one sentence on why user namespaces are refused and what to do."""
    if _read(proc / "sys/user/max_user_namespaces") is None:
        return "This kernel has no user namespaces (CONFIG_USER_NS)."
    for name, blocking, advice in _USER_NAMESPACE_SYSCTLS:
        if _read(proc / "sys" / name) == blocking:
            return advice
    if code in {errno.ENOSPC, errno.EUSERS}:
        return (
            "The limit of user namespaces is reached: raise the sysctl "
            "user.max_user_namespaces, or end programs that hold some (see 'lsns')."
        )
    return _SECCOMP if _seccomp_active(proc) else _NO_REASON


def network_namespace_advice(code: int, proc: Path = _PROC) -> str:
    """Return one sentence on why network namespaces are refused and what to do."""
    limit = _read(proc / "sys/user/max_net_namespaces")
    if limit is None:
        return "This kernel has no network namespaces (CONFIG_NET_NS)."
    if limit == "0" or code in {errno.ENOSPC, errno.EUSERS}:
        return (
            f"The limit of network namespaces is reached (user.max_net_namespaces is "
            f"{limit}): raise it with 'sudo sysctl user.max_net_namespaces=15000', or "
            f"close stacks that you no longer need."
        )
    if _read(proc / "sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        return _USER_NAMESPACE_SYSCTLS[0][2]
    return _SECCOMP if _seccomp_active(proc) else _NO_REASON


def tun_advice(code: int) -> str:
    """Return one sentence on why /dev/net/tun does not open and what to do."""
    if code in {errno.ENOENT, errno.ENODEV, errno.ENXIO}:
        return (
            "There is no TAP device: run 'sudo modprobe tun', in a container pass "
            "'--device /dev/net/tun', or leave out device='tap' to use a packet socket."
        )
    return (
        "You may not use the TAP device: run 'sudo chmod 0666 /dev/net/tun', or leave "
        "out device='tap' to use a packet socket."
    )


@contextmanager
def descriptors_explained() -> Generator[None]:
    """Say more than "too many open files", if that is what goes wrong in the block.

    Raises:
        OSError: EMFILE; the message says what the limit is and how to raise it.
    """
    try:
        yield
    except OSError as error:
        if error.errno != errno.EMFILE or isinstance(error, AioiothError):
            raise
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        message = (
            f"{os.strerror(errno.EMFILE)}: this process may have {soft}. A stack takes "
            f"one on a bridge and some more on other networks, and each socket one. "
            f"Raise the limit with 'ulimit -n' before the start, or with "
            f"resource.setrlimit, to {hard} at most; or close what is not needed"
        )
        raise OSError(errno.EMFILE, message) from error


def explain(step: str, code: int) -> OSError:
    """Return the error for a step of the keeper that failed with ``code``."""
    if step in {"user namespace", "id map", "joining the user namespace"}:
        advice = user_namespace_advice(code)
        return MissingPrivilegeError("making a user namespace", advice, errno=code)
    if step == "network namespace":
        advice = network_namespace_advice(code)
        return MissingPrivilegeError("making a network namespace", advice, errno=code)
    if step == TUN:
        return MissingPrivilegeError(TUN, tun_advice(code), errno=code)
    kind, _, rest = step.partition(" ")
    if kind == messages.ORDER:
        number, _, text = rest.partition(" ")
        return orders.RefusedError(code, int(number), text)
    reason = os.strerror(code)
    # A socket's error must look as if socket() itself had raised it.
    return OSError(code, reason if step == "socket" else f"{step}: {reason}")
