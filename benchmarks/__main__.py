"""aioioth beside its peers, all in one run, in turn; prints or writes a report.

All of it happens in an empty network namespace made for the run, as root or not, and
no process is left of it, however it ends. What is missing here is left out and the
report says why.

    python -m benchmarks                                  all; the report is printed
    python -m benchmarks --output docs                    written to docs/ (make bench)
    python -m benchmarks --parts paths --paths vde-pure,libvdestack --measures tcp
    python -m benchmarks --parts paths --paths transports
    python -m benchmarks --profile vde-pure               where its pumps' time goes
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import platform
import shlex
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import report, scale
from benchmarks.closing import measure_closing
from benchmarks.measures import MEASURES, Plan, measure_paths
from benchmarks.netlink import measure_netlink
from benchmarks.paths import MAIN, PATHS, TRANSPORTS
from benchmarks.results import Machine, Results
from benchmarks.running import ROOT, Workplace, build
from benchmarks.streams import measure_streams

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_ISOLATE = ROOT / "tests" / "isolate.py"
_ISOLATED = "AIOIOTH_BENCHMARKS_ISOLATED"

_PARTS = ("paths", "scale", "closing", "streams", "netlink")
_GROUPS = {"main": MAIN, "transports": TRANSPORTS, "all": tuple(PATHS)}

# What leaves something out of the page when it is given.
_OF_A_PART = ("parts", "paths", "measures", "counts", "profile")

_PAGE, _IMAGE = Path("reference", "benchmarks.md"), Path("images", "benchmarks.svg")


def _some_of(
    known: Sequence[str], groups: dict[str, tuple[str, ...]]
) -> Callable[[str], list[str]]:
    """Return a parser of names with commas between them."""

    def parse(text: str) -> list[str]:
        found: list[str] = []
        for word in text.split(","):
            if word not in known and word not in groups:
                options = ", ".join([*groups, *known])
                msg = f"{word!r} is none of {options}"
                raise argparse.ArgumentTypeError(msg)
            found += groups.get(word, (word,))
        return list(dict.fromkeys(found))

    return parse


def _positive(text: str) -> list[int]:
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        msg = f"{text!r} is no list of numbers like 10,100,1000"
        raise argparse.ArgumentTypeError(msg)
    return sorted(numbers)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--parts",
        type=_some_of(_PARTS, {}),
        default=list(_PARTS),
        metavar="PART,...",
        help=f"some of {', '.join(_PARTS)}; default: all",
    )
    paths = parser.add_argument_group("paths")
    paths.add_argument(
        "--paths",
        type=_some_of(tuple(PATHS), _GROUPS),
        default=list(MAIN),
        metavar="PATH,...",
        help="which, or a group: main (the default), transports, all; see --list",
    )
    paths.add_argument(
        "--measures",
        type=_some_of(tuple(MEASURES), {}),
        default=list(MEASURES),
        metavar="MEASURE,...",
        help=f"some of {', '.join(MEASURES)}; default: all",
    )
    paths.add_argument("--rounds", type=int, default=11, help="default: 11")
    paths.add_argument(
        "--seconds",
        type=float,
        default=0.3,
        help="of TCP, in each round on each path; other measures take 0.4 of it; "
        "default: 0.3",
    )
    paths.add_argument(
        "--loop", choices=["asyncio", "uvloop"], default="asyncio", help="of the stacks"
    )
    many = parser.add_argument_group("scale")
    many.add_argument(
        "--counts",
        type=_positive,
        default=[10, 100, 1000],
        metavar="N,...",
        help="of stacks in one program; default: 10,100,1000",
    )
    many.add_argument(
        "--libvdestack-most",
        type=int,
        default=scale.MOST_OF_LIBVDESTACK,
        metavar="N",
        help="more stacks than this are not measured with libvdestack: a thousand of "
        "its stacks take a minute to end, and do not reach each other while they are "
        "there; default: %(default)s",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help=f"write {_PAGE} and {_IMAGE} there, instead of printing; not with "
        f"{_options(_OF_A_PART)}",
    )
    parser.add_argument("--list", action="store_true", help="list the paths and end")
    parser.add_argument(
        "--profile",
        choices=[key for key, path in PATHS.items() if path.ours],
        metavar="PATH",
        help="instead of comparing, print where the time of one of aioioth's paths "
        "goes (perf, if there, and cProfile)",
    )
    return parser


def _options(names: Sequence[str]) -> str:
    return ", ".join(f"--{name}" for name in names)


def _parsed() -> argparse.Namespace:
    parser = _parser()
    arguments = parser.parse_args()
    given = [
        name
        for name in _OF_A_PART
        if getattr(arguments, name) != parser.get_default(name)
    ]
    if arguments.output is not None and given:
        parser.error(f"--output writes a whole page: not with {_options(given)}")
    return arguments


def _tell(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _bridges_filtered() -> bool:
    return Path("/proc/sys/net/bridge").exists()


async def _machine(note: str) -> Machine:
    idle = await scale.settled()
    return Machine(
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        # What a distribution appends to the version says nothing to others.
        kernel=f"{platform.system()} {platform.release().partition('-')[0]}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        cores=os.cpu_count() or 1,
        processor=_processor(),
        user="root" if os.geteuid() == 0 else "an ordinary user",
        busy=1 - idle,
        load_program=note,
        bridges_filtered=_bridges_filtered(),
    )


async def _run(arguments: argparse.Namespace, place: Workplace) -> Results:
    start = time.monotonic()
    _tell("waiting until the machine is idle")
    results = Results(await _machine(place.tools.note), how=_how())
    if "paths" in arguments.parts:
        plan = Plan(arguments.measures, arguments.rounds, arguments.seconds)
        paths = [PATHS[key] for key in arguments.paths]
        await measure_paths(paths, plan, place, results, _tell)
    if "streams" in arguments.parts:
        await measure_streams(place, 3, results, _tell)
    if "closing" in arguments.parts:
        await measure_closing(place, 15, results, _tell)
    if "netlink" in arguments.parts:
        await measure_netlink(place, 7, results, _tell)
    # Last: what a thousand namespaces leave in the kernel disturbs nobody.
    if "scale" in arguments.parts:
        await scale.measure_scale(
            place,
            arguments.counts,
            results,
            _tell,
            most_of_libvdestack=arguments.libvdestack_most,
        )
    results.seconds = time.monotonic() - start
    _tell("")
    return results


def _how() -> str:
    return shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])


async def _profile(key: str, place: Workplace, arguments: argparse.Namespace) -> None:
    plan = Plan(["tcp"], 1, max(arguments.seconds, 2.0))
    for profiler in ("perf", "cprofile") if shutil.which("perf") else ("cprofile",):
        results = Results(await _machine(""))
        with place.part() as own:
            kept = own.directory / "kept"
            profiling = replace(own, profiler=profiler, kept_log=kept)
            await measure_paths([PATHS[key]], plan, profiling, results, _tell)
            _tell("")
            print(f"== {PATHS[key].title} under {profiler}")
            for each in results.left_out:
                print(each.why)
            if key in results.titles:
                spread = results.figure(key, "tcp")
                print(f"{spread.median:.2f} Gbit/s\n{kept.read_text()}")


def _write(results: Results, directory: Path) -> None:
    page, image = directory / _PAGE, directory / _IMAGE
    for path in page, image:
        path.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(report.markdown(results, f"../{_IMAGE}"))
    image.write_text(report.drawing(results))
    print(f"Written: {page} and {image}, after {results.seconds:.0f} s.")


def _list() -> None:
    with tempfile.TemporaryDirectory(prefix="aioioth-benchmarks-") as name:
        tools = build(Path(name), sys.executable)
        for key, path in PATHS.items():
            why = path.why_not(tools) or "can be measured here"
            print(f"{key:16}{path.title:28}{why}")


def main() -> None:
    """Measure, in a network namespace of our own."""
    arguments = _parsed()
    if arguments.list:
        _list()
        return
    if os.environ.pop(_ISOLATED, "") == "":
        os.environ[_ISOLATED] = "1"
        again = [sys.executable, str(_ISOLATE), sys.executable, "-m", "benchmarks"]
        os.execv(sys.executable, [*again, *sys.argv[1:]])
    # Ended from outside, it still ends what it has started, as with Ctrl-C; which a
    # shell may have us ignore.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with tempfile.TemporaryDirectory(prefix="aioioth-benchmarks-") as name:
        tools = build(Path(name), sys.executable)
        place = Workplace(Path(name), tools, arguments.loop)
        try:
            if arguments.profile:
                asyncio.run(_profile(arguments.profile, place, arguments))
                return
            results = asyncio.run(_run(arguments, place))
        except KeyboardInterrupt:
            sys.exit("\nInterrupted: nothing is left, and nothing is written.")
    if arguments.output is None:
        print(report.markdown(results))
    else:
        _write(results, arguments.output)


if __name__ == "__main__":
    main()
