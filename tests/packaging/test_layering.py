"""Import arrows point down only; read from the source, so lazy imports count too."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import aioioth
import aioioth_transports

if TYPE_CHECKING:
    from collections.abc import Iterator

OURS = Path(aioioth.__file__).parent
TRANSPORTS = Path(aioioth_transports.__file__).parent

# What the modules of a folder, or one module, may import of ours.
PERMITTED = [
    (
        TRANSPORTS,
        {
            "aioioth.abc",
            "aioioth.errors",
            "aioioth.vnl",
            "aioioth.networks",
            "aioioth.plugs",
            "aioioth.nested",
            "aioioth.learning",
            "aioioth.switch",
            "aioioth.bridge",
            "aioioth.wire",
            "aioioth_transports",
        },
    ),
    (OURS / "_linux", {"aioioth._linux", "aioioth.wire"}),
    (OURS / "wire", {"aioioth.errors", "aioioth.wire"}),
    (OURS / "errors.py", set()),
    (OURS / "vnl.py", {"aioioth.errors"}),
    (
        OURS / "networks.py",
        {"aioioth.abc", "aioioth.errors", "aioioth.vnl", "aioioth._plugins"},
    ),
    (OURS / "plugs.py", set()),
    (OURS / "nested.py", {"aioioth.abc", "aioioth.networks"}),
    (OURS / "learning.py", set()),
    (
        OURS / "switch.py",
        {
            "aioioth.errors",
            "aioioth._forwarding",
            "aioioth._switchports",
            "aioioth._vdeplace",
            "aioioth._vdeserver",
        },
    ),
    (
        OURS / "_switchports.py",
        {
            "aioioth.errors",
            "aioioth.plugs",
            "aioioth._forwarding",
            "aioioth.wire",
        },
    ),
    (
        OURS / "_forwarding.py",
        {"aioioth.learning", "aioioth._fork", "aioioth._offloading"},
    ),
    (OURS / "_offloading.py", {"aioioth.wire"}),
    (
        OURS / "bridge.py",
        {
            "aioioth.errors",
            "aioioth.wire",
            "aioioth._bridgeplug",
            "aioioth._bridgerequests",
            "aioioth._bridging",
            "aioioth._iproute",
            "aioioth._keeper",
            "aioioth._namespace",
            "aioioth.abc",
        },
    ),
    (
        OURS / "_bridgerequests.py",
        {"aioioth.wire", "aioioth._bridging", "aioioth._iproute"},
    ),
    (
        OURS / "_bridgeplug.py",
        {
            "aioioth.errors",
            "aioioth._bridgerequests",
            "aioioth._bridging",
            "aioioth._device",
            "aioioth._iproute",
        },
    ),
    (
        OURS / "_rendezvous.py",
        {
            "aioioth.errors",
            "aioioth._fork",
            "aioioth._keeper",
            "aioioth._linux",
            "aioioth._meetingplace",
            "aioioth._readiness",
        },
    ),
    (OURS / "_meetingplace.py", {"aioioth.errors", "aioioth._fork", "aioioth._keeper"}),
    (OURS / "_readiness.py", set()),
    (OURS / "_vdeplace.py", {"aioioth.errors"}),
    (
        OURS / "_vdeserver.py",
        {
            "aioioth.wire",
            "aioioth._fork",
            "aioioth._forwarding",
            "aioioth._switchports",
            "aioioth._vdeplace",
        },
    ),
    (OURS / "abc.py", set()),
    (
        OURS / "_pump.py",
        {"aioioth.abc", "aioioth._merging", "aioioth._speedups", "aioioth.wire"},
    ),
    (OURS / "_speedups.py", set()),
    (OURS / "_merging.py", {"aioioth.wire"}),
    (OURS / "_attachment.py", {"aioioth.abc", "aioioth.errors"}),
    (OURS / "_drain.py", set()),
    (OURS / "_keeper" / "helper.py", set()),
    (OURS / "_keeper" / "messages.py", set()),
    (OURS / "_keeper" / "meeting.py", set()),
    (OURS / "_keeper" / "orders.py", set()),
]

# What they may not import of others'.
FORBIDDEN = [
    (OURS / "_linux", {"asyncio"}),
    (OURS / "wire", {"os", "asyncio"}),
    (OURS / "errors.py", {"asyncio"}),
    (OURS / "vnl.py", {"os", "asyncio", "socket"}),
    (OURS / "switch.py", {"asyncio"}),
    (OURS / "_forwarding.py", {"asyncio", "os"}),
    (OURS / "_offloading.py", {"asyncio", "os"}),
    (OURS / "_vdeplace.py", {"asyncio"}),
    (OURS / "_pump.py", {"os", "socket"}),
    (OURS / "_autoconf", {"aioioth.servers", "aioioth.stack"}),
    # Who thinks has neither sockets nor a clock.
    *(
        (OURS / "_autoconf" / f"{name}.py", {"asyncio", "os", "socket", "time"})
        for name in (
            "advertised",
            "byhand",
            "dhcp4_lease",
            "dhcp4_machine",
            "dhcp6_exchange",
            "dhcp6_lease",
            "dhcp6_machine",
            "ra_machine",
            "wanted",
        )
    ),
    *(
        (OURS / "servers" / f"{name}.py", {"asyncio", "os", "socket", "time"})
        for name in (
            "_dhcp4_answers",
            "_dhcp4_leases",
            "_dhcp6_answers",
            "_dhcp6_bindings",
            "_dns/answering",
            "_dns/cache",
            "_ra_schedule",
        )
    ),
]


def files(place: Path) -> list[Path]:
    found = [place] if place.suffix == ".py" else sorted(place.rglob("*.py"))
    assert found
    return found


def imports(file: Path) -> Iterator[str]:
    """Return what is imported, each name with all that it is reached through."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            assert node.module is not None
            # "from aioioth import errors" imports aioioth.errors.
            if node.module in {"aioioth", "aioioth.wire"}:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module


