"""Noticing when the kernel has forgotten what the network said."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from aioioth._autoconf.link_local import ensure_link_local
from aioioth.events import AddressRemoved, LinkChanged, RouteRemoved

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioioth._autoconf.holdings import Holdings
    from aioioth._netstate import Monitor
    from aioioth.abc import Space
    from aioioth.events import Event

_log = logging.getLogger("aioioth")

# What happens to an interface happens to all that it has, one by one.
_PAUSE_SECONDS = 0.1


class Watcher:
    """Has the network asked again when an interface was set down and up again.

    Be it so quickly that only what is missing shows it; or when somebody has taken
    away what a source said.

    Args:
        label: The stack's.
        space: The stack's.
        holdings: What is to be there.
        refresh: Has an interface's network asked again.
    """

    def __init__(
        self,
        label: str,
        space: Space,
        holdings: Holdings,
        refresh: Callable[[str], None],
    ) -> None:
        self._label = label
        self._space = space
        self._holdings = holdings
        self._refresh = refresh
        self._monitor: Monitor | None = None
        self._soon: dict[str, asyncio.TimerHandle] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    def start(self, monitor: Monitor) -> None:
        """Listen from now on. Idempotent.

        Raises:
            OSError: There are no descriptors left.
        """
        if self._monitor is None:
            monitor.start()
            monitor.listen(self._hear)
            self._monitor = monitor

    def close(self) -> None:
        """End; its tasks end in the loop's next turn. Idempotent."""
        if self._monitor is not None:
            self._monitor.unlisten(self._hear)
        for timer in self._soon.values():
            timer.cancel()
        self._soon.clear()
        for task in self.tasks:
            task.cancel()

    def _hear(self, event: Event) -> None:
        if isinstance(event, LinkChanged):
            was_up = event.before.up and event.before.carrier
            if event.link.up and event.link.carrier and not was_up:
                self._recover_soon(event.interface)
        elif isinstance(event, (AddressRemoved, RouteRemoved)):
            lost = event.address if isinstance(event, AddressRemoved) else event.route
            assert self._monitor is not None
            if self._holdings.holds(lost) and lost not in self._monitor.refused:
                self._recover_soon(event.interface)

    def _recover_soon(self, dev: str) -> None:
        """Do it once for many things that happen at the same time."""
        if dev not in self._soon:
            loop = asyncio.get_running_loop()
            self._soon[dev] = loop.call_later(_PAUSE_SECONDS, self._recover, dev)

    def _recover(self, dev: str) -> None:
        del self._soon[dev]
        assert self._monitor is not None
        links = {link.name: link for link in self._monitor.links}
        if dev in links and links[dev].up and links[dev].carrier:  # else later
            task = asyncio.get_running_loop().create_task(
                self._ask_again(dev), name=f"aioioth: recover {dev} of {self._label}"
            )
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _ask_again(self, dev: str) -> None:
        try:
            await ensure_link_local(self._space, dev)
        except OSError as error:
            _log.warning("%s: %s: %s", self._label, dev, error)
        self._refresh(dev)
