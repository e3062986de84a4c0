"""TCP, round trips, connections and datagrams, over all paths in turn.

All networks stand for the whole run, with a load program at each end, and are idle but
for the one whose turn it is. Each round takes each measure on each path, so that a
machine that is busy for a while is busy for all; who comes first changes from round to
round.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from benchmarks.paths.byhand import PORT
from benchmarks.results import Spread, Unavailable
from benchmarks.running import PATIENCE_SECONDS, FailedError
from benchmarks.stackprogram import lateness
from benchmarks.turns import in_turn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from benchmarks.paths.path import Ends, Path
    from benchmarks.results import Results
    from benchmarks.running import Program, Workplace

__all__ = ["ELSEWHERE", "MEASURES", "Plan", "measure_paths"]

# What each takes of the given time: a median of many round trips settles sooner than a
# throughput does.
MEASURES = {"tcp": 1.0, "rtt": 0.4, "connections": 0.4, "udp": 0.4, "lateness": 1.0}

# Of a path, until it is left alone for the rest of the run.
_MOST_FAILURES = 3

# Of a loop that has nothing to do, while another's lateness is measured.
ELSEWHERE = "elsewhere"


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        measures: Some of `MEASURES`.
        rounds: How often.
        seconds: Of TCP; the others take less.
    """

    measures: Sequence[str]
    rounds: int
    seconds: float


@dataclass
class _Contender:
    """A path that stands, with a load program at each end."""

    path: Path
    ends: Ends
    server: Program
    client: Program
    values: dict[str, list[float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @classmethod
    async def start(cls, path: Path, ends: Ends) -> Self:
        server, client = await _load(ends)
        return cls(path, ends, server, client)

    @property
    def hopeless(self) -> bool:
        return len(self.failures) >= _MOST_FAILURES

    async def restart(self) -> None:
        """Start the load programs again: they may be anywhere in a conversation."""
        await self.close()
        self.server, self.client = await _load(self.ends)

    async def close(self) -> None:
        await self.client.close()
        await self.server.close()

    async def measure(self, name: str, seconds: float) -> dict[str, float]:
        if name != "lateness":
            self.client.say(f"{name} {seconds}")
            return {name: (await self._answer(seconds))[name]}
        self.client.say(f"tcp {seconds + 0.1}")
        asked = [pump.lateness(seconds) for pump in self.ends.pumps]
        # Our own loop has nothing to do: what it loses, the machine takes. All of them
        # end before one's failure is told, so that none answers the next question.
        elsewhere, *late = await _all(lateness(seconds), *asked)
        await self._answer(seconds)
        return {name: max(late), ELSEWHERE: elsewhere}

    async def _answer(self, seconds: float) -> dict[str, float]:
        line = await self.client.line(seconds + PATIENCE_SECONDS)
        answer: dict[str, float] = json.loads(line)
        return answer


async def measure_paths(
    paths: Iterable[Path],
    plan: Plan,
    place: Workplace,
    results: Results,
    tell: Callable[[str], None],
) -> None:
    """Measure, and put what comes of it into ``results``."""
    async with AsyncExitStack() as until_end:
        contenders: list[_Contender] = []
        for path in paths:
            tell(f"building: {path.title}")
            if contender := await _built(path, place, until_end, results):
                contenders.append(contender)
        for number in range(plan.rounds):
            order = in_turn(contenders, number)
            for measure in plan.measures:
                for contender in order:
                    if measure == "lateness" and not contender.ends.pumps:
                        continue
                    which = f"round {number + 1} of {plan.rounds}: {measure}"
                    tell(f"{which}, {contender.path.title}")
                    await _measure(contender, measure, plan.seconds)
        tell("taking down")
    for contender in contenders:
        _note(contender, results)


def _note(contender: _Contender, results: Results) -> None:
    if failures := contender.failures:
        end = ", so it was given up" if contender.hopeless else ""
        why = f"{len(failures)} of its measures failed{end}; the first: {failures[0]}"
        results.left_out.append(Unavailable(contender.path.title, why))
    for measure, values in contender.values.items():
        results.figures[contender.path.key, measure] = Spread(tuple(values))


async def _built(
    path: Path, place: Workplace, until_end: AsyncExitStack, results: Results
) -> _Contender | None:
    """Build a path that stays until the end; None, and why, if it cannot be."""
    if why := path.why_not(place.tools):
        results.left_out.append(Unavailable(path.title, why))
        return None
    own = until_end.enter_context(place.part())
    try:
        async with AsyncExitStack() as undo, asyncio.timeout(PATIENCE_SECONDS):
            contender = await _stand(path, own, undo)
            until_end.push_async_exit(undo.pop_all())
    except (FailedError, OSError) as error:
        words = str(error) or "it does not start"
        why = words if own.last_words() in words else f"{words}{own.last_words()}"
        results.left_out.append(Unavailable(path.title, f"it failed: {why}"))
        return None
    results.titles[path.key] = path.title
    if path.ours:
        results.ours.append(path.key)
    return contender


async def _stand(path: Path, place: Workplace, undo: AsyncExitStack) -> _Contender:
    ends = await undo.enter_async_context(path.open(place))
    contender = await _Contender.start(path, ends)
    undo.push_async_callback(contender.close)
    return contender


async def _load(ends: Ends) -> tuple[Program, Program]:
    async with AsyncExitStack() as undo:
        server = await ends.server.load("serve", PORT)
        undo.push_async_callback(server.close)
        await server.line()
        client = await ends.client.load("ask", ends.address, PORT)
        undo.push_async_callback(client.close)
        await client.line()
        undo.pop_all()
        return server, client


async def _all(*awaited: Awaitable[float]) -> list[float]:
    """Return what all come to; raise what one raised when all have ended."""
    outcomes = await asyncio.gather(*awaited, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]


async def _measure(contender: _Contender, measure: str, seconds: float) -> None:
    names = (measure, ELSEWHERE) if measure == "lateness" else (measure,)
    found = dict.fromkeys(names, math.nan)
    if not contender.hopeless:
        try:
            found = await contender.measure(measure, MEASURES[measure] * seconds)
        except (FailedError, OSError, ValueError) as error:
            contender.failures.append(f"{measure}: {error}")
            with contextlib.suppress(FailedError, OSError):  # the next measure tells
                await contender.restart()
    for name in names:
        contender.values.setdefault(name, []).append(found[name])
