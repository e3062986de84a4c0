from __future__ import annotations

import errno
import ipaddress
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from aioioth import _names
from aioioth._names import Request
from aioioth.errors import ConfigurationError
from aioioth.names import Hosts, Resolver

if TYPE_CHECKING:
    from collections.abc import Callable

V4, V6 = socket.AF_INET, socket.AF_INET6
STREAM = socket.SOCK_STREAM
INDEXES = {"vde0": 7, "lo": 1}


def index(name: str) -> int:
    try:
        return INDEXES[name]
    except KeyError:
        raise OSError(errno.ENODEV, "No such device") from None


class Indexed(Resolver):
    """A resolver in a stack of which only the interfaces' indexes are needed."""

    def _interface_index(self, name: str) -> int:
        return index(name)

    def _interface_name(self, index: int) -> str:
        for name, number in INDEXES.items():
            if number == index:
                return name
        raise OSError(errno.ENODEV, "No such device")


def no_socket(*arguments: int) -> socket.socket:
    raise AssertionError(arguments)


def resolver(**options: Any) -> Resolver:
    every = {"hosts": None, "dns": (), "domain": ()} | options
    return Indexed(**every, open_socket=no_socket)


def resolve(host: Any, port: Any, **wanted: int) -> Any:
    kind = wanted.pop("type", STREAM)
    return resolver().getaddrinfo_blocking(host, port, type=kind, **wanted)


def addresses(host: Any, port: Any, **wanted: int) -> Any:
    return [(info[0], info[4]) for info in resolve(host, port, **wanted)]


# Literal addresses


@pytest.mark.parametrize(
    ("host", "family", "address"),
    [
        ("10.0.0.1", V4, ("10.0.0.1", 7)),
        (b"10.0.0.1", V4, ("10.0.0.1", 7)),
        (bytearray(b"10.0.0.1"), V4, ("10.0.0.1", 7)),
        ("0.0.0.0", V4, ("0.0.0.0", 7)),
        ("127.1", V4, ("127.0.0.1", 7)),
        ("fd00::1", V6, ("fd00::1", 7, 0, 0)),
        ("FD00:0:0::1", V6, ("fd00::1", 7, 0, 0)),
        ("::", V6, ("::", 7, 0, 0)),
        ("::ffff:10.0.0.1", V6, ("::ffff:10.0.0.1", 7, 0, 0)),
        ("fe80::1%vde0", V6, ("fe80::1", 7, 0, 7)),
        ("fe80::1%lo", V6, ("fe80::1", 7, 0, 1)),
        ("fe80::1%42", V6, ("fe80::1", 7, 0, 42)),
        ("ff02::1%vde0", V6, ("ff02::1", 7, 0, 7)),
        ("fd00::1%42", V6, ("fd00::1", 7, 0, 42)),
    ],
)
def test_literals(host: Any, family: int, address: tuple[object, ...]) -> None:
    assert resolve(host, 7) == [(family, STREAM, socket.IPPROTO_TCP, "", address)]


@pytest.mark.parametrize("scope", ["vde1", "nosuch", ""])
def test_a_scope_that_the_stack_does_not_have(scope: str) -> None:
    with pytest.raises(socket.gaierror, match=f"no interface '{scope}'") as caught:
        resolve(f"fe80::1%{scope}", 7)
    assert caught.value.errno == socket.EAI_NONAME
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("host", ["%vde0", "10.0.0.1%lo", "*%lo", "fd00::1%vde0"])
def test_a_scope_that_has_no_meaning(host: str) -> None:
    with pytest.raises(socket.gaierror) as caught:
        resolve(host, 7)
    assert caught.value.errno == socket.EAI_NONAME


def test_the_kind_is_kept() -> None:
    [info] = resolve("10.0.0.1", 53, type=socket.SOCK_DGRAM)
    assert info[1:3] == (socket.SOCK_DGRAM, socket.IPPROTO_UDP)
    assert [info[1] for info in resolve("10.0.0.1", 53, type=0)] == [
        socket.SOCK_STREAM,
        socket.SOCK_DGRAM,
        socket.SOCK_RAW,
    ]


