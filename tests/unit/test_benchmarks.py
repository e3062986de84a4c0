"""benchmarks/: turns, failures, ratios, the report. Nothing is measured."""

from __future__ import annotations

import asyncio
import math
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import replace
from itertools import pairwise, permutations
from typing import Any

import pytest

from benchmarks import __main__ as command, measures, report
from benchmarks.chart import Dot, Panel, chart, decades
from benchmarks.paths import MAIN, PATHS, TRANSPORTS
from benchmarks.paths.path import Ends
from benchmarks.results import Growth, Machine, Results, Spread, Unavailable, ratios
from benchmarks.running import FailedError, Tools
from benchmarks.turns import in_turn

MACHINE = Machine(
    date="2026-01-02 03:04 UTC",
    kernel="Linux 6.1",
    python="CPython 3.11.2",
    cores=2,
    processor="a processor",
    user="root",
    busy=0.02,
    load_program="the load is small",
    bridges_filtered=False,
)
SVG = "{http://www.w3.org/2000/svg}"


def results(**figures: dict[str, float]) -> Results:
    """A run of two rounds on paths with underscores for hyphens."""
    found = Results(MACHINE, how="python -m benchmarks", seconds=200.0)
    for name, values in figures.items():
        key = name.replace("_", "-")
        found.titles[key] = PATHS[key].title
        if PATHS[key].ours:
            found.ours.append(key)
        for measure, value in values.items():
            found.figures[key, measure] = Spread((value, 2 * value))
    return found


def line_of(page: str, *words: str) -> str:
    """The only line with all these words."""
    (line,) = [each for each in page.split("\n") if all(word in each for word in words)]
    return line


def test_a_spread_leaves_out_what_was_not_measured() -> None:
    spread = Spread((3.0, math.nan, 1.0, 2.0))
    assert (spread.low, spread.median, spread.high) == (1.0, 2.0, 3.0)


@pytest.mark.parametrize("values", [(), (math.nan,)])
def test_a_spread_of_nothing(values: tuple[float, ...]) -> None:
    spread = Spread(values)
    assert not spread.known
    assert all(math.isnan(x) for x in (spread.low, spread.median, spread.high))


def test_ratios_are_those_of_each_round() -> None:
    assert ratios(Spread((1.0, 20.0)), Spread((2.0, 10.0))).values == (0.5, 2.0)


def test_ratios_leave_out_a_round_that_failed() -> None:
    upper, lower = Spread((1.0, math.nan, 3.0)), Spread((2.0, 2.0, 0.0))
    assert ratios(upper, lower).known == [0.5]


def test_ratios_of_other_rounds_are_those_of_the_medians() -> None:
    upper, lower = Spread((1.0, 2.0, 9.0)), Spread((4.0,))
    assert ratios(upper, lower).values == (0.5,)
    assert not ratios(upper, Spread(())).known


def test_more_is_better_for_throughput_and_less_for_times() -> None:
    page = report.markdown(
        results(
            bridge={"tcp": 9.0, "rtt": 20.0},
            hand_bridge={"tcp": 10.0, "rtt": 10.0},
            libvdestack={"tcp": 0.5},
        )
    )
    by_hand = "veth and bridge, by hand"
    assert "| 0.90 (0.90 to 0.90) | at least 0.95 | **no** |" in line_of(
        page, "`bridge://`, TCP", by_hand
    )
    assert "| 0.50 (0.50 to 0.50) |" in line_of(page, "`bridge://`, round trip")
    assert "| 18 (18 to 18) | at least 15 | yes |" in line_of(
        page, "`bridge://`, TCP", "libvdestack"
    )


def test_what_was_not_measured_is_neither_reached_nor_missed() -> None:
    line = line_of(report.markdown(results(), "chart.svg"), "`memory://`, TCP")
    assert line.endswith("| not measured | at least 10 | - |")
    assert "not measured" not in report.markdown(results())


def test_transports_are_compared_with_debian_on_the_same() -> None:
    page = report.markdown(
        results(udp={"tcp": 3.0, "rtt": 50.0}, vdens_udp={"tcp": 2.0, "rtt": 100.0})
    )
    assert line_of(page, "udp://", "| 1.50 (1.50 to 1.50) | 2 (2 to 2) | - | - |")


