"""A pump's wake-up in C, for networks that take and give single frames.

A `Sender` and a `Receiver` do what the loop in aioioth's pump does between a TAP and a
socket, with few system calls for many frames, and let the kernel of a stack leave to
them what it would leave to a network card. They never wait, own nothing that is open,
and believe nothing that stands in a frame.

aioioth uses this by itself where it is installed; without it everything works the same,
and slower. ``AIOIOTH_SPEEDUPS=0`` in the environment has it left alone.
"""

from aioioth_speedups._moving import (
    EMPTY,
    FULL,
    LONGEST,
    MALFORMED,
    MORE,
    SINK_BROKEN,
    SOURCE_BROKEN,
    Receiver,
    Sender,
)

__all__ = [
    "EMPTY",
    "FULL",
    "LONGEST",
    "MALFORMED",
    "MORE",
    "SINK_BROKEN",
    "SOURCE_BROKEN",
    "Receiver",
    "Sender",
]
