from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies as st

from aioioth import _plugins, networks
from aioioth.errors import ConfigurationError, UnknownSchemeError, VnlError
from aioioth.networks import Network, find_nested, find_network
from aioioth.switch import Switch
from aioioth.vnl import Address, parse_bracket, parse_slash

if TYPE_CHECKING:
    from aioioth.abc import Plug


class Transport:
    """A transport that remembers its address; it is never opened."""

    def __init__(self, address: str) -> None:
        self.address = address

    async def open(self, label: str) -> Plug:
        raise NotImplementedError


class Leaf(Transport):
    """``leaf://BASE[colour=NAME]``, and ``vde://`` and a plain path as well."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.parsed = parse_bracket(address, options=["colour"])


class Box(Transport):
    """``box://N{VNL}``."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.parsed = parse_slash(address, options=["lid"], nested=True)
        self.inner = find_nested(self.parsed)


class Strange(Transport):
    """``strange://``, which refuses for a reason of its own."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        if address:
            raise VnlError(address[1:], 0, "not this part")
        msg = "not today"
        raise ConfigurationError(msg)


SCHEMES = {"vde": Leaf, "leaf": Leaf, "box": Box, "raw": Transport, "strange": Strange}


def load(scheme: str) -> Any:
    if scheme not in SCHEMES:
        raise UnknownSchemeError(_plugins.TRANSPORTS, scheme, sorted(SCHEMES))
    return SCHEMES[scheme]


@pytest.fixture(autouse=True)
def _schemes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "load_transport", load)


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty home, which is the current directory as well."""
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def address_of(network: Network) -> str:
    transport = network.transport
    assert isinstance(transport, Transport)
    return transport.address


def inside(network: Network) -> Network:
    assert isinstance(network.transport, Box)
    return network.transport.inner


def refusal(vnl: object) -> VnlError:
    with pytest.raises(VnlError) as caught:
        find_network(vnl)
    return caught.value


@pytest.mark.parametrize(
    ("text", "interface", "vnl"),
    [
        ("leaf://x[colour=red]", None, "leaf://x[colour=red]"),
        ("eth1:raw://a:b", "eth1", "raw://a:b"),
        ("/tmp/sw", None, "vde:///tmp/sw"),
        ("eth1:/tmp/sw", "eth1", "vde:///tmp/sw"),
        ("sw[colour=red]", None, "vde://sw[colour=red]"),
        ("", None, "vde://"),
        ("eth1:", "eth1", "vde://"),
        ("vde://", None, "vde://"),
        ("box://1{raw://x}", None, "box://1{raw://x}"),
    ],
)
def test_texts(text: str, interface: str | None, vnl: str) -> None:
    found = find_network(text)
    assert (found.interface, found.vnl) == (interface, vnl)
    assert found.vnl.endswith(f"://{address_of(found)}")


def test_a_transport_is_a_network() -> None:
    switch = Switch(name="lab")
    assert find_network(switch) == Network(None, str(switch), switch)


@pytest.mark.parametrize("vnl", [5, None, b"null://", ["null://"], Switch, Leaf])
def test_what_is_no_network(vnl: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        find_network(vnl)
    expected = f"{vnl!r}: expected a VNL like 'vde:///tmp/sw', or a Switch"
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    "name",
    ["sw", "a[1]", "it's", 'a"b', "100%", "a\\b", "{x}", "eth0:a", "é", "]'[%41"],
)
def test_a_path_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    found = find_network(tmp_path / name)
    assert isinstance(found.transport, Leaf)
    assert found.transport.parsed.base == os.fspath(tmp_path / name)
    assert find_network(found.vnl).vnl == found.vnl
    assert found.interface is None


@pytest.mark.parametrize("name", ["a\nb", "a\0b"])
def test_a_path_that_no_vnl_can_name(name: str) -> None:
    assert refusal(Path(name)).position == len("a")


# Files.


@pytest.mark.parametrize(
    "content",
    [
        b"raw://lan\n",
        b"raw://lan",
        b"raw://lan\r\n",
        b"  raw://lan\t \n",
        b"raw://lan\nraw://other\n",
        b"raw://lan\n\0\xff",
        b"raw://lan\n" + b"x" * 100_000,
        b"raw://lan\r\n\r\n",
    ],
)
def test_the_first_line_of_a_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "net"
    file.write_bytes(content)
    for vnl in (file, str(file), "net", "./net"):
        assert find_network(vnl).vnl == "raw://lan"


@pytest.mark.parametrize(
    ("outside", "line", "expected"),
    [
        ("", "raw://x", None),
        ("eth1:", "raw://x", "eth1"),
        ("", "eth2:raw://x", "eth2"),
        ("eth1:", "eth2:raw://x", "eth1"),
    ],
)
def test_the_interface_and_a_file(
    tmp_path: Path, outside: str, line: str, expected: str | None
) -> None:
    (tmp_path / "net").write_text(f"{line}\n")
    found = find_network(f"{outside}net")
    assert (found.interface, found.vnl) == (expected, "raw://x")