def test_the_report_says_how_when_and_what_was_left_out() -> None:
    found = results(loopback={"tcp": 30.0})
    found.left_out.append(Unavailable("pasta, spliced", "pasta is not installed"))
    page = report.markdown(found, "../images/benchmarks.svg")
    for words in (
        "2026-01-02 03:04 UTC",
        "Linux 6.1",
        "CPython 3.11.2",
        "2 cores, a processor",
        "`python -m benchmarks`",
        "](../images/benchmarks.svg)",
        "* pasta, spliced: pasta is not installed",
    ):
        assert words in page
    assert page == report.markdown(found, "../images/benchmarks.svg")


def test_ours_stand_out_in_the_table_of_paths() -> None:
    page = report.markdown(results(memory={"tcp": 1234.5}, veth={"tcp": 0.012}))
    assert line_of(page, "**memory://**", "1,852 (1,234 to 2,469)")
    assert line_of(page, "| veth, by hand |", "0.018 (0.012 to 0.024)")


def test_growth() -> None:
    found = results()
    found.growth = {
        "bridge": [
            Growth(10, 0.1, memory=500.0, connect=0.001, descriptors=15.0),
            Growth(1000, 2.0, memory=1490.0, connect=0.02, descriptors=1005.0),
        ],
        "script": [Growth(1000, 16.0)],
        "libvdestack": [
            Growth(10, 0.1, memory=200.0, connect=math.inf),
            Growth(100, 0.1, memory=2000.0),
        ],
    }
    page = report.markdown(found)
    assert "| 8 | at least 5 | yes |" in line_of(page, "creation of 1,000 stacks")
    # (1490 - 500) / 990 KiB beside (2000 - 200) / 90 KiB
    assert "| 0.05 | at most 0.10 | yes |" in line_of(page, "memory of a further")
    assert "| 20 ms | at most 100 ms | yes |" in line_of(page, "first connect among")
    assert "1 KiB with aioioth, 20 KiB with libvdestack" in page.replace("\n", " ")
    assert line_of(page, "| libvdestack on vde_switch | 10 |", "| never |")


def test_a_ratio_of_streams_is_to_plain_asyncio() -> None:
    found = results()
    found.figures["streams-asyncio-host", "rtt"] = Spread((20.0, 30.0, 40.0))
    found.figures["streams-asyncio-stack", "rtt"] = Spread((40.0, 30.0, 80.0))
    line = line_of(report.markdown(found), "asyncio: within one stack")
    assert "| 40 (0.50) |" in line


def test_the_chart_has_a_dot_for_each_figure_and_says_what_is_missing() -> None:
    found = results(
        loopback={"tcp": 30.0, "rtt": 20.0},
        memory={"tcp": 15.0, "rtt": 50.0},
        libvdestack={"tcp": 0.8},
    )
    text = report.drawing(found)
    assert text == report.drawing(found)
    root = ET.fromstring(text)
    assert len(root.findall(f"{SVG}circle")) == 5
    words = [element.text for element in root.findall(f"{SVG}text")]
    assert words.count("not measured") == 1
    assert "libvdestack on vde_switch" in words
    assert not root.findall(f"{SVG}script")


def test_a_chart_stays_within_its_frame() -> None:
    values = (Spread((0.0004,)), Spread((1.0, 10.0)), Spread((3e6, 5e6)))
    dots = [Dot(f"{n} <&>", value, ours=n == 1) for n, value in enumerate(values)]
    root = ET.fromstring(chart("all", [Panel("a measure", "", dots)]))
    width, height = float(root.get("width", "")), float(root.get("height", ""))
    for circle in root.findall(f"{SVG}circle"):
        assert 0 < float(circle.get("cx", "")) < width
        assert 0 < float(circle.get("cy", "")) < height
    assert "0 <&>" in [element.text for element in root.findall(f"{SVG}text")]


def test_nothing_to_draw() -> None:
    assert report.drawing(results()) == ""


@pytest.mark.parametrize(
    ("low", "high", "axis"),
    [(0.5, 30.0, (-1, 2)), (1.0, 10.0, (0, 1)), (5.0, 5.0, (0, 1)), (1, 1, (0, 1))],
)
def test_an_axis_goes_from_decade_to_decade(
    low: float, high: float, axis: tuple[int, int]
) -> None:
    assert decades(low, high) == axis


def test_every_path_is_in_one_group() -> None:
    assert sorted([*MAIN, *TRANSPORTS]) == sorted(PATHS)


