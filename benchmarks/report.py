"""The report of a run, in Markdown: ratios with their goals, then all figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.chart import Dot, Panel, chart
from benchmarks.closing import CLOSING
from benchmarks.goals import GOALS, further, quicker, shorter
from benchmarks.measures import ELSEWHERE
from benchmarks.netlink import WHO
from benchmarks.results import ratios
from benchmarks.streams import LOOPS, PLACES
from benchmarks.tables import number, section, spread_of, table

if TYPE_CHECKING:
    from benchmarks.results import Results

__all__ = ["drawing", "markdown"]

# Fewer stacks do not show in what the whole machine uses.
_SEEN = 100


def markdown(results: Results, image: str = "") -> str:
    """Return the report.

    Args:
        results: Of the run.
        image: Where the chart is, seen from the page; "" for a page that is looked at
            once: without a chart, and without what was not measured.
    """
    parts = [
        _introduction(results),
        f"![TCP, round trips and connections of every path]({image})" if image else "",
        _ratios(results, whole=bool(image)),
        _paths(results),
        _transports(results),
        _scale(results),
        _loop(results),
        _streams(results),
        _netlink(results),
        _left_out(results),
        _method(results) if image else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _introduction(results: Results) -> str:
    machine = results.machine
    about = [
        ["Date", machine.date],
        ["Kernel", machine.kernel],
        ["Python", machine.python],
        ["Processor", f"{machine.cores} cores, {machine.processor}"],
        ["User", machine.user],
        ["Busy before the run", f"{machine.busy:.0%}"],
        ["Command", f"`{results.how}`"],
        ["Took", f"{results.seconds:.0f} s"],
    ]
    return section(
        "Benchmarks",
        "Written by `make bench`; changes made by hand are lost. aioioth beside its "
        "peers, all in one run on one machine, in turn. Read the ratios: the figures "
        "are those of this machine, and busy machines are slower for all.",
        table(["", ""], about),
        level=1,
    )


def _ratios(results: Results, *, whole: bool) -> str:
    goals = [goal for goal in GOALS if whole or goal.value(results).known]
    if not goals:
        return ""
    rows = [goal.row(results) for goal in goals]
    head = ["Figure", "Against", "Measured", "Goal", "Reached"]
    return section(
        "Ratios",
        "The median of the ratios of each round, and in parentheses the smallest and "
        "the largest of them. Where nothing else is said it is a ratio; above 1, "
        "aioioth is the better one, for times too. Memory is the exception: less is "
        "better there.",
        table(head, rows),
    )


_COLUMNS = {
    "tcp": "TCP, Gbit/s",
    "rtt": "round trip p50, us",
    "connections": "connections/s",
    "udp": "datagrams/s",
}


def _paths(results: Results) -> str:
    if not results.titles:
        return ""
    rows = [
        [
            f"**{title}**" if key in results.ours else title,
            *(spread_of(results.figure(key, measure)) for measure in _COLUMNS),
        ]
        for key, title in results.titles.items()
    ]
    return section(
        "Every path",
        f"One TCP stream; one byte there and back over TCP; connections opened and "
        f"closed one after the other; datagrams of 64 bytes that arrive, 64 under way "
        f"at most. MTU 1500, except on lo. Median, smallest and largest value; "
        f"{results.machine.load_program}.",
        table(["", *_COLUMNS.values()], rows, numbers=True),
    )


def _transports(results: Results) -> str:
    """Return our transports beside Debian's, where both were measured."""
    rows = []
    for key, title in results.titles.items():
        if f"vdens-{key}" in results.titles:
            compared = (
                (shorter if measure == "rtt" else quicker)(key, f"vdens-{key}", measure)
                for measure in _COLUMNS
            )
            rows.append([title, *(spread_of(compare(results)) for compare in compared)])
    if not rows:
        return ""
    return section(
        "Transports, beside vdens on the same",
        "Ratios of each round; above 1, aioioth is the better one, for the round trip "
        "too.",
        table(
            ["", "TCP", "round trip", "connections", "datagrams"], rows, numbers=True
        ),
    )


_MAKERS = {
    "bridge": "**`open_stacks`, `bridge://`**",
    "script": "`ip netns add`, veth, address, by a shell script",
    "libvdestack": "libvdestack on vde_switch",
}


def _scale(results: Results) -> str:
    rows = []
    for who, title in _MAKERS.items():
        several = results.growth.get(who, ())
        for row, each in enumerate(several):
            rows.append(
                [
                    "" if row else title,
                    f"{each.count:,}",
                    number(each.seconds),
                    number(each.seconds / each.count * 1e3),
                    number(each.memory / each.count),
                    number(each.system / each.count) if each.count >= _SEEN else "-",
                    number(each.descriptors / each.count),
                    number(each.connect * 1e3),
                    number(each.closing * 1e3),
                ]
            )
    if not rows:
        return ""
    head = [
        "",
        "stacks",
        "made, s",
        "each, ms",
        "user space, KiB each",
        "whole machine, KiB each",
        "descriptors each",
        "first connect, ms",
        "closed, ms",
    ]
    slopes = [
        f"{number(spread.median)} KiB with {name}"
        for who, name in (("bridge", "aioioth"), ("libvdestack", "libvdestack"))
        if (spread := further(results.growth.get(who, ()))).known
    ]
    return section(
        "Many stacks on one network",
        "Each stack has an address. User space is the program and what it needs (PSS): "
        "aioioth's keeper, libvdestack's vde_switch. The whole machine's memory is the "
        "kernel's too, and varies with all that happens besides. The first connect is "
        "from the last stack to the first; *never* is not within 3 s. Medians of two "
        "times, or of three up to 100 stacks."
        + (f" A further stack takes {', '.join(slopes)}." if slopes else ""),
        table(head, rows, numbers=True),
    )