def test_a_file_with_a_path(tmp_path: Path) -> None:
    (tmp_path / "net").write_text("eth1:/tmp/sw[colour=red]\n")
    found = find_network("net")
    assert (found.interface, found.vnl) == ("eth1", "vde:///tmp/sw[colour=red]")


def test_a_file_is_followed_once(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("two\n")
    (tmp_path / "two").write_text("raw://lan\n")
    assert find_network("one").vnl == "vde://two"


def test_a_path_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "net").write_bytes(b"/tmp/\xff\n")
    assert address_of(find_network("net")) == "/tmp/\udcff"


def test_a_link_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "net").write_text("raw://lan\n")
    (tmp_path / "link").symlink_to("net")
    assert find_network("link").vnl == "raw://lan"


def test_what_is_no_file_is_a_switch(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("directory")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")  # and reading it would wait for ever
    for name in ("directory", "link", "dangling", "loop", "fifo", "none", "x" * 300):
        assert find_network(name).vnl == f"vde://{name}"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "net").touch(mode=0)
    with pytest.raises(ConfigurationError) as caught:
        find_network("net")
    assert str(caught.value) == "net: cannot be read for a VNL: Permission denied"
    (tmp_path / "locked").mkdir(mode=0)
    assert find_network("locked/net").vnl == "vde://locked/net"
    (tmp_path / "locked").chmod(0o700)  # so that it can be removed


@pytest.mark.parametrize("content", [b"\x7fELF\0\1", b"x" * 5000, b"x" * 4097 + b"\n"])
def test_what_is_no_vnl_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net").write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        find_network("box://{net}")
    assert str(caught.value).startswith("net: expected a VNL in the first line")


def test_the_longest_line(tmp_path: Path) -> None:
    vnl = f"raw://{'x' * 4089}"
    (tmp_path / "net").write_text(f"{vnl}\n")
    assert find_network("net").vnl == vnl


@pytest.mark.parametrize(
    ("content", "position", "reason"),
    [
        ("", 0, "expected a VNL in the first line"),
        ("\n\nraw://x", 0, "expected a VNL in the first line"),
        (" eth1:\n", 5, "expected a VNL in the first line"),
        ("://x\n", 0, "expected a scheme before '://'"),
        ("\tleaf://x[color=red]", 9, "no option 'color'; known: colour"),
        ("eth1:x[color=red]", 7, "no option 'color'; known: colour"),
        ("box://1{box://2{x[]]}}", 19, "nothing may follow the options"),
        ("box://1{a://b}\r b", 14, "a VNL has no NUL, no line break"),
    ],
)
def test_errors_in_a_file_name_it(
    tmp_path: Path, content: str, position: int, reason: str
) -> None:
    with (tmp_path / "net").open("w", newline="") as file:
        file.write(content)
    for vnl in ("net", "eth5:net", "box://1{net}", "eth5:box://1{box://2{net}}"):
        error = refusal(vnl)
        assert error.reason.startswith(f"net: {reason}")
        if content.strip():
            assert error.vnl == content.split("\n")[0].strip()
            assert error.position == position


def test_other_errors_in_a_file_name_it_too(tmp_path: Path) -> None:
    (tmp_path / "outer").write_text("box://1{inner}\n")
    for line in ("foo://x", "strange://", "strange://x"):
        (tmp_path / "inner").write_text(f"{line}\n")
        with pytest.raises(ConfigurationError) as caught:
            find_network("outer")
        assert caught.value.__notes__ == [
            "The VNL is the first line of inner.",
            "The VNL is the first line of outer.",
        ]


def test_an_error_in_a_file_is_that_files(tmp_path: Path) -> None:
    (tmp_path / "outer").write_text("box://1{inner}\n")
    (tmp_path / "inner").write_text("leaf://x[color=red]\n")
    error = refusal("box://{outer}")
    assert error.reason == "inner: no option 'color'; known: colour"
    assert (error.vnl, error.position) == ("leaf://x[color=red]", 9)


# No text at all.


@pytest.mark.parametrize("name", [".vdeplug/default", ".vde2/default.switch"])
def test_the_default_file(home: Path, name: str) -> None:
    (home / name).parent.mkdir()
    (home / name).write_text("eth1:raw://lan\n")
    for text in ("", "eth2:"):
        found = find_network(text)
        assert (found.interface, found.vnl) == (text[:-1] or "eth1", "raw://lan")
    assert find_network("vde://").vnl == "vde://"


def test_the_default_is_nested(home: Path) -> None:
    (home / ".vdeplug").mkdir()
    (home / ".vdeplug/default").write_text("raw://lan\n")
    assert inside(find_network("box://1{}")).vnl == "raw://lan"


