from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from aioioth.errors import ConfigurationError, VnlError
from aioioth.vnl import Vnl, parse_bracket, parse_vnl


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vde:///tmp/sw", Vnl(None, "vde", "/tmp/sw")),
        ("vde://", Vnl(None, "vde", "")),
        ("/tmp/sw", Vnl(None, None, "/tmp/sw")),
        ("", Vnl(None, None, "")),
        ("sw", Vnl(None, None, "sw")),
        ("/tmp/a:b", Vnl(None, None, "/tmp/a:b")),
        ("./a:b", Vnl(None, None, "./a:b")),
        ("memory://lan", Vnl(None, "memory", "lan")),
        ("eth1:memory://lan", Vnl("eth1", "memory", "lan")),
        ("eth1:vde:///tmp/sw", Vnl("eth1", "vde", "/tmp/sw")),
        ("eth1:/tmp/sw", Vnl("eth1", None, "/tmp/sw")),
        ("eth1:vde:///tmp/sw[port=5]", Vnl("eth1", "vde", "/tmp/sw[port=5]")),
        ("/tmp/sw[a:b]", Vnl(None, None, "/tmp/sw[a:b]")),
        ("cmd://ssh host vde://x", Vnl(None, "cmd", "ssh host vde://x")),
        ("eth1:cmd://a:b", Vnl("eth1", "cmd", "a:b")),
    ],
)
def test_parse(text: str, expected: Vnl) -> None:
    assert parse_vnl(text) == expected


@pytest.mark.parametrize("text", ["/tmp/\0sw", "/tmp/sw\n", "vde://\r", "e\0:vde://"])
def test_no_nul_and_no_line_break(text: str) -> None:
    with pytest.raises(ConfigurationError, match="no NUL and no line break in it"):
        parse_vnl(text)


@given(
    scheme=st.from_regex(r"[a-z][a-z0-9+]{0,9}", fullmatch=True),
    address=st.text(st.characters(exclude_characters="\0\n\r")),
)
def test_a_locator_survives_its_text(scheme: str, address: str) -> None:
    vnl = Vnl(None, scheme, address)
    assert parse_vnl(str(vnl)) == vnl


@given(
    interface=st.from_regex(r"[^/:\[\]\0\r\n]{1,15}", fullmatch=True),
    scheme=st.from_regex(r"[a-z][a-z0-9+]{0,9}", fullmatch=True),
    address=st.text(st.characters(exclude_characters="\0\n\r")),
)
def test_the_interface_in_front(interface: str, scheme: str, address: str) -> None:
    text = f"{interface}:{scheme}://{address}"
    assert parse_vnl(text) == Vnl(interface, scheme, address)


@given(st.text())
def test_any_text_is_taken_or_refused(text: str) -> None:
    refused = any(character in text for character in "\0\r\n")
    try:
        vnl = parse_vnl(text)
    except ConfigurationError:
        assert refused
    else:
        assert not refused
        assert text.endswith(vnl.address)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("/tmp/sw", ("/tmp/sw", {})),
        ("/tmp/sw[]", ("/tmp/sw", {})),
        ("", ("", {})),
        ("[5]", ("", {"": "5"})),
        ("/tmp/sw[port=5]", ("/tmp/sw", {"port": "5"})),
        ("/tmp/sw[port=5/mode=0660]", ("/tmp/sw", {"port": "5", "mode": "0660"})),
        ("/tmp/sw[port=5/port=6]", ("/tmp/sw", {"port": "6"})),
        ("/tmp/sw[port=a=b]", ("/tmp/sw", {"port": "a=b"})),
        ("/tmp/sw[//port=5/]", ("/tmp/sw", {"port": "5"})),
        ("/tmp/sw[port=]", ("/tmp/sw", {"port": ""})),
    ],
)
def test_bracket_options(address: str, expected: tuple[str, dict[str, str]]) -> None:
    parsed = parse_bracket(address, options=["port", "mode"], unnamed=True)
    assert (parsed.base, parsed.options) == expected


@pytest.mark.parametrize("address", ["/tmp/sw[", "/tmp/sw[port=5"])
def test_a_bracket_that_does_not_end(address: str) -> None:
    with pytest.raises(VnlError, match=r"expected a '\]' for this '\['") as caught:
        parse_bracket(address, options=["port"])
    assert caught.value.position == 7


def test_an_unknown_option_names_the_known() -> None:
    with pytest.raises(VnlError, match="no option 'prot'; known: port, mode"):
        parse_bracket("/tmp/sw[prot=5]", options=["port", "mode"])
