"""Licences and attributions of sources, carried along word for word: what is derived from several lists all of them.

Nothing is weighed here: no licence is computed, dropped or turned into another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LISTS: Mapping[str, str] = {"license": "licenses", "attribution": "attributions"}
"""Attribute of a cube, one text → attribute of a store or patch set, a list of texts."""

_BETWEEN = "; "


def merged(have: Sequence[str], more: Iterable[str | None]) -> list[str]:
    """``have``, and of ``more`` what is not said in it yet; texts stay as they are."""
    out = list(have)
    for text in more:
        if text and f"{_BETWEEN}{text}{_BETWEEN}" not in f"{_BETWEEN}{_BETWEEN.join(out)}{_BETWEEN}":
            out.append(text)
    return out


def of_cubes(attrs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """``license`` and ``attribution`` of what is made from things with those attributes; the lists beside them where they say
    several. Nothing of what none states.
    """
    out: dict[str, Any] = {}
    found = of_store(attrs)
    for key, name in LISTS.items():
        if found[name]:
            out |= {key: _BETWEEN.join(found[name])} | ({name: found[name]} if len(found[name]) > 1 else {})
    return out


def of_store(attrs: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """``licenses`` and ``attributions`` of what is made from things with those attributes.

    These are cubes' or stores': where there is a list, it says what the text beside it says.
    """
    out: dict[str, list[str]] = {name: [] for name in LISTS.values()}
    for one in attrs:
        for key, name in LISTS.items():
            out[name] = merged(out[name], map(str, one.get(name) or filter(None, [one.get(key)])))
    return out
