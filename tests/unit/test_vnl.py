from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies as st

from aioioth.errors import VnlError
from aioioth.vnl import Address, Vnl, parse_bracket, parse_slash, parse_vnl

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import SearchStrategy

    Parse = Callable[..., Address]

UNTOUCHED = st.characters(exclude_categories=["Cs"], exclude_characters="\0\n\r")
# What is more likely to be wrong than any text is.
SHAPES = st.text(st.sampled_from("'\"\\%[]{}/=:5Kaé \0\n\udc80\ud800")) | st.text()

PARSERS = pytest.mark.parametrize("parse", [parse_slash, parse_bracket])

# Whatever uses the text of an address more than a few times takes minutes for these.
LONG = 1 << 18


def refusal(parse: Callable[..., object], text: str, **options: Any) -> VnlError:
    with pytest.raises(VnlError) as caught:
        parse(text, **options)
    check(caught.value, text)
    return caught.value


def check(error: VnlError, text: str) -> None:
    assert error.vnl == text
    assert 0 <= error.position <= len(text)


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
        ("eth1:", Vnl("eth1", None, "")),
        ("eth1:vde:///tmp/sw[port=5]", Vnl("eth1", "vde", "/tmp/sw[port=5]")),
        ("/tmp/sw[a:b]", Vnl(None, None, "/tmp/sw[a:b]")),
        ("vxvde://ff05::1", Vnl(None, "vxvde", "ff05::1")),
        ("cmd://ssh host vde://x", Vnl(None, "cmd", "ssh host vde://x")),
        ("eth1:cmd://a:b", Vnl("eth1", "cmd", "a:b")),
        ("vlan://4{memory://x}", Vnl(None, "vlan", "4{memory://x}")),
        ("e:a-b.c+d_e://", Vnl("e", "a-b.c+d_e", "")),
    ],
)
def test_parse(text: str, expected: Vnl) -> None:
    assert parse_vnl(text) == expected


@pytest.mark.parametrize("parse", [parse_vnl, parse_slash, parse_bracket])
@pytest.mark.parametrize("number", [0, 10, 13, 0xD800, 0xDC7F, 0xDD00, 0xDFFF])
def test_what_is_no_text_for_a_vnl(parse: Parse, number: int) -> None:
    error = refusal(parse, f"vde:///tmp/{chr(number)}")
    assert error.position == 11
    assert "no NUL, no line break" in error.reason


def test_undecodable_bytes_are_all_right() -> None:
    assert parse_vnl("/tmp/\udcff").address == "/tmp/\udcff"
    assert parse_bracket("/tmp/\udc80").base == "/tmp/\udc80"


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("://x", 0),
        ("eth0:://x", 5),
        (" vde://x", 0),
        ("vde ://x", 3),
        ("*://x", 0),
        ("vdé://x", 2),
        ("/tmp/a://b", 0),
        ("eth0:/tmp/a://b", 5),
        ("a:b:null://", 3),
        ("/tmp/sw[group=a://b]", 0),
        ("vlan:4{memory://x}", 6),
    ],
)
def test_what_is_no_scheme(text: str, position: int) -> None:
    error = refusal(parse_vnl, text)
    assert error.position == position
    assert "expected a scheme before '://'" in error.reason


@given(
    scheme=st.from_regex(r"[A-Za-z0-9+._-]{1,9}", fullmatch=True),
    address=st.text(UNTOUCHED),
)
def test_a_locator_survives_its_text(scheme: str, address: str) -> None:
    vnl = Vnl(None, scheme, address)
    assert parse_vnl(str(vnl)) == vnl


@given(
    interface=st.from_regex(r"[^/:\[\]{}'\"\0\r\n\ud800-\udfff]{1,15}", fullmatch=True),
    scheme=st.from_regex(r"[a-z][a-z0-9+]{0,9}", fullmatch=True),
    address=st.text(UNTOUCHED),
)
def test_the_interface_in_front(interface: str, scheme: str, address: str) -> None:
    text = f"{interface}:{scheme}://{address}"
    assert parse_vnl(text) == Vnl(interface, scheme, address)


@given(SHAPES | SHAPES.map("://".join))
def test_any_text_is_taken_or_refused(text: str) -> None:
    try:
        vnl = parse_vnl(text)
    except VnlError as error:
        check(error, text)
    else:
        assert text.endswith(str(vnl) if vnl.scheme else vnl.address)