CANON, NUMERIC = socket.AI_CANONNAME, socket.AI_NUMERICHOST


@pytest.mark.parametrize(
    "arguments",
    [
        ("10.0.0.1", 7),
        ("10.0.0.1", 7, V6),
        ("10.0.0.1", 7, V6, 0, 0, socket.AI_V4MAPPED),
        ("::ffff:10.0.0.1", 7, V4),
        ("fd00::1", 7, V4),
        ("fd00::1", 7, 0, 0, 0, CANON),
        ("127.1", 7, 0, 0, 0, CANON | NUMERIC),
        ("fe80::1%1", 7, 0, 0, 0, CANON),
        ("10.0.0.256", 7, 0, 0, 0, NUMERIC),
        ("name", 7, 0, 0, 0, NUMERIC),
        ("name", 7, 99),
        ("::1", 7, socket.AF_UNIX),
        ("name", 7, 0, 77),
        ("name", 7, 0, STREAM, socket.IPPROTO_UDP),
        ("name", 7, 0, 0, 0, 1 << 20),
        ("name", "no such service"),
        ("name", "http", 0, 0, 0, socket.AI_NUMERICSERV),
        ("10.0.0.1", "http"),
        ("10.0.0.1", b"http", 0, STREAM),
        ("10.0.0.1", "7"),
        ("10.0.0.1", None),
        ("10.0.0.1", 70000),
        ("10.0.0.1", -1),
        ("10.0.0.1", 1.5),
        (3, 7),
        ("a..b", 7),
        ("a" * 64, 7),
        ("", 7),
        ("*", 7),
        (None, 7),
        (None, None),
        (None, 7, V6),
        (None, 7, 0, 0, 0, socket.AI_PASSIVE),
        (None, 7, 0, 0, 0, CANON),
        ("::", "http", 0, 0, 0, socket.AI_PASSIVE),
    ],
    ids=str,
)
def test_as_the_socket_module(arguments: tuple[Any, ...]) -> None:
    def outcome(function: Callable[..., Any]) -> Any:
        try:
            return function(*arguments)
        except (OSError, TypeError, ValueError) as error:
            return type(error), getattr(error, "errno", None)

    def ours(host: Any, port: Any, *wanted: int) -> Any:
        named = dict(zip(["family", "type", "proto", "flags"], wanted, strict=False))
        return resolver().getaddrinfo_blocking(host, port, **named)

    assert outcome(ours) == outcome(socket.getaddrinfo)


def test_the_host_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = socket.getaddrinfo, []

    def record(*arguments: Any) -> Any:
        asked.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(_names, "_getaddrinfo", record)
    monkeypatch.setattr(socket, "getaddrinfo", no_socket)
    resolve("10.0.0.1", 7, flags=socket.AI_V4MAPPED)
    resolve("10.0.0.1", 7, flags=socket.AI_ADDRCONFIG)
    resolve("localhost", 7)
    resolve("fe80::1%vde0", 7)
    with pytest.raises(socket.gaierror):
        resolve("example.com", 7)
    assert len(asked) > 5
    for host, *_, flags in asked:
        assert b"%" not in (host.encode() if isinstance(host, str) else host)
        assert flags & socket.AI_NUMERICHOST
        assert not flags & socket.AI_ADDRCONFIG


# localhost


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost", "localhost.", b"localhost", "web.localhost"]
)
def test_localhost_is_both_loopbacks(host: str | bytes) -> None:
    expected = [(V6, ("::1", 7, 0, 0)), (V4, ("127.0.0.1", 7))]
    assert addresses(host, 7) == expected


def test_localhost_by_the_name_that_debian_gives_it() -> None:
    assert addresses("ip6-localhost", 7) == [(V6, ("::1", 7, 0, 0))]


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


def test_the_canonical_name_comes_once() -> None:
    infos = resolver().getaddrinfo_blocking("LocalHost", 7, flags=CANON)
    assert [info[3] for info in infos] == ["LocalHost", "", "", "", "", ""]


