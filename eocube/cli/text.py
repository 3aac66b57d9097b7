"""Text of any origin, as a terminal may be given it."""

from __future__ import annotations

_WRITTEN = "\u200c\u200d\xa0\u3000"
"""Signs of scripts and typography that Python does not count as printable."""


def printable(text: str) -> str:
    """A text of whatever origin as one line that a terminal takes for text: no line ends, no escape sequences."""
    line = " ".join(part.strip() for part in text.splitlines() if part.strip())
    return "".join(c if c.isprintable() or c in _WRITTEN else c.encode("unicode_escape").decode("ascii") for c in line)
