from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from aioioth import _preflight
from aioioth.errors import MissingPrivilegeError

if TYPE_CHECKING:
    from pathlib import Path

# A kernel that refuses nothing.
WILLING = {
    "sys/kernel/apparmor_restrict_unprivileged_userns": "0",
    "sys/kernel/unprivileged_userns_clone": "1",
    "sys/user/max_user_namespaces": "15000",
    "sys/user/max_net_namespaces": "15000",
    "self/status": "Name:\tpython3\nSeccomp:\t0\nSeccomp_filters:\t0",
}
FILTERED = {"self/status": "Name:\tpython3\nSeccomp:\t2\nSeccomp_filters:\t1"}


def proc_tree(root: Path, changes: dict[str, str | None]) -> Path:
    for name, text in (WILLING | changes).items():
        if text is not None:
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{text}\n")
    return root


@pytest.mark.parametrize(
    ("changes", "code", "advice"),
    [
        (
            {"sys/user/max_user_namespaces": None},
            errno.EINVAL,
            "CONFIG_USER_NS",
        ),
        (
            {"sys/kernel/apparmor_restrict_unprivileged_userns": "1"},
            errno.EPERM,
            "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        (
            {"sys/kernel/unprivileged_userns_clone": "0"},
            errno.EPERM,
            "sudo sysctl kernel.unprivileged_userns_clone=1",
        ),
        (
            {"sys/user/max_user_namespaces": "0"},
            errno.ENOSPC,
            "sudo sysctl user.max_user_namespaces=15000",
        ),
        ({}, errno.ENOSPC, "limit of user namespaces is reached"),
        ({}, errno.EUSERS, "limit of user namespaces is reached"),
        (FILTERED, errno.EPERM, "seccomp=unconfined"),
        ({}, errno.EPERM, "No sysctl explains it"),
        ({"self/status": None}, errno.EPERM, "No sysctl explains it"),
        (
            {
                "sys/kernel/apparmor_restrict_unprivileged_userns": None,
                "sys/kernel/unprivileged_userns_clone": None,
            },
            errno.EPERM,
            "No sysctl explains it",
        ),
    ],
)
def test_user_namespaces(
    tmp_path: Path, changes: dict[str, str | None], code: int, advice: str
) -> None:
    proc = proc_tree(tmp_path, changes)
    assert advice in _preflight.user_namespace_advice(code, proc=proc)


@pytest.mark.parametrize(
    ("changes", "code", "advice"),
    [
        ({"sys/user/max_net_namespaces": None}, errno.EINVAL, "CONFIG_NET_NS"),
        (
            {"sys/user/max_net_namespaces": "0"},
            errno.ENOSPC,
            "user.max_net_namespaces is 0): raise it with 'sudo sysctl",
        ),
        (
            {"sys/user/max_net_namespaces": "3"},
            errno.ENOSPC,
            "user.max_net_namespaces is 3): raise it with 'sudo sysctl",
        ),
        ({}, errno.EUSERS, "limit of network namespaces is reached"),
        (
            {"sys/kernel/apparmor_restrict_unprivileged_userns": "1"},
            errno.EPERM,
            "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        (FILTERED, errno.EPERM, "seccomp=unconfined"),
        ({}, errno.EPERM, "No sysctl explains it"),
    ],
)
def test_network_namespaces(
    tmp_path: Path, changes: dict[str, str | None], code: int, advice: str
) -> None:
    proc = proc_tree(tmp_path, changes)
    assert advice in _preflight.network_namespace_advice(code, proc=proc)


@pytest.mark.parametrize("advise", ["user_namespace", "network_namespace"])
def test_the_sysctl_comes_before_the_filter(tmp_path: Path, advise: str) -> None:
    apparmor = "sys/kernel/apparmor_restrict_unprivileged_userns"
    proc = proc_tree(tmp_path, {**FILTERED, apparmor: "1"})
    advice = getattr(_preflight, f"{advise}_advice")(errno.EPERM, proc=proc)
    assert "AppArmor" in advice
    assert "seccomp" not in advice


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ENODEV, errno.ENXIO])
def test_a_tap_that_is_not_there(code: int) -> None:
    advice = _preflight.tun_advice(code)
    assert "sudo modprobe tun" in advice
    assert "leave out device='tap'" in advice


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM])
def test_a_tap_that_is_not_ours(code: int) -> None:
    advice = _preflight.tun_advice(code)
    assert "sudo chmod 0666 /dev/net/tun" in advice
    assert "leave out device='tap'" in advice


@pytest.mark.parametrize(
    ("step", "action"),
    [
        ("user namespace", "making a user namespace"),
        ("id map", "making a user namespace"),
        ("joining the user namespace", "making a user namespace"),
        ("network namespace", "making a network namespace"),
        ("opening /dev/net/tun", "opening /dev/net/tun"),
    ],
)
@pytest.mark.parametrize("code", [errno.EPERM, errno.EACCES, errno.ENOSPC])
def test_a_refused_step_is_a_missing_privilege(
    step: str, action: str, code: int
) -> None:
    error = _preflight.explain(step, code)
    assert type(error) is MissingPrivilegeError
    assert isinstance(error, PermissionError)
    assert error.errno == code
    assert error.action == action
    assert error.advice.endswith((".", "'."))
    assert str(error) == (
        f"[Errno {code}] {action}: {os.strerror(code)}. {error.advice}"
    )


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.EPERM, PermissionError),
        (errno.EAFNOSUPPORT, OSError),
        (errno.EPROTONOSUPPORT, OSError),
    ],
)
def test_a_socket_fails_as_if_made_here(code: int, kind: type[OSError]) -> None:
    error = _preflight.explain("socket", code)
    assert type(error) is kind
    assert error.args == (code, os.strerror(code))


@pytest.mark.parametrize(
    "step",
    [
        "TAP interface",
        "ip link set lo up",
        "sysctl net/ipv4/ip_forward=1",
        "entering a network namespace",
    ],
)
def test_any_other_step_is_named(step: str) -> None:
    error = _preflight.explain(step, errno.EBUSY)
    assert type(error) is OSError
    assert error.args == (errno.EBUSY, f"{step}: {os.strerror(errno.EBUSY)}")