# Addresses.


@pytest.mark.parametrize(
    ("address", "base", "options"),
    [
        ("/tmp/sw", "/tmp/sw", {}),
        ("/tmp/sw[]", "/tmp/sw", {}),
        ("", "", {}),
        ("[5]", "", {"": "5"}),
        ("[5/lab]", "", {"": "lab"}),
        ("/tmp/sw[port=5]", "/tmp/sw", {"port": "5"}),
        ("/tmp/sw[port=5/mode=0660]", "/tmp/sw", {"port": "5", "mode": "0660"}),
        ("/tmp/sw[port=5/port=6]", "/tmp/sw", {"port": "6"}),
        ("/tmp/sw[port=a=b]", "/tmp/sw", {"port": "a=b"}),
        ("/tmp/sw[//port=5/]", "/tmp/sw", {"port": "5"}),
        ("/tmp/sw[port=]", "/tmp/sw", {"port": ""}),
        ("/tmp/sw[p=5]", "/tmp/sw", {"port": "5"}),
        ("/tmp/sw[mod=5]", "/tmp/sw", {"mode": "5"}),
        ("/tmp/sw[mon]", "/tmp/sw", {"": "mon"}),
        ("/tmp/sw[monitor]", "/tmp/sw", {"monitor": ""}),
        ("/tmp/sw['monitor']", "/tmp/sw", {"monitor": ""}),
        ("/tmp/sw['po'rt='5/]']", "/tmp/sw", {"port": "5/]"}),
        ("/tmp/a'[1]'[5]", "/tmp/a[1]", {"": "5"}),
        (r"/tmp/a\[1\][5]", "/tmp/a[1]", {"": "5"}),
        ("/tmp/a%5b1%5D[5]", "/tmp/a[1]", {"": "5"}),
        ("/tmp/a]{}=b", "/tmp/a]{}=b", {}),
        ("/tmp/a{memory://b}", "/tmp/a{memory://b}", {}),
        (r"'\a%41'\'", r"\a%41'", {}),
        (r'"\a%41"\"', r'\a%41"', {}),
        ('"\'"', "'", {}),
        ("%C3%A9", "é", {}),
        ("%FF", "\udcff", {}),
        ("%0a", "\n", {}),
    ],
)
def test_brackets(address: str, base: str, options: dict[str, str]) -> None:
    parsed = parse_bracket(
        address, options=["port", "mode"], flags=["monitor"], unnamed=True
    )
    assert (parsed.text, parsed.base, parsed.options) == (address, base, options)
    assert parsed.nested is None


@pytest.mark.parametrize(
    ("address", "base", "options"),
    [
        ("", "", {}),
        ("239.0.0.1", "239.0.0.1", {}),
        ("ff05::1/vni=5", "ff05::1", {"vni": "5"}),
        ("/v4", "", {"v4": ""}),
        ("x//vni=5/", "x", {"vni": "5"}),
        ("x/vn=5/v4", "x", {"vni": "5", "v4": ""}),
        ("x/if=a'/'b/if='c'", "x", {"if": "c"}),
        ("x/if=a'/'b%2fc\\/d", "x", {"if": "a/b/c/d"}),
        ("x'['port=5]", "x[port=5]", {}),
        ("x/if=[5]", "x", {"if": "[5]"}),
        ("x/dhcp", "x", {"dhcp": ""}),
        ("x/dhcp=10.0.0.1", "x", {"dhcp": "10.0.0.1"}),
    ],
)
def test_slashes(address: str, base: str, options: dict[str, str]) -> None:
    parsed = parse_slash(address, options=["vni", "if", "dhcp"], flags=["v4", "dhcp"])
    assert (parsed.text, parsed.base, parsed.options) == (address, base, options)


@PARSERS
@pytest.mark.parametrize(
    ("address", "base", "nested"),
    [
        ("4{memory://x}", "4", "memory://x"),
        ("4{}", "4", ""),
        ("{a://{b://{c}}}", "", "a://{b://{c}}"),
        ("'{'%7b\\{{x}", "{{{", "x"),
        ("4{'}'}", "4", "'}'"),
        ("4{\"}}\"'}'\\}}", "4", "\"}}\"'}'\\}"),
        ("4{a}b}", "4", "a}b"),
        ("4{a{b}", "4", "a{b"),
        ("4{cmd://date +%s}", "4", "cmd://date +%s"),
        ("4{x%7D}", "4", "x%7D"),
        ("}4{x}", "}4", "x"),
    ],
)
def test_what_is_nested(parse: Parse, address: str, base: str, nested: str) -> None:
    parsed = parse(address, nested=True)
    assert (parsed.base, parsed.nested) == (base, nested)
    before, after = parsed.around_nested()
    assert before + nested + after == address
    assert (before[-1], after) == ("{", "}")


