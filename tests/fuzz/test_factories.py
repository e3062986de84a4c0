"""Every scheme's factory, given anything: a transport or one clear error, and no more.

A factory is called in ``Stack(...)``, so it opens nothing, starts nothing and asks
nobody: the interpreter's audit events tell.
"""

from __future__ import annotations

import inspect
import os
import sys
import threading
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from aioioth._plugins import TRANSPORTS
from aioioth.abc import FrameTransport
from aioioth.errors import ConfigurationError, UnknownSchemeError, VnlError
from aioioth.networks import find_network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hypothesis.strategies import SearchStrategy

    Factory = Callable[[str], FrameTransport]

SCHEMES = sorted(entry_points(group=TRANSPORTS).names)

# What has to be accepted, for each scheme; mutations begin here.
EXAMPLES = {
    "*": ["vdesl:///dev/ttyS0[speed=38400]"],
    "agno": [
        "{null://}",
        "/tmp/key{null://}",
        "k[ethtype=ipv4]{vde:///tmp/sw[port=5]}",
    ],
    "bonding": ["", "/tmp/b", "/tmp/b[mode=0600/dirmode=0700]"],
    "bridge": [
        "",
        "lan",
        "lan[private/isolated/ageing=60]",
        "x[untagged=1/tagged=2+3]",
    ],
    "capture": ["/tmp/x.pcapng{null://}", "-[snaplen=64/append]{null://}"],
    "cmd": ["vde_plug vde:///tmp/sw", "ssh 'a b' \"c d\" e\\ f"],
    "hub": ["", "/tmp/h", "/tmp/h[mode=0660]"],
    "kvxlan": ["239.0.0.1", "192.0.2.7/vni=5/port=4789/if=eth0"],
    "macvlan": ["eth0", "eth0[mode=private]"],
    "macvtap": ["mv0"],
    "memory": ["", "lan"],
    "multi": ["", "/tmp/m[mode=0600]"],
    "null": ["", "whatever"],
    "passt": ["", "/tmp/passt.socket", "--tcp-ports 8080"],
    "pcap": ["eth0"],
    "ptp": ["/tmp/cable", "/tmp/cable[seqpacket]", "cable[datagram]"],
    "seal": ["/tmp/key{null://}", "/tmp/key{vlan://4{memory://lan}}"],
    "seqpacket": ["3"],
    "slirp": ["", "/host=10.0.2.2'/'24/v4/tcpfwd=8080:10.0.2.15:80"],
    "stream": [
        "-",
        "localhost:5000",
        ":5000[listen/offload]",
        ":5000[listen]",
        "/tmp/s[listen/mode=0660]",
    ],
    "switch": ["", "/tmp/s", "/tmp/s[mode=0600/hashsize=256/expiretime=120]"],
    "tap": ["", "tap0"],
    "udp": ["5000->localhost:5001", "127.0.0.1:5000->[::1]:5001"],
    "vde": [
        "",
        "/tmp/sw",
        "/tmp/sw[5]",
        "/tmp/sw[port=5/group=root/mode=0660]",
        "[lab]",
    ],
    "vlan": [
        "4{null://}",
        "/tag=5:6-7/untag=3/trunk{null://}",
        "4/qinq{vlan://5{null://}}",
    ],
    "vxlan": ["", "239.1.2.3/port=4789/vni=5/ttl=1", "/v6/rcvbuf=256K/hashsize=1024"],
    "vxvde": ["", "234.0.0.1/port=3/vni=5", "ff05::1/v6/ttl=2/expiretime=128"],
    "wireguard": ["/etc/wireguard/wg0.conf"],
}

# What means something somewhere, and what looks as if it did.
SCRAPS = [
    *"'\"\\%[]{}/=:.,->+~*?#;&$`|<>()!^@ \t\0\n0aé²\ud800\udc80\u2028",
    *("://", "->", "''", "%00", "%ff", "{null://}", "[x=y]", "/..", "x" * 300),
    *("-1", "9" * 20, "0x10", "1e9", "nan", "::1", "[::1]", "1.2.3.4", "1-2"),
]
TEXTS = st.text() | st.lists(st.sampled_from(SCRAPS)).map("".join)

# Enough for whatever takes the square of it to run into the time limit.
LONG = 1 << 15

