"""A plug that is kept on its network: opened again whenever it breaks."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections import Counter
from typing import TYPE_CHECKING, Protocol

from aioioth.abc import CountsDrops
from aioioth.errors import ClosedError

if TYPE_CHECKING:
    from aioioth.abc import FrameTransport, Plug

_log = logging.getLogger("aioioth")

# A switch that is restarted by hand is back in a second or two; one that stays away is
# asked every five seconds, each of us at its own moment.
_FIRST_DELAY = 0.1
_LAST_DELAY = 5.0

# A network that was there for so long is a working one. One that lets us in and ends at
# once, such as a program that cannot do its work, is not started ten times a second.
_WORKING_SECONDS = 2.0


class Owner(Protocol):
    """Who moves the frames, and wants to know. No method may wait or raise."""

    def plugged(self, plug: Plug, /) -> None:
        """Start to read the plug."""
        ...

    def unplugged(self, plug: Plug, /) -> None:
        """Stop to read the plug, which is closed next."""
        ...

    def lost(self, cause: str) -> None:
        """Know that the network went away, and that it is being tried again."""
        ...

    def regained(self, attempts: int) -> None:
        """Know that the network is back."""
        ...


class Attachment:
    """Keeps a place on one network from `attach` to `pull_out`.

    Args:
        what: What is attached there, for messages: ``vde0``.
        label: Who plugs in, for the network's own listings.
        transport: Opened again whenever the plug breaks.
        owner: Told of every plug that comes and goes.

    Attributes:
        plug: The open plug; None while the network is away.
    """

    def __init__(
        self, what: str, label: str, transport: FrameTransport, owner: Owner
    ) -> None:
        self.plug: Plug | None = None
        self._what = what
        self._label = label
        self._transport = transport
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._hangup = -1
        self._reattaching: asyncio.Task[None] | None = None
        self._delay = _FIRST_DELAY
        self._since = 0.0
        self._earlier_drops: Counter[str] = Counter()
        self._closed = False

    def drops(self) -> Counter[str]:
        """Return what the network says that it lost on the way to us, by cause."""
        return self._earlier_drops + _drops_of(self.plug)

    def attach(self, plug: Plug) -> None:
        """Begin, or go on, with a plug that is open. Taken over."""
        self.plug = plug
        self._since = self._loop.time()
        try:
            self._owner.plugged(plug)
            hangup = plug.hangup_fileno()
            if hangup != -1:
                self._loop.add_reader(hangup, self._on_hangup)
                self._hangup = hangup
        except BaseException:
            self._let_go()
            raise

    async def plug_in(self) -> None:
        """Open the network and attach to it.

        Raises:
            BrokenTransportError: It cannot be reached; nothing has changed.
            ClosedError: Closed meanwhile.

        Cancellation:
            Nothing has changed.
        """
        plug = await self._transport.open(self._label)
        if self._closed:
            plug.close()
            what = f"{self._what} of {self._label}"
            raise ClosedError(what)
        self.attach(plug)

    def lose(self, cause: str) -> None:
        """Give up a plug that broke, and try to get the network back from now on."""
        if self.plug is None:
            return
        self._let_go()
        _log.warning("%s: %s lost its network: %s", self._label, self._what, cause)
        self._owner.lost(cause)
        self._reattaching = self._loop.create_task(
            self._reattach(), name=f"aioioth: re-attach {self._what} of {self._label}"
        )

    def pull_out(self) -> None:
        """Leave the network, and do not try to get it back. Idempotent."""
        reattaching, self._reattaching = self._reattaching, None
        if reattaching is not None and not self._loop.is_closed():
            reattaching.cancel()
        self._let_go()

    def close(self) -> None:
        """Leave the network for good. Idempotent, never raises."""
        self._closed = True
        self.pull_out()

    def forget_in_child(self) -> None:
        """Close our copies after a fork; the loop's epoll set is the parent's too."""
        self._closed = True
        if self.plug is not None:
            self.plug.close()
        self.plug, self._hangup, self._reattaching = None, -1, None

    def _let_go(self) -> None:
        plug, self.plug = self.plug, None
        if plug is None:
            return
        # The readers first, then what they read.
        self._owner.unplugged(plug)
        hangup, self._hangup = self._hangup, -1
        if hangup != -1 and not self._loop.is_closed():
            self._loop.remove_reader(hangup)
        plug.close()
        self._earlier_drops += _drops_of(plug)

    def _on_hangup(self) -> None:
        # In a forked child that runs its parent's loop on, there is no plug.
        self.lose("the other side has ended")

    async def _reattach(self) -> None:
        if self._loop.time() - self._since >= _WORKING_SECONDS:
            self._delay = _FIRST_DELAY
        for attempt in itertools.count(1):
            await asyncio.sleep(self._delay * random.uniform(0.8, 1.2))  # noqa: S311
            self._delay = min(2 * self._delay, _LAST_DELAY)
            if self._closed:
                return  # in a forked child that runs its parent's loop on
            try:
                await self.plug_in()
            except OSError as error:  # not there yet, or no descriptors left
                _log.debug("%s: %s: %s", self._label, self._what, error)
                continue
            self._reattaching = None
            _log.info("%s: %s has its network again", self._label, self._what)
            self._owner.regained(attempt)
            return


def _drops_of(plug: object) -> Counter[str]:
    return Counter(plug.drops) if isinstance(plug, CountsDrops) else Counter()