def _loop(results: Results) -> str:
    rows = [
        [f"closing a stack on `{key}://`: the loop is held", spread_of(spread)]
        for key in CLOSING
        if (spread := results.figure(key, "closing")).known
    ]
    if (plain := results.figure("", "closing")).known:
        rows.append(["a plain `close` of a TAP", spread_of(plain)])
    for key, title in results.titles.items():
        if (spread := results.figure(key, "lateness")).known:
            rows.append(
                [f"{title}, full load: timers are late, p99", spread_of(spread)]
            )
            control = results.figure(key, ELSEWHERE)
            words = "the same on a loop with nothing to do, meanwhile"
            rows.append([words, spread_of(control)])
    if not rows:
        return ""
    return section(
        "The event loop",
        "In milliseconds. On asyncio a timer may be a millisecond late by design, as "
        "epoll counts in milliseconds. What a loop with nothing to do loses meanwhile "
        "is the machine's: there are more busy programs than cores. Where each end is "
        "a program of its own, it is the later of the two loops.",
        table(["", "ms"], rows, numbers=True),
    )


_STREAM_COLUMNS = {
    "tcp": ("bulk, Gbit/s", False),
    "rtt": ("round trip p50, us", True),
    "connections": ("connections/s", False),
    "socket": ("a socket, us", True),
}


def _streams(results: Results) -> str:
    rows = []
    for loop in LOOPS:
        for place, title in PLACES.items():
            cells = [f"{loop}: {title}"]
            for measure, (_, time) in _STREAM_COLUMNS.items():
                ours = results.figure(f"streams-{loop}-{place}", measure)
                host = results.figure(f"streams-{loop}-host", measure)
                ratio = ratios(host, ours) if time else ratios(ours, host)
                more = "" if place == "host" else f" ({number(ratio.median)})"
                cells.append(f"{number(ours.median)}{more}" if ours.known else "-")
            if any(cell != "-" for cell in cells[1:]):
                rows.append(cells)
    if not rows:
        return ""
    head = ["", *(title for title, _ in _STREAM_COLUMNS.values())]
    return section(
        "asyncio's streams",
        "Client and server on one loop. In parentheses the ratio to plain asyncio on "
        "the host's lo in the same round; above 1 is better.",
        table(head, rows, numbers=True),
    )


_NETLINK_COLUMNS = {
    "call": "an address, us",
    "dump": "1,000 routes, ms",
    "stacks": "100 stacks, ms",
}


def _netlink(results: Results) -> str:
    rows = []
    for who, title in WHO.items():
        cells = [title]
        for measure in _NETLINK_COLUMNS:
            ours = results.figure("netlink-aioioth", measure)
            theirs = results.figure(f"netlink-{who}", measure)
            ratio = ratios(theirs, ours)
            more = "" if who == "aioioth" else f" ({number(ratio.median)})"
            cells.append(f"{number(theirs.median)}{more}" if theirs.known else "-")
        if any(cell != "-" for cell in cells[1:]):
            rows.append(cells)
    if not rows:
        return ""
    return section(
        "Configuring stacks",
        "One address added; a dump of the IPv4 routes, as values, as pyroute2's "
        "messages, or as text; an address, `up` and a default route in each of 100 "
        "stacks at the same time. In parentheses how many times as long it takes as "
        "with the stack's own methods in the same round; above 1, those are the better "
        "ones. `ip` is started by a shell that is in the stack already.",
        table(["", *_NETLINK_COLUMNS.values()], rows, numbers=True),
    )


def _left_out(results: Results) -> str:
    if not results.left_out:
        return ""
    lines = [f"* {each.what}: {each.why}" for each in results.left_out]
    return "## Left out\n\n" + "\n".join(lines)


_METHOD = """## How it is measured

* The run is in a network namespace of its own, and nothing leaves it. As an ordinary
  user it measures what an ordinary user can have; what needs root, or /dev/net/tun, is
  left out and listed.
* All networks stand during the whole run, with a load program at each end. Each round
  takes each measure on each path, and who comes first changes from round to round.
* Every end on a vde_switch is a process of its own: two programs with a libvdestack
  stack, two vdens, two aioioth programs. The load is never in aioioth's process: it is
  a program in its stack, so pumps are compared, not languages.
* libvdestack makes each of its sockets by asking its helper process; that is part of
  what its programs get.
* pasta's client is spliced to the host's loopback: no frame and no TAP are in between.
* The bridge by hand is as the kernel makes it: where the module br_netfilter is loaded,
  it shows the packets that it carries to the packet filter. `bridge://` has switched
  that off for its own. On this machine the module is {br_netfilter}.

`python -m benchmarks --help` says how to measure less, more, or something else."""


def _method(results: Results) -> str:
    loaded = "loaded" if results.machine.bridges_filtered else "not loaded"
    return _METHOD.format(br_netfilter=loaded)


# The chart.

_PANELS = {
    "tcp": ("TCP, Gbit/s", "more is better"),
    "rtt": ("round trip p50, us", "less is better"),
    "connections": ("connections per second", "more is better"),
}


def drawing(results: Results) -> str:
    """Return the chart of the paths, as SVG; "" if there is nothing to draw."""
    panels = [
        Panel(
            title,
            note,
            [
                Dot(name, results.figure(key, measure), key in results.ours)
                for key, name in results.titles.items()
            ],
        )
        for measure, (title, note) in _PANELS.items()
        if any(results.figure(key, measure).known for key in results.titles)
    ]
    if not panels:
        return ""
    return chart("TCP throughput, round trips and connections per second", panels)
