"""What a suite says of itself: the type of the fixture ``tell``, whose lines stand in the summary of the run."""

from __future__ import annotations

from collections.abc import Callable

Tell = Callable[[str], None]
