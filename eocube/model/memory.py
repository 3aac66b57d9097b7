"""How much memory evaluating a recipe takes: counted from frames and windows, no pixel is touched."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

from eocube.model.frame import Frame
from eocube.model.recipe import Binding, Frames, Need, Node, Scratching, Source, frame_of, needs, shared_nodes
from eocube.model.window import Window

MAPPED_BYTES = 32 * 1024 * 1024
"""Arrays from here on are mapped one by one, and given back as soon as they are free; smaller ones leave a gap in the heap."""


class WindowBytes(NamedTuple):
    """Most bytes of arrays that evaluating a window holds at any time, by what goes on then."""

    reading: int
    """While a source is read: what waits for other steps, its pixels, and what reading takes beside them."""

    working: int
    """While a step works: its inputs, its result, what it declares to need beside them, and the gaps that arrays of earlier steps
    left and its result does not fit into."""

    room: int
    """What the biggest read took beside its pixels. It is free again, and few allocators give it back at once."""


def window_bytes(node: Node, window: Window, binding: Binding, memo: Frames) -> WindowBytes:
    """What evaluating ``window`` holds. Inputs go when their step is done; results used more than once stay to the end."""
    shared, kept = shared_nodes(node), dict[tuple[int, Window], int]()
    reading, working, room = [0], [0], [0]

    def arrays(need: Need, names: Collection[str] | None = None) -> list[int]:
        return array_bytes(frame_of(need.node, binding, memo), need.window, names)

    def held_for(need: Need) -> int:
        if id(need.node) not in shared:
            return sum(arrays(need))
        kept[id(need.node), need.window] = sum(arrays(need))
        return 0

    def visit(need: Need, waiting: int) -> list[int]:
        """The arrays that come and go meanwhile."""
        if "source" in need.node:
            room.append(scratch_of(binding.sources[need.node["source"]], need.window))
            reading.append(waiting + held_for(need) + room[-1])
            return []
        main, others = needs(need.node, need.window, binding, memo)
        inputs, gone = (*others.values(), main), list[int]()
        held = waiting
        for inner in inputs:
            gone += visit(inner, held)
            held += held_for(inner)
        declared = binding.steps[need.node["step"]]
        made = arrays(need, declared.changes)
        passed_on = sum(arrays(need)) - sum(made)
        beside = math.ceil(declared.scratch * (sum(arrays(need)) + sum(sum(arrays(inner)) for inner in inputs)))
        flags = declared.scratch_px * max(len(n.window.times) * math.prod(n.window.shape_yx) for n in inputs)
        gaps = sum(n for n in gone if n < min(max(made, default=0), MAPPED_BYTES))
        working.append(held + held_for(need) - passed_on + beside + flags + gaps)
        freed = [n for inner in others.values() if id(inner.node) not in shared for n in arrays(inner)]
        freed += [] if id(main.node) in shared else arrays(main, declared.changes)
        return [*gone, beside, flags, *freed]

    visit(Need(node, window), 0)
    stays = sum(kept.values())
    return WindowBytes(max(reading) + stays, max(working) + stays, max(room))


def scratch_of(source: Source, window: Window) -> int:
    """Most bytes that reading ``window`` holds beside its result, where the source says so; else none."""
    return source.scratch_bytes(window) if isinstance(source, Scratching) else 0


def frame_bytes(frame: Frame, window: Window) -> int:
    """Raw bytes of all variables of ``frame`` in ``window``."""
    return sum(array_bytes(frame, window))


def array_bytes(frame: Frame, window: Window, names: Collection[str] | None = None) -> list[int]:
    """Raw bytes of each variable of ``frame`` in ``window``; of those of some names only."""
    pixels = len(window.times) * math.prod(window.shape_yx)
    return [pixels * frame.pixel_bytes(v) for v in frame.variables if names is None or v.name in names]