def test_what_is_nested_is_cut_off_before_the_options() -> None:
    parsed = parse_bracket("k[port=5]{a[port=6]}", options=["port"], nested=True)
    assert (parsed.base, parsed.options, parsed.nested) == (
        "k",
        {"port": "5"},
        "a[port=6]",
    )
    parsed = parse_slash("4/port=5{a/port=6}", options=["port"], nested=True)
    assert (parsed.base, parsed.options, parsed.nested) == (
        "4",
        {"port": "5"},
        "a/port=6",
    )


@PARSERS
@pytest.mark.parametrize(
    ("address", "position", "reason"),
    [
        ("/a'b", 2, "expected another ' for this one"),
        ('/a"b', 2, 'expected another " for this one'),
        ("/a\\", 2, "expected a character after the backslash"),
        ("/100%", 4, "expected two hexadecimal digits after '%'"),
        ("/100%x", 4, "expected two hexadecimal digits after '%'"),
        ("/%41%4%41", 4, "expected two hexadecimal digits after '%'"),
        ("/%41%00", 4, "not 00"),
    ],
)
def test_bad_quotes(parse: Parse, address: str, position: int, reason: str) -> None:
    error = refusal(parse, address)
    assert error.position == position
    assert reason in error.reason


@PARSERS
@pytest.mark.parametrize(
    ("address", "position", "reason"),
    [
        ("4", 1, "expected a network in braces: {VNL}"),
        ("'4{x}'", 6, "expected a network in braces: {VNL}"),
        ("4{x", 1, "expected a '}' for this '{'"),
        ("4{x'}'", 1, "expected a '}' for this '{'"),
        ("4{x\\}", 1, "expected a '}' for this '{'"),
        ("4{x}y", 4, "nothing may follow the nested VNL"),
        ("4{x}}[port=5]", 5, "nothing may follow the nested VNL"),
        ("4{it's}", 4, "expected another ' for this one"),
        ("4'{x}", 1, "expected another ' for this one"),
        ("4{x\\", 3, "expected a character after the backslash"),
    ],
)
def test_bad_braces(parse: Parse, address: str, position: int, reason: str) -> None:
    error = refusal(parse, address, nested=True)
    assert error.position == position
    assert error.reason.startswith(reason)


@pytest.mark.parametrize(
    ("address", "position", "reason"),
    [
        ("/tmp/sw[", 7, r"expected a ']' for this '['"),
        ("/tmp/sw[port=5", 7, r"expected a ']' for this '['"),
        ("/tmp/sw[port=5\\]", 7, r"expected a ']' for this '['"),
        ("/tmp/sw[port=5']'", 7, r"expected a ']' for this '['"),
        ("/tmp/sw[port=5]/x", 15, "nothing may follow the options"),
        ("/tmp/a[1]/sw[port=5]", 9, "nothing may follow the options"),
        ("/tmp/sw[port=5]]", 15, "nothing may follow the options"),
        ("/tmp/sw[prot=5]", 8, "no option 'prot'; known: port, mode, monitor"),
        ("/tmp/sw[mode=1/=5]", 15, "expected an option's name before '='"),
        ("/tmp/sw[mo=5]", 8, "'mo' can be mode or monitor: say which"),
        ("/tmp/sw[port]", 12, "port needs a value: port=..."),
        ("/tmp/sw[mode=1/po]", 17, "port needs a value: port=..."),
        ("/tmp/sw[monitor=1]", 15, "monitor takes no value"),
        ("/tmp/sw[PORT=5]", 8, "no option 'PORT'"),
    ],
)
def test_bad_options_in_brackets(address: str, position: int, reason: str) -> None:
    names: dict[str, Any] = {"options": ["port", "mode"], "flags": ["monitor"]}
    error = refusal(parse_bracket, address, **names)
    assert error.position == position
    assert reason in error.reason