@pytest.mark.parametrize(
    "host", ["example.com", "host", "localhost.localdomain", "10.0.0.1.", "10.0.0.256"]
)
def test_other_names_are_not_known(host: str) -> None:
    with pytest.raises(socket.gaierror) as caught:
        resolve(host, 7)
    assert caught.value.errno == socket.EAI_NONAME
    assert "is not in the stack's hosts" in str(caught.value)


# Back


NI_HOST, NI_SERV = socket.NI_NUMERICHOST, socket.NI_NUMERICSERV


@pytest.mark.parametrize(
    ("sockaddr", "flags"),
    [
        (("10.0.0.1", 80), NI_HOST),
        (("10.0.0.1", 80), NI_HOST | NI_SERV),
        (("10.0.0.1", 53211), NI_HOST),
        (("10.0.0.1", 512), NI_HOST | socket.NI_DGRAM),
        (("10.0.0.1", 80), NI_HOST | socket.NI_NAMEREQD),
        (("fd00::1", 80, 0, 0), NI_HOST),
        (("fd00::1", 80), NI_HOST),
        (("fd00::1", 80, 0, 5), NI_HOST),
        (("name", 80), 0),
        (("10.0.0.1", "80"), 0),
        (("10.0.0.1", 80, 0, 0), 0),
        ("10.0.0.1", 0),
        ((), 0),
    ],
    ids=str,
)
def test_nameinfo_as_the_socket_module(sockaddr: Any, flags: int) -> None:
    def outcome(function: Callable[..., Any]) -> Any:
        try:
            return function(sockaddr, flags)
        except (OSError, TypeError) as error:
            return type(error), getattr(error, "errno", None)

    ours = resolver().getnameinfo_blocking
    assert outcome(ours) == outcome(socket.getnameinfo)


def test_nameinfo_with_the_stacks_own_interfaces() -> None:
    back = resolver().getnameinfo_blocking
    assert back(("fe80::1", 80, 0, 7), NI_HOST) == ("fe80::1%vde0", "http")
    assert back(("fe80::1", 80, 0, 9), NI_HOST) == ("fe80::1%9", "http")
    assert back(("fe80::1%eth7", 80), NI_HOST) == ("fe80::1", "http")


def test_nameinfo_from_the_table() -> None:
    back = resolver(hosts={"db": ["10.0.0.5", "fe80::5%vde0"]}).getnameinfo_blocking
    assert back(("10.0.0.5", 80)) == ("db", "http")
    assert back(("::ffff:10.0.0.5", 80), NI_SERV) == ("db", "80")
    assert back(("fe80::5", 80, 0, 7)) == ("db", "http")
    assert back(("10.0.0.6", 80)) == ("10.0.0.6", "http")
    assert back(("127.0.0.1", 80)) == ("localhost", "http")
    with pytest.raises(socket.gaierror) as caught:
        back(("10.0.0.6", 80), socket.NI_NAMEREQD)
    assert caught.value.errno == socket.EAI_NONAME


# The table


def test_hosts_are_a_mapping() -> None:
    hosts = Hosts({"DB.": "10.0.0.5"})
    hosts["web"] = ["10.0.0.6", ipaddress.ip_address("fd00::6"), "10.0.0.6"]
    hosts["if"] = ipaddress.ip_interface("10.0.0.7/24")
    hosts["bücher.example"] = "10.0.0.8"
    assert hosts["db"] == hosts["Db."] == (ipaddress.ip_address("10.0.0.5"),)
    assert [str(each) for each in hosts["web"]] == ["10.0.0.6", "fd00::6"]
    assert str(hosts["if"][0]) == "10.0.0.7"
    assert list(hosts) == ["db", "web", "if", "xn--bcher-kva.example"]
    assert "bücher.example" in hosts
    assert "nosuch" not in hosts
    no_text: Any = 7
    assert no_text not in hosts
    assert "a..b" not in hosts
    assert repr(Hosts({"db": "10.0.0.5"})) == "Hosts({'db': ['10.0.0.5']})"
    del hosts["WEB"]
    assert len(hosts) == 3
    with pytest.raises(KeyError):
        del hosts["web"]
    del hosts["Bücher.example"]
    assert list(hosts) == ["db", "if"]