@pytest.mark.parametrize("name", [".vdeplug/default", ".vde2/default.switch"])
def test_the_default_switch(
    home: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = home / "it's [home]"
    monkeypatch.setenv("HOME", os.fspath(odd))
    (odd / "sw").mkdir(parents=True)
    (odd / name).parent.mkdir()
    (odd / name).symlink_to("../sw")
    found = find_network("eth1:")
    assert isinstance(found.transport, Leaf)
    assert found.transport.parsed.base == os.fspath(odd / name)
    assert found.interface == "eth1"


def test_the_first_default_counts(home: Path) -> None:
    (home / ".vdeplug").mkdir()
    (home / ".vde2").mkdir()
    (home / ".vde2/default.switch").write_text("raw://second\n")
    assert find_network("").vnl == "raw://second"
    (home / ".vdeplug/default").symlink_to("nowhere")
    assert address_of(find_network("")) == os.fspath(home / ".vdeplug/default")


def test_an_error_in_the_default_names_it(home: Path) -> None:
    (home / ".vdeplug").mkdir()
    (home / ".vdeplug/default").touch()
    assert refusal("").reason.startswith(f"{home}/.vdeplug/default: expected a VNL")


def test_nobody_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        msg = "Could not determine home directory."
        raise RuntimeError(msg)

    monkeypatch.setattr(Path, "home", home)
    assert find_network("").vnl == "vde://"


# Errors point at the character in the text that the user wrote.


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("leaf://x[prot=5]", "prot"),
        ("/tmp/sw[prot=5]", "prot"),
        ("eth1:leaf://x[prot=5]", "prot"),
        ("eth1:/tmp/sw[prot=5]", "prot"),
        ("box://1/lit=2{leaf://x}", "lit"),
        ("box://1{leaf://x[prot=5]}", "prot"),
        ("e:box://1{box://2/lid='{'{leaf://x[prot=5]}}", "prot"),
        ("e:box://1{box://2/lod='{'{leaf://x[prot=5]}}", "lod"),
        ("box://1{/tmp/sw[prot=5]}", "prot"),
        ("box://1{!://x}", "!"),
        ("box://1{box://2{eth1:x}}", "eth1"),
        ("box://1{eth1:x}", "eth1"),
        ("box://1{box://%}", "%"),
        ("box://1{box://2}", "}"),
        ("box://1{'}", "'"),
    ],
)
def test_the_place_of_an_error(text: str, place: str) -> None:
    error = refusal(text)
    assert error.vnl == text
    assert error.position == text.index(place)


def test_an_interface_that_is_nested_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "net").write_text("eth1:raw://x\n")
    error = refusal("box://1{net}")
    assert error.reason == "interface 'eth1': name it in front of the whole VNL"
    assert (error.vnl, error.position) == ("box://1{net}", 8)


def test_an_error_of_a_part_of_an_address() -> None:
    error = refusal("box://1{strange://abc}")
    assert (error.vnl, error.position) == ("bc", 0)


def test_an_unknown_scheme() -> None:
    with pytest.raises(UnknownSchemeError, match="no transport serves foo://"):
        find_network("box://1{foo://x}")


# Networks in networks.


def nest(depth: int) -> str:
    return "box://1{" * depth + "raw://x" + "}" * depth


def test_as_deep_as_anybody_needs() -> None:
    found = find_network(nest(16))
    for depth in range(16, 0, -1):
        assert found.vnl == nest(depth)
        found = inside(found)
    assert found.vnl == "raw://x"


@pytest.mark.parametrize("depth", [17, 1000, 50_000])
def test_too_deep(depth: int) -> None:
    error = refusal(nest(depth))
    assert error.reason == "expected at most 16 networks inside each other"
    assert error.vnl == nest(depth)
    assert error.position == len("box://1{") * 17
    assert find_network(nest(16)).vnl == nest(16)  # nothing is remembered


def test_a_file_in_itself(tmp_path: Path) -> None:
    (tmp_path / "net").write_text("box://1{net}\n")
    error = refusal("net")
    assert error.reason == "net: expected at most 16 networks inside each other"
    assert (error.vnl, error.position) == ("box://1{net}", 8)


def test_files_in_each_other(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("box://1{two}\n")
    (tmp_path / "two").write_text("box://2{one}\n")
    assert "expected at most 16" in refusal("one").reason


SCRAPS = ["box://", "leaf://", "raw://", "vde://", "e:", "colour", *"{}[]/='\"%\\x1\0"]


@given(st.lists(st.sampled_from(SCRAPS) | st.text(max_size=3)).map("".join))
def test_any_text_is_found_or_refused(text: str) -> None:
    try:
        found = find_network(text)
    except VnlError as error:
        check(error, text)
    except UnknownSchemeError:
        assert "://" in text
    else:
        assert found.vnl.endswith(text.partition(":")[2])


def check(error: VnlError, text: str) -> None:
    assert error.vnl == text
    assert 0 <= error.position <= len(text)


def test_an_address_that_was_not_nested() -> None:
    address: Address = parse_slash("x")
    with pytest.raises(AssertionError):
        find_nested(address)
