"""What the event loop's end does to stacks that were left open."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap

import pytest

import aioioth
from aioioth import errors
from aioioth.testing import no_leaks

LOOPS = {"asyncio": "asyncio.run", "uvloop": "uvloop.run"}


def run(program: str, run: str = "asyncio.run") -> subprocess.CompletedProcess[str]:
    source = textwrap.dedent(program).replace("RUN", run)
    return subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("loop", LOOPS)
def test_a_forgotten_stack_is_closed_and_named(loop: str) -> None:
    done = run(
        """
        import asyncio, uvloop, aioioth

        async def main():
            global stack
            stack = await aioioth.Stack("memory://lan", name="lost").open()

        RUN(main())
        print(stack)
        print(repr(stack))
        """,
        LOOPS[loop],
    )
    assert done.returncode == 0
    assert "stack 'lost'\n<Stack 'lost' on memory://lan, closed>" in done.stdout
    assert "<string>:6: UnclosedStackWarning: stack 'lost' was never" in done.stderr


@pytest.mark.parametrize("loop", LOOPS)
def test_ctrl_c_closes_everything_quietly(loop: str) -> None:
    source = """
        import asyncio, uvloop, aioioth
        from aioioth.testing import no_leaks

        async def main():
            async with aioioth.Stack("memory://lan", ip="10.0.0.1/24") as stack:
                async with await stack.start_server(print, "10.0.0.1", 7) as server:
                    print("ready", flush=True)
                    await server.serve_forever()

        uvloop.new_event_loop().close()
        with no_leaks():
            try:
                RUN(main())
            except KeyboardInterrupt:
                print("interrupted")
        """
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source).replace("RUN", LOOPS[loop])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    program.send_signal(signal.SIGINT)
    out, err = program.communicate(timeout=30)
    assert (out, err, program.returncode) == ("interrupted\n", "", 0)


def test_a_loop_that_is_only_closed() -> None:
    """Without shutdown_asyncgens nobody tells us; the next loop cleans up."""
    loop = asyncio.new_event_loop()
    with no_leaks():
        stack = loop.run_until_complete(aioioth.Stack("memory://lan").open())
        loop.close()

        async def next_one() -> None:
            with pytest.warns(errors.UnclosedStackWarning, match="never closed"):
                async with aioioth.Stack():
                    assert stack not in aioioth.stacks()

        asyncio.run(next_one())


async def test_stacks_are_listed_in_order() -> None:
    assert aioioth.stacks() == ()
    async with aioioth.Stack() as one, aioioth.Stack() as two:
        assert aioioth.stacks() == (one, two)

        async def elsewhere() -> tuple[aioioth.Stack, ...]:
            return aioioth.stacks()

        assert await asyncio.to_thread(asyncio.run, elsewhere()) == ()
    assert aioioth.stacks() == ()


def test_left_stacks_are_closed_newest_first() -> None:
    order: list[str] = []

    class Noting(aioioth.Stack):
        def close(self) -> None:
            order.append(self.name)
            super().close()

    async def main() -> None:
        await Noting(name="first").open()
        await Noting(name="second").open()

    with pytest.warns(errors.UnclosedStackWarning) as caught:
        asyncio.run(main())
    assert order == ["second", "first"]
    assert [warning.filename for warning in caught] == [__file__, __file__]
