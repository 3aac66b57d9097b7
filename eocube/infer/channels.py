"""What threads of one pipeline hand to each other: bounded channels and a byte gate that one switch stops all at once."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class StoppedError(Exception):
    """The pipeline was stopped elsewhere; the thread that gets this has nothing to report and returns."""


class Switch:
    """One lock for a whole pipeline, and the means to wake everyone who waits under it.

    One lock keeps the reasoning simple: whether the pipeline is stopped and what is in a channel change under the same lock,
    so a stop cannot slip between the look and the wait. Held for microseconds, per tile, while work takes milliseconds.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._stopped = False
        self._conditions: weakref.WeakSet[threading.Condition] = weakref.WeakSet()

    def condition(self) -> threading.Condition:
        """A new condition under the one lock."""
        condition = threading.Condition(self.lock)
        with self.lock:
            self._conditions.add(condition)
        return condition

    def wait(self, condition: threading.Condition, ready: Callable[[], bool]) -> None:
        """Wait, the lock held, until ``ready()``; StoppedError once the pipeline is stopped."""
        condition.wait_for(lambda: self._stopped or ready())
        if self._stopped:
            raise StoppedError

    def stop(self) -> None:
        """Stop for good: every present and later wait raises StoppedError."""
        with self.lock:
            self._stopped = True
            for condition in self._conditions:
                condition.notify_all()


class Channel(Generic[T]):
    """A first-in-first-out queue that ends: iterate over it until it is closed and empty.

    Parameters
    ----------
    switch
        Stops it.
    max_items
        ``put`` waits while this many are inside; None never waits.
    """

    def __init__(self, switch: Switch, max_items: int | None = None):
        self._switch = switch
        self._condition = switch.condition()
        self._max_items = max_items
        self._items: deque[T] = deque()
        self._closed = False

    def put(self, item: T) -> None:
        """Append, waiting for room."""
        with self._condition:
            self._switch.wait(self._condition, lambda: self._max_items is None or len(self._items) < self._max_items)
            self._items.append(item)
            self._condition.notify_all()

    def close(self) -> None:
        """Nothing more will be put."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def take(self) -> T:
        """Take the oldest, waiting for one; StopIteration once closed and empty."""
        with self._condition:
            self._switch.wait(self._condition, lambda: bool(self._items) or self._closed)
            if not self._items:
                raise StopIteration
            item = self._items.popleft()
            self._condition.notify_all()
            return item

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        return self.take()


class ByteGate:
    """Lets work in while its bytes fit under a bound; work larger than the bound is let in alone."""

    def __init__(self, switch: Switch, max_bytes: int):
        self._switch = switch
        self._condition = switch.condition()
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self.peak_bytes = 0

    def admit(self, n_bytes: int) -> None:
        """Wait until ``n_bytes`` fit, then hold them."""
        with self._condition:
            self._switch.wait(self._condition, lambda: not self.held_bytes or self.held_bytes + n_bytes <= self.max_bytes)
            self.held_bytes += n_bytes
            self.peak_bytes = max(self.peak_bytes, self.held_bytes)

    def release(self, n_bytes: int) -> None:
        """Let go of bytes once admitted."""
        with self._condition:
            self.held_bytes -= n_bytes
            self._condition.notify_all()