def test_a_lone_value_is_not_the_name_of_an_option() -> None:
    error = refusal(parse_bracket, "[port]", options=["port"], unnamed=True)
    assert (error.position, error.reason) == (5, "port needs a value: port=...")


@pytest.mark.parametrize(
    ("address", "position", "reason"),
    [
        ("234.0.0.1/prot=3", 10, "no option 'prot'; known: port, ttl, v4"),
        ("234.0.0.1/port", 14, "port needs a value: port=..."),
        ("234.0.0.1/v4=1", 12, "v4 takes no value"),
        (
            "234.0.0.1[port=3]",
            9,
            "options follow a '/' here, not a '['; a bracket itself is '\\['",
        ),
    ],
)
def test_bad_options_after_slashes(address: str, position: int, reason: str) -> None:
    error = refusal(parse_slash, address, options=["port", "ttl"], flags=["v4"])
    assert (error.position, error.reason) == (position, reason)


def test_options_where_there_are_none() -> None:
    assert "there are none" in refusal(parse_slash, "a/b").reason


NUMBERS = ["port", "size", "mode"]


def numbers(value: str) -> Address:
    return parse_slash(f"x/port={value}/size={value}/mode={value}", options=NUMBERS)


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("0", 0), ("007", 7)])
def test_integers(text: str, number: int) -> None:
    assert numbers(text).integer("port", 3, low=0, high=7) == number


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "+1", "1.5", "8", "²", "1_0", "9" * 99]
)
def test_what_is_no_integer(text: str) -> None:
    with pytest.raises(VnlError) as caught:
        numbers(text).integer("port", 3, low=0, high=7)
    assert caught.value.position == len("x/port=")
    assert caught.value.reason == "port: expected a number from 0 to 7"


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("5", 5), ("5k", 5120), ("5K", 5120), ("2M", 1 << 21), ("1G", 1 << 30)],
)
def test_sizes(text: str, size: int) -> None:
    assert numbers(text).size("size", 3, high=1 << 30) == size


@pytest.mark.parametrize(
    "text", ["", "k", "-1", "5X", "5KB", "1.5K", "2G", "1T", "5 K"]
)
def test_what_is_no_size(text: str) -> None:
    address = numbers(text)
    with pytest.raises(VnlError, match="size: expected a size up to 1073741824 bytes"):
        address.size("size", 3, high=1 << 30)


@pytest.mark.parametrize(
    ("text", "mode"), [("0660", 0o660), ("660", 0o660), ("7", 7), ("02770", 0o2770)]
)
def test_modes(text: str, mode: int) -> None:
    assert numbers(text).octal("mode", 3) == mode


@pytest.mark.parametrize("text", ["", "8", "0o660", "rw", "-1", "77777", "0x1", "u=r"])
def test_what_is_no_mode(text: str) -> None:
    address = numbers(text)
    with pytest.raises(
        VnlError, match="mode: expected octal permissions, such as 0660"
    ):
        address.octal("mode", 3)


def test_defaults() -> None:
    parsed = parse_slash("x", options=NUMBERS)
    assert parsed.integer("port", -1, low=0, high=7) == -1
    assert parsed.size("size", 1 << 40, high=7) == 1 << 40
    assert parsed.octal("mode", 0o7777) == 0o7777


@pytest.mark.parametrize(
    ("name", "position"), [("", 0), ("port", 7), ("v4", 11), ("{", 14), ("mode", 0)]
)
def test_refusing_a_value(name: str, position: int) -> None:
    address = "x/port='5'/v4{y}"
    parsed = parse_slash(address, options=["port", "mode"], flags=["v4"], nested=True)
    error = refusal(lambda _: parsed.refuse(name, "not today"), parsed.text)
    assert (error.position, error.reason) == (position, "not today")


def test_a_lone_value_has_no_name() -> None:
    parsed = parse_bracket("/tmp/sw[99]", unnamed=True)
    error = refusal(lambda _: parsed.integer("", 0, low=0, high=7), "/tmp/sw[99]")
    assert (error.position, error.reason) == (8, "expected a number from 0 to 7")


# There and back again.


