"""What keeps a plug on its network, and who is told; see also test_link.py."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from aioioth._attachment import Attachment
from aioioth.errors import BrokenTransportError, ClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioioth.abc import Plug
    from tests.unit.conftest import Pair, Watched

pytestmark = pytest.mark.usefixtures("_loop_is_content")


class StubPlug:
    """A plug whose only life is its hangup descriptor."""

    mtu = 1500

    def __init__(self, life: Pair) -> None:
        self.here, self.there = life
        self.drops = {"queue full": 1}
        self.closed = False

    def fileno(self) -> int:
        return -1

    def hangup_fileno(self) -> int:
        return self.here.fileno()

    def recv_into(self, _: memoryview, /) -> None: ...

    def send(self, _: Any, /) -> None: ...

    def close(self) -> None:
        self.closed = True
        self.here.close()


class Transport:
    """Opens plugs, raises, or waits for ever, as it is told."""

    def __init__(self, *outcomes: StubPlug | Exception) -> None:
        self.outcomes = list(outcomes)
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def open(self, label: str) -> StubPlug:
        await self.go_on.wait()
        if not self.outcomes:
            await asyncio.Event().wait()
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class Owner:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.refusal: Exception | None = None

    def plugged(self, plug: Plug) -> None:
        self.told.append(plug)
        if self.refusal is not None:
            raise self.refusal

    def unplugged(self, plug: Plug) -> None:
        assert isinstance(plug, StubPlug)
        assert not plug.closed
        self.told.append("unplugged")

    def lost(self, cause: str) -> None:
        self.told.append(cause)

    def regained(self, attempts: int) -> None:
        self.told.append(attempts)

    async def until(self, *wanted: object) -> None:
        for _ in range(1000):
            if self.told == [*wanted]:
                return
            await really_wait(0)
        assert self.told == [*wanted]


really_wait = asyncio.sleep


@pytest.fixture(autouse=True)
def _no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio, "sleep", lambda _: really_wait(0))


def attachment(*outcomes: StubPlug | Exception) -> tuple[Attachment, Owner, Transport]:
    owner, transport = Owner(), Transport(*outcomes)
    return Attachment("vde0", "aioioth web", transport, owner), owner, transport


async def test_lost_and_regained(make_pair: Callable[..., Pair]) -> None:
    one, two = StubPlug(make_pair()), StubPlug(make_pair())
    it, owner, _ = attachment(BrokenTransportError("vde://x", "not there"), two)
    it.attach(one)
    assert owner.told == [one]
    one.there.close()
    ended = "the other side has ended"
    await owner.until(one, "unplugged", ended, two, 2)
    assert one.closed
    assert it.drops() == {"queue full": 2}
    it.close()
    assert two.closed
    assert it.plug is None
    assert it.drops() == {"queue full": 2}


async def test_pulled_out_is_not_tried_again(make_pair: Callable[..., Pair]) -> None:
    one, two = StubPlug(make_pair()), StubPlug(make_pair())
    it, owner, _ = attachment(two)
    it.attach(one)
    it.pull_out()
    it.pull_out()
    it.lose("too late")
    for _ in range(10):
        await really_wait(0)
    assert owner.told == [one, "unplugged"]
    await it.plug_in()
    assert owner.told == [one, "unplugged", two]
    it.close()


async def test_pulled_out_while_it_is_tried(make_pair: Callable[..., Pair]) -> None:
    one = StubPlug(make_pair())
    it, _, transport = attachment()
    before = asyncio.all_tasks()
    it.attach(one)
    it.lose("broken")
    assert len(asyncio.all_tasks() - before) == 1
    it.pull_out()
    for _ in range(10):
        await really_wait(0)
    assert asyncio.all_tasks() == before
    transport.outcomes.append(BrokenTransportError("vde://x", "not there"))
    with pytest.raises(BrokenTransportError):
        await it.plug_in()
    assert it.plug is None


async def test_closed_while_it_is_plugged_in(make_pair: Callable[..., Pair]) -> None:
    plug = StubPlug(make_pair())
    it, owner, transport = attachment(plug)
    transport.go_on.clear()
    plugging = asyncio.create_task(it.plug_in())
    await really_wait(0)
    it.close()
    transport.go_on.set()
    with pytest.raises(ClosedError, match="vde0 of aioioth web is closed"):
        await plugging
    assert plug.closed
    assert owner.told == []


async def test_an_owner_that_refuses(
    make_pair: Callable[..., Pair], watched: Watched
) -> None:
    plug = StubPlug(make_pair())
    it, owner, _ = attachment()
    owner.refusal = ValueError("refused")
    with pytest.raises(ValueError, match="refused"):
        it.attach(plug)
    assert plug.closed
    assert it.plug is None
    assert owner.told == [plug, "unplugged"]


async def test_forgotten_in_a_child(make_pair: Callable[..., Pair]) -> None:
    """Nothing touches the loop, which is the parent's, and nothing is tried again."""
    one, two = StubPlug(make_pair()), StubPlug(make_pair())
    it, owner, _ = attachment(two)
    it.attach(one)
    asyncio.get_running_loop().remove_reader(one.here.fileno())  # the parent's business
    it.forget_in_child()
    assert one.closed
    it.close()
    it.lose("too late")
    assert owner.told == [one]


async def test_forgotten_while_it_is_tried(make_pair: Callable[..., Pair]) -> None:
    one, two = StubPlug(make_pair()), StubPlug(make_pair())
    it, owner, _ = attachment(two)
    it.attach(one)
    before = asyncio.all_tasks()
    it.lose("broken")
    it.forget_in_child()
    for _ in range(10):
        await really_wait(0)
    assert asyncio.all_tasks() == before
    assert not two.closed
    assert owner.told == [one, "unplugged", "broken"]