def within(name: str, packages: set[str]) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in packages)


def offences(place: Path, *, of: set[str], but: set[str]) -> list[str]:
    return [
        f"{file.relative_to(place.parent)} imports {name}"
        for file in files(place)
        for name in imports(file)
        if within(name, of) and not within(name, but)
    ]


@pytest.mark.parametrize(
    ("place", "permitted"), PERMITTED, ids=[place.stem for place, _ in PERMITTED]
)
def test_only_these_of_ours(place: Path, permitted: set[str]) -> None:
    ours = {"aioioth", "aioioth_transports"}
    assert offences(place, of=ours, but=permitted) == []


@pytest.mark.parametrize(
    ("place", "forbidden"), FORBIDDEN, ids=[place.stem for place, _ in FORBIDDEN]
)
def test_none_of_these(place: Path, forbidden: set[str]) -> None:
    assert offences(place, of=forbidden, but=set()) == []


@pytest.mark.parametrize(
    ("file", "permitted"),
    [
        (OURS / "_keeper" / "helper.py", {"messages", "meeting", "orders"}),
        (OURS / "_keeper" / "messages.py", set[str]()),
        (OURS / "_keeper" / "meeting.py", set[str]()),
        (OURS / "_keeper" / "orders.py", set[str]()),
        (TRANSPORTS / "_vdeplug_helper.py", set[str]()),
    ],
    ids=lambda value: value.stem if isinstance(value, Path) else "",
)
def test_helpers_run_without_site_packages(file: Path, permitted: set[str]) -> None:
    foreign = {
        imported
        for imported in imports(file)
        if imported.split(".")[0] not in sys.stdlib_module_names
    }
    assert foreign == permitted


def test_nobody_imports_the_transports() -> None:
    assert offences(OURS, of={"aioioth_transports"}, but=set()) == []


def test_pyroute2_is_imported_in_one_place() -> None:
    users = {
        file.relative_to(OURS).as_posix()
        for file in files(OURS)
        if any(within(name, {"pyroute2"}) for name in imports(file))
    }
    assert users == {"netlink.py"}


def test_the_wire_uses_socket_for_constants_only() -> None:
    used = {
        node.attr
        for file in files(OURS / "wire")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "socket"
    }
    assert used == {name for name in used if name.isupper()}


def test_the_check_sees_what_is_forbidden(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text(
        "import os.path\n"
        "from aioioth import _pump, errors\n"
        "def lazy():\n"
        "    from aioioth._link import Link\n"
    )
    assert offences(bad, of={"aioioth"}, but={"aioioth.errors"}) == [
        "bad.py imports aioioth._pump",
        "bad.py imports aioioth._link",
    ]
    assert offences(bad, of={"os"}, but=set()) == ["bad.py imports os.path"]
