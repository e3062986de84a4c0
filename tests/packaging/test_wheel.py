"""What is built is what was meant to be installed."""

from __future__ import annotations

import configparser
import importlib.util
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("build", "hatchling")),
        reason="needs build and hatchling, which the dev extra brings",
    ),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that is made from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [
            *[sys.executable, "-m", "build", "--no-isolation"],
            *["--outdir", os.fspath(folder), os.fspath(ROOT)],
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Iterator[zipfile.ZipFile]:
    [path] = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def sdist(built: Path) -> set[str]:
    [path] = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def sources(folder: Path) -> set[str]:
    return {
        file.relative_to(folder.parent).as_posix()
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def metadata(wheel: zipfile.ZipFile, name: str) -> str:
    [path] = [each for each in wheel.namelist() if each.endswith(f".dist-info/{name}")]
    return wheel.read(path).decode()


def test_the_wheel_is_pure(built: Path) -> None:
    [path] = built.glob("*.whl")
    assert path.name.endswith("-py3-none-any.whl")


def test_top_level_names(wheel: zipfile.ZipFile) -> None:
    names = {name.partition("/")[0] for name in wheel.namelist()}
    information = {name for name in names if name.endswith(".dist-info")}
    assert len(information) == 1
    assert names - information == {"aioioth", "aioioth_transports"}
    assert all(name.startswith("aioioth-") for name in information)


def test_every_source_file_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    packages = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packages == sources(ROOT / "aioioth") | sources(
        ROOT / "transports" / "aioioth_transports"
    )


@pytest.mark.parametrize(
    "name",
    [
        "aioioth/py.typed",
        "aioioth_transports/py.typed",
        "aioioth/_keeper/helper.py",
        "aioioth/_keeper/messages.py",
        "aioioth_transports/_vdeplug_helper.py",
    ],
)
def test_what_must_not_be_forgotten(wheel: zipfile.ZipFile, name: str) -> None:
    assert name in wheel.namelist()


def test_entry_points(wheel: zipfile.ZipFile) -> None:
    parser = configparser.ConfigParser()
    parser.read_string(metadata(wheel, "entry_points.txt"))
    transports = dict(parser["aioioth.transports"])
    assert transports.items() >= {
        ("memory", "aioioth_transports.memory:MemoryTransport"),
        ("null", "aioioth_transports.null:NullTransport"),
        ("vde", "aioioth_transports.vde:VdeTransport"),
    }
    kinds = dict(parser["aioioth.stacks"])
    assert {"kernel", "netns", "vdestack"} <= kinds.keys()
    # Each leads to something that is in the wheel.
    for value in [*transports.values(), *kinds.values()]:
        module, _, attribute = value.partition(":")
        assert f"{module.replace('.', '/')}.py" in wheel.namelist()
        assert hasattr(importlib.import_module(module), attribute)


def test_the_licence_goes_along(wheel: zipfile.ZipFile) -> None:
    assert "License-Expression: MIT" in metadata(wheel, "METADATA")
    assert metadata(wheel, "licenses/LICENSE")


def test_the_sdist_can_be_tested(sdist: set[str]) -> None:
    for folder in (ROOT / "aioioth", ROOT / "transports"):
        assert sources(folder) <= sdist
    assert {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "tests/conftest.py",
        "tests/isolate.py",
    } <= sdist


def test_the_sdist_has_no_leftovers(sdist: set[str]) -> None:
    leftovers = ("__pycache__", "_cache/", ".pyc", ".hypothesis", ".coverage", ".git/")
    found = [name for name in sdist if any(each in name for each in leftovers)]
    assert found == []
