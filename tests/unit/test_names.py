from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from aioioth import _names

V4, V6 = socket.AF_INET, socket.AF_INET6
STREAM = socket.SOCK_STREAM
INDEXES = {"vde0": 7, "lo": 1}


def index(name: str) -> int:
    try:
        return INDEXES[name]
    except KeyError:
        raise OSError(errno.ENODEV, "No such device") from None


def resolve(host: str | bytes | None, port: int | str | None, **wanted: int) -> Any:
    kind = wanted.pop("type", STREAM)
    return _names.resolve(host, port, type=kind, interface_index=index, **wanted)


def addresses(host: str | bytes | None, port: int | str | None, **wanted: int) -> Any:
    return [(info[0], info[4]) for info in resolve(host, port, **wanted)]


@pytest.mark.parametrize(
    ("host", "family", "address"),
    [
        ("10.0.0.1", V4, ("10.0.0.1", 7)),
        (b"10.0.0.1", V4, ("10.0.0.1", 7)),
        ("0.0.0.0", V4, ("0.0.0.0", 7)),
        ("fd00::1", V6, ("fd00::1", 7, 0, 0)),
        ("FD00:0:0::1", V6, ("fd00::1", 7, 0, 0)),
        ("::", V6, ("::", 7, 0, 0)),
        ("::ffff:10.0.0.1", V6, ("::ffff:10.0.0.1", 7, 0, 0)),
        ("fe80::1%vde0", V6, ("fe80::1", 7, 0, 7)),
        ("fe80::1%lo", V6, ("fe80::1", 7, 0, 1)),
        ("fe80::1%42", V6, ("fe80::1", 7, 0, 42)),
        ("ff02::1%vde0", V6, ("ff02::1", 7, 0, 7)),
    ],
)
def test_literals(host: str, family: int, address: tuple[object, ...]) -> None:
    assert resolve(host, 7) == [(family, STREAM, socket.IPPROTO_TCP, "", address)]


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost", "localhost.", b"localhost", "ip6-localhost"]
)
def test_localhost_is_both_loopbacks(host: str | bytes) -> None:
    expected = [(V6, ("::1", 7, 0, 0)), (V4, ("127.0.0.1", 7))]
    assert addresses(host, 7) == expected


@pytest.mark.parametrize(
    ("family", "expected"),
    [(V4, (V4, ("127.0.0.1", 7))), (V6, (V6, ("::1", 7, 0, 0)))],
)
def test_localhost_of_one_family(family: int, expected: object) -> None:
    assert addresses("localhost", 7, family=family) == [expected]


def test_localhost_of_a_family_that_has_none() -> None:
    with pytest.raises(socket.gaierror) as caught:
        resolve("localhost", 7, family=socket.AF_UNIX)
    assert caught.value.errno == socket.EAI_FAMILY


@pytest.mark.parametrize(
    "host", ["example.com", "host", "localhost.localdomain", "10.0.0.1.", "10.0.0.256"]
)
def test_other_names_are_not_known(host: str) -> None:
    with pytest.raises(socket.gaierror) as caught:
        resolve(host, 7)
    assert caught.value.errno == socket.EAI_NONAME
    assert str(caught.value).endswith(
        f"{host!r} is no literal address; stacks do not resolve other names than "
        f"'localhost' yet"
    )


def test_the_host_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = socket.getaddrinfo, []

    def record(*arguments: Any) -> Any:
        asked.append(arguments)
        return real(*arguments)

    monkeypatch.setattr("aioioth._names.socket.getaddrinfo", record)
    resolve("10.0.0.1", 7, flags=socket.AI_ADDRCONFIG | socket.AI_V4MAPPED)
    resolve("localhost", 7)
    with pytest.raises(socket.gaierror):
        resolve("example.com", 7)
    assert len(asked) == 4
    for arguments in asked:
        assert arguments[5] == socket.AI_NUMERICHOST


@pytest.mark.parametrize("scope", ["vde1", "nosuch"])
def test_a_scope_that_the_stack_does_not_have(scope: str) -> None:
    with pytest.raises(socket.gaierror, match=f"no interface '{scope}'") as caught:
        resolve(f"fe80::1%{scope}", 7)
    assert caught.value.errno == socket.EAI_NONAME
    assert isinstance(caught.value.__cause__, OSError)


def test_a_scope_alone_is_no_address() -> None:
    with pytest.raises(socket.gaierror):
        resolve("%vde0", 7)


def test_the_other_family() -> None:
    with pytest.raises(socket.gaierror):
        resolve("10.0.0.1", 7, family=V6)
    with pytest.raises(socket.gaierror):
        resolve("fd00::1", 7, family=V4)


def test_no_host_to_listen_on_is_every_address() -> None:
    listening = addresses(None, 7, flags=socket.AI_PASSIVE)
    assert sorted(listening) == [(V4, ("0.0.0.0", 7)), (V6, ("::", 7, 0, 0))]


def test_no_host_to_connect_to_is_the_loopback() -> None:
    expected = [(V4, ("127.0.0.1", 7)), (V6, ("::1", 7, 0, 0))]
    assert sorted(addresses(None, 7)) == expected


def test_services_have_names() -> None:
    assert addresses("10.0.0.1", "http") == [(V4, ("10.0.0.1", 80))]
    assert addresses("10.0.0.1", "7") == [(V4, ("10.0.0.1", 7))]
    assert addresses("10.0.0.1", None) == [(V4, ("10.0.0.1", 0))]


def test_a_service_that_nobody_knows() -> None:
    with pytest.raises(socket.gaierror) as caught:
        resolve("10.0.0.1", "no such service")
    assert caught.value.errno == socket.EAI_SERVICE


def test_the_kind_is_kept() -> None:
    [info] = resolve("10.0.0.1", 53, type=socket.SOCK_DGRAM)
    assert info[1:3] == (socket.SOCK_DGRAM, socket.IPPROTO_UDP)
    assert [info[1] for info in resolve("10.0.0.1", 53, type=0)] == [
        socket.SOCK_STREAM,
        socket.SOCK_DGRAM,
        socket.SOCK_RAW,
    ]
