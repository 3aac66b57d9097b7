"""The radiometric offset of Sentinel-2, decided for each asset from its metadata, never from its date.

From processing baseline 04.00 on, digital numbers carry +1000 (``BOA_ADD_OFFSET`` -1000). Providers differ in what they did
about it and in how they say so:

- Earth Search v1 ``sentinel-2-l2a`` took the 1000 away and says so in ``earthsearch:boa_offset_applied``; ``raster:bands`` may
  still give an offset of -0.1 (Element84/earth-search#9), so the flag is the truth for that collection.
- Planetary Computer leaves the files as ESA made them and declares no offset: the baseline tells.
- Collection 1 reprocessing puts the offset on older dates too, so a date proves nothing.

Where the readings contradict each other or nothing is said, the cube is refused with all readings, not guessed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

from eocube.errors import RadiometryError

SCALE = 1e-4
OFFSET = -0.1
SHIFT = 1000
_FIRST_WITH_OFFSET = 4.0


def dn_shift_of(item: Mapping[str, Any], *, key: str, scale: float | None, offset: float | None) -> int:
    """What to add to the numbers of an asset so that offset -1000 DN holds: 0 or 1000.

    Parameters
    ----------
    item
        The STAC item.
    key
        Name of the asset, for the message.
    scale, offset
        As the asset's metadata declares them, in reflectance units (0.0001 and -0.1), None where it does not.

    Raises
    ------
    RadiometryError
        If the readings contradict each other, or there is none, or they are not Sentinel-2's.
    """
    readings = offset_readings(item, scale=scale, offset=offset)
    if "declared scale" in readings and abs(readings["declared scale"] - SCALE) > SCALE * 1e-6:
        raise RadiometryError(f"Asset {key!r} of Sentinel-2 item {item['id']!r} declares scale {scale}; expected {SCALE}.")
    applied = readings.get("earthsearch:boa_offset_applied")
    if applied is True:
        return SHIFT
    votes = {k: v for k, v in readings.items() if k in {"declared offset", "s2:processing_baseline"}}
    offsets = {v if k == "declared offset" else (-SHIFT if v >= _FIRST_WITH_OFFSET else 0) for k, v in votes.items()}
    if len(offsets) == 1 and (found := offsets.pop()) in (0, -SHIFT):
        return SHIFT + int(found)
    raise RadiometryError(
        f"The radiometric offset of asset {key!r} of Sentinel-2 item {item['id']!r} is "
        f"{'contradictory' if votes else 'not stated'}: {readings or 'no reading at all'}. Mend the item's metadata, or pass "
        "dn_offset=0 or dn_offset=-1000 if you know what the files hold."
    )


def offset_readings(item: Mapping[str, Any], *, scale: float | None, offset: float | None) -> dict[str, Any]:
    """Everything the metadata says on the matter, by where it says it; ``declared offset`` in DN."""
    p = item["properties"]
    readings: dict[str, Any] = {}
    if offset is not None:
        readings["declared offset"] = round(offset / (scale or SCALE))
    if scale is not None:
        readings["declared scale"] = scale
    flag = p.get("earthsearch:boa_offset_applied")
    if isinstance(flag, bool):
        readings["earthsearch:boa_offset_applied"] = flag
    baseline = p.get("s2:processing_baseline", p.get("processing:version"))
    with contextlib.suppress(ValueError):
        if math.isfinite(number := float(str(baseline))):
            readings["s2:processing_baseline"] = number
    return readings