def turns(count: int, rounds: int) -> list[list[int]]:
    orders = [in_turn(range(count), number) for number in range(rounds)]
    assert all(sorted(order) == list(range(count)) for order in orders)
    return orders


@pytest.mark.parametrize("rounds", [11, 22])
@pytest.mark.parametrize("count", [2, 3, 4, 11])
def test_who_is_first_changes_from_round_to_round(count: int, rounds: int) -> None:
    firsts = [order[0] for order in turns(count, rounds)]
    assert all(one != next_one for one, next_one in pairwise(firsts))
    times = Counter(firsts)
    assert max(times.values()) - min(times[each] for each in range(count)) <= 1


@pytest.mark.parametrize("rounds", [1, 2, 3, 11, 22])
@pytest.mark.parametrize("count", [2, 3, 4, 11])
def test_each_comes_before_each_other_equally_often(count: int, rounds: int) -> None:
    before = Counter(
        (one, other)
        for order in turns(count, rounds)
        for at, one in enumerate(order)
        for other in order[at + 1 :]
    )
    for one, other in permutations(range(count), 2):
        assert abs(before[one, other] - before[other, one]) <= rounds % 2


@pytest.mark.parametrize("count", [2, 3, 4, 11])
def test_each_comes_right_behind_each_other_equally_often(count: int) -> None:
    behind = Counter(
        pair for order in turns(count, 2 * count) for pair in pairwise(order)
    )
    assert set(behind.values()) == {2}
    assert len(behind) == count * (count - 1)


@pytest.mark.parametrize("count", [0, 1])
def test_nobody_takes_turns_alone(count: int) -> None:
    turns(count, 3)


class Gone:
    """A program with stacks that is gone, and a load program in one of them."""

    async def load(self, *arguments: str) -> Any:
        raise BrokenPipeError

    async def lateness(self, seconds: float) -> float:
        raise BrokenPipeError

    def say(self, text: str) -> None: ...

    async def line(self, patience: float) -> str:
        msg = "a program ended too early"
        raise FailedError(msg)

    async def close(self) -> None: ...


class Slow(Gone):
    """An end that answers, after a while."""

    answered = False

    async def lateness(self, seconds: float) -> float:
        for _ in range(10):
            await asyncio.sleep(0)
        self.answered = True
        return 1.0


@pytest.mark.parametrize("measure", ["tcp", "lateness"])
async def test_a_path_whose_program_is_gone_fails_alone(measure: str) -> None:
    gone, slow = Gone(), Slow()
    ends = Ends(gone, gone, "10.0.0.1", (gone, slow))
    program: Any = gone
    contender = measures._Contender(PATHS["vde-pure"], ends, program, program)
    for _ in range(4):
        await measures._measure(contender, measure, 0.001)
    assert slow.answered == (measure == "lateness")
    assert contender.hopeless
    found = results()
    measures._note(contender, found)
    assert found.figure("vde-pure", measure).values == pytest.approx(
        (math.nan,) * 4, nan_ok=True
    )
    (left_out,) = found.left_out
    assert left_out.what == "vde://, pure Python"
    assert left_out.why.startswith("3 of its measures failed, so it was given up")


def test_a_compiled_step_that_cannot_be_imported_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "aioioth_speedups", None)
    assert "import of aioioth_speedups" in PATHS["vde-compiled"].why_not(Tools(()))


@pytest.mark.parametrize(
    "part",
    [
        ("--paths", "veth"),
        ("--parts", "scale"),
        ("--measures", "tcp"),
        ("--counts", "10"),
        ("--profile", "memory"),
    ],
)
def test_a_part_of_a_run_is_not_written_as_the_page(
    part: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "--output", "docs", *part])
    with pytest.raises(SystemExit):
        command.main()
    error = capsys.readouterr().err.rpartition("\n\n")[2].splitlines()[-1]
    assert error.endswith(f"--output writes a whole page: not with {part[0]}")


@pytest.mark.parametrize(
    ("filtered", "words"), [(True, "is loaded"), (False, "is not")]
)
def test_the_report_says_whether_bridges_are_filtered(
    filtered: bool, words: str
) -> None:
    found = results()
    found.machine = replace(MACHINE, bridges_filtered=filtered)
    assert f"On this machine the module {words}" in report.markdown(found, "chart.svg")