def test_hosts_as_a_file() -> None:
    assert Hosts({"web": ["10.0.0.6", "fd00::6"]}).render() == (
        "127.0.0.1\tlocalhost\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\n"
        "10.0.0.6\tweb\n"
        "fd00::6\tweb\n"
    )


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("db", "10.0.0.500", "write one like '10.0.0.5'"),
        ("db", "10.0.0.5/24", "write one like '10.0.0.5'"),
        ("db", 5, "write one like '10.0.0.5'"),
        ("db", None, "give it an address"),
        ("db", [], "give it an address"),
        ("db", ["10.0.0.5", b"1234"], "write one like '10.0.0.5'"),
        ("", "10.0.0.5", "write one like"),
        ("a b", "10.0.0.5", "write one like"),
        ("a#b", "10.0.0.5", "write one like"),
        ("a..b", "10.0.0.5", "write one like"),
        ("-a", "10.0.0.5", "write one like"),
        ("a" * 64, "10.0.0.5", "write one like"),
        (".".join(["a" * 60] * 5), "10.0.0.5", "write one like"),
        (7, "10.0.0.5", "write a text"),
        ("localhost", "10.0.0.5", "take another name"),
        ("web.localhost", "10.0.0.5", "take another name"),
        ("10.0.0.5", "10.0.0.5", "write the name first"),
        ("127.1", "10.0.0.5", "write the name first"),
    ],
)
def test_hosts_that_cannot_be_right(name: Any, value: Any, advice: str) -> None:
    hosts = Hosts()
    with pytest.raises(ConfigurationError, match=advice):
        hosts[name] = value
    assert hosts == {}


# The resolver's arguments


def test_a_table_is_shared_and_a_mapping_copied() -> None:
    hosts, mapping = Hosts(), {"db": "10.0.0.5"}
    assert resolver(hosts=hosts).hosts is hosts
    copied = resolver(hosts=mapping).hosts
    mapping["web"] = "10.0.0.6"
    assert list(copied) == ["db"]
    assert resolver().hosts == {}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ""),
        ({"dns": "10.0.0.1"}, "nameserver 10.0.0.1\n"),
        (
            {"dns": ["10.0.0.1", "fe80::1%vde0"], "domain": "Example.org."},
            "nameserver 10.0.0.1\nnameserver fe80::1%vde0\nsearch example.org\n",
        ),
        (
            {"dns": ipaddress.ip_address("fd00::1"), "domain": ["a", "b.c"]},
            "nameserver fd00::1\nsearch a b.c\n",
        ),
        ({"dns": None, "domain": None}, ""),
    ],
)
def test_resolv_conf(options: dict[str, Any], expected: str) -> None:
    assert resolver(**options).resolv_conf() == expected


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"dns": "dns.example"}, "dns: 'dns.example' is no address"),
        ({"dns": ["10.0.0.1", 3]}, "dns: 3 is no address"),
        ({"dns": "fe80::1"}, "'fe80::1%vde0'"),
        ({"domain": "a b"}, "domain: 'a b' is no name"),
        ({"domain": ["a", ""]}, "domain: '' is no name"),
        ({"hosts": "db"}, "expected a mapping"),
        ({"hosts": {"db": "x"}}, "is no address"),
    ],
)
def test_arguments_that_cannot_be_right(options: dict[str, Any], advice: str) -> None:
    with pytest.raises(ConfigurationError, match=advice):
        resolver(**options)


def test_dnspython_is_imported_with_the_first_query() -> None:
    program = "import sys, aioioth.names; sys.exit('dns' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_what_is_to_be_asked() -> None:
    request = _names.parse(b"Db.Example", 80, flags=CANON, interface_index=index)
    assert isinstance(request, Request)
    assert request.name == "Db.Example"
    assert request.families() == [V6, V4]