def percent(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


def backslash(text: str) -> str:
    return "".join(f"\\{char}" for char in text)


def single(text: str) -> str:
    return "".join(f"'{part}'\\'" for part in text.split("'")).removesuffix("\\'")


def double(text: str) -> str:
    return "".join(f'"{part}"\\"' for part in text.split('"')).removesuffix('\\"')


@st.composite
def quoted(draw: Callable[[SearchStrategy[Any]], Any]) -> tuple[str, str]:
    """A text, and a way to write it that takes the meaning from all its characters."""
    parts = draw(
        st.lists(
            st.tuples(
                st.text(UNTOUCHED),
                st.sampled_from([percent, backslash, single, double]),
            ),
            max_size=4,
        )
    )
    return (
        "".join(text for text, _ in parts),
        "".join(quote(text) for text, quote in parts),
    )


@given(quoted(), quoted(), quoted(), quoted())
def test_any_text_can_be_written(
    base: tuple[str, str],
    first: tuple[str, str],
    second: tuple[str, str],
    lone: tuple[str, str],
) -> None:
    options = {"one": first[0], "two": second[0]}
    parsed = parse_slash(
        f"{base[1]}/one={first[1]}/two={second[1]}", options=["one", "two"]
    )
    assert (parsed.base, parsed.options) == (base[0], options)
    if lone[0] in {"", "one", "two"}:
        lone = ("5", "5")
    parsed = parse_bracket(
        f"{base[1]}[one={first[1]}/{lone[1]}/two={second[1]}]",
        options=["one", "two"],
        unnamed=True,
    )
    assert (parsed.base, parsed.options) == (base[0], {**options, "": lone[0]})


@given(st.lists(st.tuples(quoted(), quoted()), min_size=1, max_size=6))
def test_any_nesting_can_be_written(
    layers: list[tuple[tuple[str, str], tuple[str, str]]],
) -> None:
    text = "memory://lan"
    for (_, base), (_, value) in layers:
        text = f"x://{base}[option={value}]{{{text}}}"
    for (base, _), (value, _) in reversed(layers):
        vnl = parse_vnl(text)
        assert vnl.scheme == "x"
        parsed = parse_bracket(vnl.address, options=["option"], nested=True)
        assert (parsed.base, parsed.options) == (base, {"option": value})
        assert parsed.nested is not None
        text = parsed.nested
    assert text == "memory://lan"


@given(st.text(UNTOUCHED), st.sampled_from([backslash, single, double]))
def test_a_nested_text_stays_as_it_was_written(
    text: str, quote: Callable[[str], str]
) -> None:
    written = quote(text)
    parsed = parse_slash(f"{quote('{}')}{{{written}}}", nested=True)
    assert (parsed.base, parsed.nested) == ("{}", written)


@given(SHAPES, st.booleans(), st.booleans())
def test_any_address_is_taken_or_refused(
    text: str, unnamed: bool, nested: bool
) -> None:
    names: dict[str, Any] = {"options": ["K", "aé"], "flags": ["a:", "5"]}
    ways: list[Callable[[], Address]] = [
        lambda: parse_slash(text, **names, nested=nested),
        lambda: parse_bracket(text, **names, nested=nested, unnamed=unnamed),
    ]
    for parse in ways:
        try:
            parsed = parse()
            assert parsed.text == text
            assert parsed.options.keys() <= {"K", "aé", "a:", "5", ""}
            assert (parsed.nested is None) == (not nested)
            parsed.integer("K", 0, low=0, high=9)
            parsed.size("K", 0, high=9)
            parsed.octal("K", 0)
        except VnlError as error:
            check(error, text)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "x" * LONG,
        "/" * LONG,
        "[" * LONG,
        "/K=5" * (LONG // 4),
        "%41" * (LONG // 3),
        "'" * LONG,
        "'\"" * (LONG // 2),
        "''\"" * (LONG // 3),
        "\\" * (LONG + 1),
        "{" * LONG + "}" * LONG,
        "{" + "''" * (LONG // 2) + "\\}" * (LONG // 2),
        "[" + "]" * LONG,
        "[" + "K/" * (LONG // 2) + "]",
    ],
    ids=lambda text: repr(text[:5]),
)
def test_long_addresses(text: str, nested: bool) -> None:
    parse = parse_slash if text[0] == "/" else parse_bracket
    try:
        parse(text, options=["K"], nested=nested)
    except VnlError as error:
        check(error, text)


@pytest.mark.parametrize(
    "text", ["x" * LONG, ":" * LONG, "/" * LONG, "e:" + "x" * LONG]
)
def test_long_locators(text: str) -> None:
    assert parse_vnl(text).address in text
    assert parse_vnl(f"a://{text}") == Vnl(None, "a", text)
