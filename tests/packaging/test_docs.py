"""What the documentation shows is what happens.

A block of Python that begins with ``# example: NAME`` is run as a script, and a block
of text that comes next is what it prints; ``...`` there stands for anything. A block
that begins with ``# file: NAME`` is a file beside the page's examples: Python can be
imported, ``test_*.py`` is run by pytest, and ``pyproject.toml`` is taken as installed.
``# needs: NAME ...`` in the second line names programs, modules, libraries
(``*.so``) and devices that may be missing.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "transports" / "README.md"]
LINKING = [*sorted(ROOT.glob("*.md")), *PAGES]

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
WITHOUT_ARGUMENTS = {
    "bridge.py",
    "cable.py",
    "demo.py",
    "lan.py",
    "microservices.py",
    "same_address_twice.py",
}

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"# (example|file): (.+)\n(?:# needs: (.+)\n)?")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)

# An example takes a second or two; only one that hangs takes this long.
PATIENCE = 60

pytestmark = pytest.mark.timeout(2 * PATIENCE)


@dataclass(frozen=True)
class Block:
    """A marked block of a page."""

    page: Path
    language: str
    kind: str
    name: str
    needs: tuple[str, ...]
    source: str
    prints: str | None

    @property
    def id(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.name}"


def blocks(page: Path) -> list[Block]:
    fences: list[tuple[str, str]] = FENCE.findall(page.read_text())
    found = []
    for (language, source), following in pairwise([*fences, ("", "")]):
        if mark := MARK.match(source):
            kind, name, needs = mark.groups()
            prints = following[1] if following[0] == "text" else None
            found.append(
                Block(
                    page,
                    language,
                    kind,
                    name,
                    tuple((needs or "").split()),
                    source,
                    prints,
                )
            )
    return found


ALL = [block for page in PAGES for block in blocks(page)]
RUN = [block for block in ALL if block.kind == "example"]
TESTS = [block for block in ALL if block.name.startswith("test_")]


def name(item: Any) -> str:
    if isinstance(item, Path):
        return str(item.relative_to(ROOT))
    assert isinstance(item, Block)
    return item.id


def put_beside(page: Path, folder: Path) -> None:
    """Write the page's files, and register what its pyproject.toml declares."""
    for block in blocks(page):
        if block.kind == "file":
            (folder / block.name).write_text(block.source)
    project = folder / "pyproject.toml"
    if project.exists():
        declared = tomllib.loads(project.read_text())["project"]
        title, version = declared["name"], declared["version"]
        info = folder / f"{title.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {title}\nVersion: {version}\n"
        (info / "METADATA").write_text(metadata)
        lines = []
        for group, entries in declared["entry-points"].items():
            lines.append(f"[{group}]")
            lines += [f"{key} = {value}" for key, value in entries.items()]
        (info / "entry_points.txt").write_text("\n".join(lines))


def run(*arguments: str, folder: Path) -> str:
    """Run Python in ``folder``, quietly and with success; return what it prints."""
    path = [os.fspath(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-W", "default", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return done.stdout


def _is_there(need: str) -> bool:
    if need.startswith("/"):
        return os.access(need, os.R_OK | os.W_OK)
    if need.endswith(".so"):
        return any(Path("/usr/lib").glob(f"*/*/{need}"))
    return importlib.util.find_spec(need) is not None


def skip_if_missing(block: Block) -> None:
    missing = [
        need
        for need in block.needs
        if shutil.which(need) is None and not _is_there(need)
    ]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.mark.parametrize("block", RUN, ids=name)
def test_an_example_prints_what_the_page_says(block: Block, tmp_path: Path) -> None:
    skip_if_missing(block)
    put_beside(block.page, tmp_path)
    script = tmp_path / "example.py"
    script.write_text(block.source)
    printed = run(script.name, folder=tmp_path)
    if block.prints is not None:
        pattern = re.escape(block.prints.rstrip()).replace(r"\.\.\.", ".*")
        assert re.fullmatch(pattern, printed.rstrip()), printed


@pytest.mark.parametrize("block", TESTS, ids=name)
def test_a_test_on_a_page_passes(block: Block, tmp_path: Path) -> None:
    skip_if_missing(block)
    put_beside(block.page, tmp_path)
    plain = ["-p", "no:cacheprovider", "-p", "no:asyncio", f"--rootdir={tmp_path}"]
    assert " passed" in run("-m", "pytest", *plain, block.name, folder=tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_all_python_is_run(page: Path) -> None:
    languages = [language for language, _ in FENCE.findall(page.read_text())]
    marked = [block for block in blocks(page) if block.language == "python"]
    assert languages.count("python") == len(marked), "mark it with '# example: NAME'"


def anchors(page: Path) -> set[str]:
    """Return the page's headings as GitHub writes them in addresses."""
    headings = HEADING.findall(FENCE.sub("", page.read_text()))
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", LINKING, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        path, _, anchor = link.partition("#")
        if "://" in path:
            continue
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_the_index_names_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {
        (index.parent / link.partition("#")[0]).resolve()
        for link in LINK.findall(index.read_text())
    }
    assert set(PAGES) - {index} <= linked


def test_there_is_something_to_run() -> None:
    assert RUN
    assert {example.name for example in EXAMPLES} >= WITHOUT_ARGUMENTS


@pytest.mark.parametrize("example", EXAMPLES, ids=name)
def test_an_example_program_runs(example: Path, tmp_path: Path) -> None:
    arguments = [] if example.name in WITHOUT_ARGUMENTS else ["--help"]
    assert run(os.fspath(example), *arguments, folder=tmp_path)
