from __future__ import annotations

import errno
import re

import pytest

from aioioth import errors

ALL = {
    name: value
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, (Exception, Warning))
}


def tree() -> dict[str, tuple[str, str | None]]:
    """Return parent and builtin base of each class in the docstring's tree."""
    found: dict[str, tuple[str, str | None]] = {}
    path: list[str] = ["Exception"]
    line = re.compile(r"^    (?P<indent>[│├└─ ]*)(?P<name>\w+)(?: \((?P<builtin>\w+))?")
    for text in (errors.__doc__ or "").splitlines():
        match = line.match(text)
        if match and match["name"] in ALL:
            depth = len(match["indent"]) // 4
            del path[depth + 1 :]
            found[match["name"]] = path[-1], match["builtin"]
            path.append(match["name"])
    return found


def test_the_docstring_shows_the_tree() -> None:
    shown = tree()
    assert shown.keys() == ALL.keys()
    for name, (parent, builtin) in shown.items():
        bases = [base.__name__ for base in ALL[name].__bases__]
        expected = [] if name.endswith("Warning") else [parent]
        assert bases == expected + ([builtin] if builtin else []), name


def test_all_errors_are_ours() -> None:
    for name, error in ALL.items():
        kind = RuntimeWarning if name.endswith("Warning") else errors.AioiothError
        assert issubclass(error, kind)


def test_closed() -> None:
    error = errors.ClosedError("stack 'web'")
    assert error.what == "stack 'web'"
    assert str(error) == "stack 'web' is closed: make a new one"
    hint = errors.ClosedError("stack 'web'", hint="not open yet")
    assert str(hint) == "stack 'web' is not open yet"


def test_wrong_loop() -> None:
    error = errors.WrongLoopError("stack 'web'")
    assert str(error).startswith("stack 'web' was opened on another event loop: it is")
    error = errors.WrongLoopError("stack 'web'", forked=True)
    assert str(error).startswith("stack 'web' was opened in the parent process: it is")
    cable = errors.WrongLoopError("cable 'c'", sockets=False)
    assert str(cable) == "cable 'c' was opened on another event loop: use it there"


@pytest.mark.parametrize(
    ("users", "text"),
    [
        ((), "stack 'web' is open already"),
        (["fd 5: x", "fd 6: y"], "stack 'web' is open already:\n  fd 5: x\n  fd 6: y"),
    ],
)
def test_busy(users: list[str], text: str) -> None:
    error = errors.BusyError("stack 'web' is open already", users)
    assert error.errno == errno.EBUSY
    assert error.users == tuple(users)
    assert error.strerror == text


@pytest.mark.parametrize(
    ("given", "code"), [(None, errno.EIO), (errno.ENOENT, errno.ENOENT), (0, 0)]
)
def test_broken_transport(given: int | None, code: int) -> None:
    error = errors.BrokenTransportError("vde:///tmp/sw", "no switch", errno=given)
    assert error.vnl == "vde:///tmp/sw"
    assert error.errno == code
    assert str(error) == f"[Errno {code}] vde:///tmp/sw: no switch"
    assert type(error) is errors.BrokenTransportError  # OSError picks no subclass


def test_handshake_timeout() -> None:
    error = errors.HandshakeTimeoutError("vde:///tmp/sw", "silence")
    assert error.errno == errno.ETIMEDOUT
    assert isinstance(error, TimeoutError)
    assert isinstance(error, errors.BrokenTransportError)


@pytest.mark.parametrize(
    ("given", "code"), [(None, errno.EIO), (errno.EPROTO, errno.EPROTO)]
)
def test_keeper(given: int | None, code: int) -> None:
    error = errors.KeeperError("died at once", errno=given)
    assert str(error) == f"[Errno {code}] the keeper died at once"


def test_vnl() -> None:
    error = errors.VnlError("vde:///tmp/sw[prot=5]", 14, "no option 'prot'")
    assert (error.vnl, error.position) == ("vde:///tmp/sw[prot=5]", 14)
    assert error.reason == "no option 'prot'"
    assert str(error).splitlines() == [
        "no option 'prot'",
        "  vde:///tmp/sw[prot=5]",
        "                ^",
    ]
    assert isinstance(error, ValueError)


@pytest.mark.parametrize("vnl", ["\0", "a\nb", "\ud800", "\x1b[2J", "x\u2028y"])
def test_a_vnl_that_is_shown_breaks_nothing(vnl: str) -> None:
    shown = str(errors.VnlError(vnl, len(vnl), "no"))
    reason, text, caret = shown.split("\n")
    assert (reason, caret) == ("no", f"  {' ' * len(vnl)}^")
    assert text.isprintable()
    assert len(text) == 2 + len(vnl)


def test_a_vnl_inside_of_another() -> None:
    error = errors.VnlError("memory", 6, "expected '://'")
    outer = error.inside("vlan://4{", "}")
    assert (outer.vnl, outer.position) == ("vlan://4{memory}", 15)
    assert outer.reason == error.reason
    assert str(outer).splitlines()[1:] == ["  vlan://4{memory}", "                 ^"]


def test_unknown_plugin() -> None:
    error = errors.UnknownSchemeError("aioioth.transports", "tor", ["null", "vde"])
    assert (error.group, error.name) == ("aioioth.transports", "tor")
    assert error.known == ("null", "vde")
    assert "no transport serves tor://; known are null://, vde://. Check" in str(error)
    assert error.hint == ""
    hint = errors.UnknownSchemeError("aioioth.transports", "x", ["a"], hint="no, no")
    assert "known are a://; no, no. Check" in str(hint)
    nothing = errors.UnknownPluginError("aioioth.stacks", "lwip", [])
    assert "installed: none." in str(nothing)


def test_missing_privilege() -> None:
    error = errors.MissingPrivilegeError("making a thing", "Do this.", errno=1)
    assert (error.action, error.advice) == ("making a thing", "Do this.")
    expected = "[Errno 1] making a thing: Operation not permitted. Do this."
    assert str(error) == expected
    full = errors.MissingPrivilegeError("making", "Do.", errno=errno.ENOSPC)
    assert isinstance(full, PermissionError)


@pytest.mark.parametrize(
    ("detail", "text"),
    [
        ("", "ip link set x up: No such device"),
        ("really", "ip link set x up: No such device (really)"),
    ],
)
def test_netlink(detail: str, text: str) -> None:
    error = errors.NetlinkError(errno.ENODEV, "ip link set x up", detail)
    assert error.request == "ip link set x up"
    assert error.args == (errno.ENODEV, text)