FUZZ = settings(
    database=None,
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@st.composite
def mutated(draw: Callable[[SearchStrategy[Any]], Any], examples: list[str]) -> str:
    """An example with something cut out, put in, or doubled, a few times."""
    text: str = draw(st.sampled_from(examples))
    for _ in range(draw(st.integers(0, 3))):
        start, end = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        middle = draw(st.sampled_from(["", text[start:end] * 2, *SCRAPS]))
        text = text[:start] + middle + text[end:]
    return text


# What has happened while a factory was called. Reading files is all right: a nested VNL
# can be the name of one.
_noticed: list[str] = []
_watching = False
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_SIDE_EFFECTS = (
    *("socket.", "subprocess.", "os.fork", "os.exec", "os.posix_spawn", "_thread."),
    *("os.mkdir", "os.remove", "os.rename", "os.chmod", "os.chown", "os.kill"),
    *("shutil.", "tempfile.", "ctypes.dlopen", "fcntl.", "signal."),
)


def _notice(event: str, arguments: tuple[object, ...]) -> None:
    if not _watching:
        return
    writes = (
        event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES
    )
    if writes or event.startswith(_SIDE_EFFECTS):
        _noticed.append(f"{event} {arguments}")


sys.addaudithook(_notice)


@contextmanager
def nothing_happens() -> Iterator[None]:
    """Fail if a socket, a process, a thread or a file is made, or a name looked up."""
    global _watching
    descriptors = os.listdir("/proc/self/fd")
    threads = threading.active_count()
    _noticed.clear()
    _watching = True
    try:
        yield
    finally:
        _watching = False
        assert _noticed == []
        assert os.listdir("/proc/self/fd") == descriptors
        assert threading.active_count() == threads


@pytest.fixture(params=SCHEMES)
def scheme(request: pytest.FixtureRequest) -> str:
    scheme: str = request.param
    [entry] = entry_points(group=TRANSPORTS, name=scheme)
    pytest.importorskip(entry.module)
    return scheme


@pytest.fixture
def factory(scheme: str) -> Factory:
    [entry] = entry_points(group=TRANSPORTS, name=scheme)
    found: Factory = entry.load()
    return found


@pytest.fixture(autouse=True)
def _nobody_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No text names a file by accident, and what is made shows."""
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    monkeypatch.chdir(tmp_path)


def check(factory: Factory, address: str) -> FrameTransport | None:
    try:
        with nothing_happens():
            transport = factory(address)
    except VnlError as error:
        check_place(error, address)
    except ConfigurationError as error:
        check_message(error)
    else:
        assert isinstance(transport, FrameTransport)
        assert inspect.iscoroutinefunction(transport.open)
        return transport
    return None


def check_place(error: VnlError, text: str) -> None:
    assert error.vnl == text
    assert 0 <= error.position <= len(text)
    assert error.reason
    check_message(error)


def check_message(error: ConfigurationError) -> None:
    # With single surrogates it could not be printed.
    str(error).encode("utf-8", "surrogateescape")


def test_examples_are_accepted(scheme: str, factory: Factory) -> None:
    for address in EXAMPLES.get(scheme, [""]):
        assert check(factory, address) is not None, address


@FUZZ
@given(data=st.data())
def test_anything_is_taken_or_refused(
    scheme: str, factory: Factory, data: st.DataObject
) -> None:
    examples = EXAMPLES.get(scheme, [""])
    check(factory, data.draw(TEXTS | mutated(examples) | mutated(examples)))


@FUZZ
@given(data=st.data())
def test_a_whole_vnl_is_taken_or_refused(scheme: str, data: st.DataObject) -> None:
    text = data.draw(
        mutated([f"{scheme}://{each}" for each in EXAMPLES.get(scheme, [""])])
    )
    outer = data.draw(st.sampled_from(["", "eth0:", "vlan://4{", "vlan://4{vlan://5{"]))
    text = outer + text + "}" * outer.count("{")
    try:
        with nothing_happens():
            find_network(text)
    except VnlError as error:
        check_place(error, text)
    except UnknownSchemeError:
        assert "://" in text
    except ConfigurationError as error:
        check_message(error)


def test_long_addresses(scheme: str, factory: Factory) -> None:
    beginnings = ["", EXAMPLES.get(scheme, [""])[-1]]
    for repeated in (*"0a:-.,/[]{'=\\ ", "%41", "->", "a=", "1-", "1:", "''"):
        for beginning in beginnings:
            check(factory, beginning + repeated * (LONG // len(repeated)))
