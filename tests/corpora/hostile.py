"""Items that were changed by somebody who means no good: what is put where, and what may come of it."""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from eocube.corpora.stac import StacCorpus
from eocube.errors import EocubeError
from eocube.jobs.convert import plan_convert
from eocube.jobs.open import load_stac
from eocube.jobs.plan import Plan
from eocube.jobs.stac import open_stac
from eocube.testing.stac import SyntheticReader, across_baseline, item_dict

SLUG = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")
BBOX = (28.2735, 45.1435, 28.2785, 45.146)
SCENES = across_baseline(3, zooms={"B04": 1, "B8A": 2, "SCL": 2})


def nested(depth: int, kind: type = list) -> Any:
    """A list in a list in a list …; or objects."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    return value


VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3.5, 1e308, -1e308, 1e-308, 10**9, 10**400, -(10**5000),
    float("nan"), float("inf"), -float("inf"), "", " ", "a", "nan", "1e999", "..", "../../../../tmp/eocube-was-here",
    "/etc/passwd", "/dev/zero", "a\x00b", "a\nError: b", "\x1b[2J\x1b]0;x\x07", "\u202egnp.exe", "\ud800", "x" * 5_000, "x" * 200,
    "CON", "a/b\\c", "EPSG:32635", "EPSG:0", "EPSG:4978", "EPSG:5773", "EPSG:3857", "+proj=utm +zone=99",
    "javascript:alert(1)", "data:image/tiff;base64,AAAA", "file:///etc/passwd", "/vsizip//nowhere/x.zip/y.tif", "<VRTDataset/>",
    "WMTS:x", "2021-01-03T09:30:00Z", "0000-00-00T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00",
    "SCL", "B04", "scl", "red",
    "uint16", "uint8", "float32", "float64", "complex64", "cint16", "object", "M8[ns]", "other", "sentinel-2a", "landsat-8",
    [], {}, [1], [None], [10**9, 10**9], [0, 0], [-4, 4], [1, 2, 3], ["a", "b"], [[1], [2]], [{}], [{}, {}, {}], [{"name": 5}],
    [1e308] * 6, [0] * 6, [10, 0, 1e300, 0, -10, 1e300], [0, 10, 0, 10, 0, 0], [1e-300, 0, 0, 0, -1e-300, 0],
    [10, 0, 600_000, 0, 10, 5e6], [float("nan")] * 6, {"a": 1}, {"name": "B04"}, {"type": "GeographicCRS"},
    nested(50), nested(3_000), nested(3_000, dict), [{"name": "B04"}] * 70_000,
)  # fmt: skip
"""Wrong types, wrong numbers, names that lead elsewhere, and right values in wrong places."""

TEXT_MAKERS = (
    str.upper,
    str.lower,
    lambda s: s + "/",
    lambda s: "../" + s,
    lambda s: s * 40,
    lambda s: s[::-1],
    lambda s: s[:-1],
)


@dataclass
class Outcome:
    """What came of some thousand items."""

    planned: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    escaped: list[tuple[Any, ...]] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.planned} planned, {self.refused.total()} refused {dict(self.refused)}, {len(self.escaped)} escaped"


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a document, the document's own left out."""
    if path:
        yield path
    if isinstance(value, dict | list) and len(path) < 12 and len(value) < 100:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


def extra_places(item: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Fields that the valid item lacks and that eocube reads."""
    for name in (
        "proj:epsg", "proj:code", "proj:wkt2", "proj:projjson", "proj:shape", "proj:transform",
        "grid:code", "s2:mgrs_tile", "s2:tile_id", "mgrs:utm_zone", "mgrs:grid_square", "start_datetime", "end_datetime",
        "earthsearch:boa_offset_applied",
    ):  # fmt: skip
        yield "properties", name
    for key in item["assets"]:
        for name in ("eo:bands", "raster:bands", "nodata", "data_type", "proj:epsg", "name", "raster:scale"):
            yield "assets", key, name
    yield from ((("bbox",), ("links",), ("stac_version",)))


def changed(item: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """The item with one to three of its values changed, taken away, or put under another name."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        known = list(places(item))
        extra = extra_places(item) if isinstance(item.get("assets"), dict) else ()
        path = rng.choice([*known, *extra])
        _change(item, path, rng)
    return item


def _change(item: Any, path: tuple[Any, ...], rng: random.Random) -> None:
    for step in path[:-1]:
        try:
            item = item[step]
        except (KeyError, TypeError, IndexError):
            return
    if not isinstance(item, dict | list) or (isinstance(item, list) and not (isinstance(path[-1], int) and path[-1] < len(item))):
        return
    old = item[path[-1]] if isinstance(item, list) else item.get(path[-1])
    what = rng.random()
    if what < 0.1:
        item.pop(path[-1], *(() if isinstance(item, list) else (None,)))
    elif what < 0.2 and isinstance(item, dict):
        item[rng.choice([v for v in VALUES if isinstance(v, str)])] = item.pop(path[-1], None)
    elif what < 0.35 and isinstance(old, str):
        item[path[-1]] = rng.choice(TEXT_MAKERS)(old)
    elif what < 0.5 and isinstance(old, int | float) and not isinstance(old, bool):
        item[path[-1]] = rng.choice((-old, old * 10**12, old / 1e12, old + 1, str(old), [old]))
    else:
        item[path[-1]] = copy.copy(rng.choice(VALUES)) if rng.random() < 0.95 else nested(rng.randrange(100_000) % 2_000)


def try_items(n: int, seed: int, *, at_most: int = 2) -> Outcome:
    """Plan ``n`` catalogues of three items, of which one or two are changed: through the corpus, or as one lazy cube."""
    rng, found, reader = random.Random(seed), Outcome(), SyntheticReader(SCENES)  # noqa: S311 - a seeded test
    valid = [{k: v for k, v in item_dict(s, folder="/nowhere").items() if k != "geometry"} for s in SCENES]
    for i in range(n):
        items = copy.deepcopy(valid)
        for at in rng.sample(range(3), min(rng.choice((1, 1, 2)), at_most)):
            items[at] = changed(items[at], rng)
        try:
            _plan(items, reader, ("corpus", "cube", "corpus", "area", "bounds")[i % 5])
            found.planned += 1
        except EocubeError as e:
            found.refused[type(e).__name__] += 1
            if not (isinstance(e, ValueError | LookupError | OSError | RuntimeError) and 20 < len(str(e)) < 3_000):
                found.escaped.append((i, seed, type(e).__name__, str(e)[:200], "is no stdlib error, or says too much or little"))
        except Exception as e:  # noqa: BLE001 - which one is what this is about
            found.escaped.append((i, seed, type(e).__name__, str(e)[:200], _where(e)))
    return found


def _where(error: BaseException) -> str:
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    names = []
    here = error.__traceback__
    while here is not None:
        code = here.tb_frame.f_code
        if "/eocube/" in code.co_filename:
            names.append(f"{code.co_filename.rpartition('/eocube/')[2]}:{here.tb_lineno}")
        here = here.tb_next
    return " ".join(names[-4:])


def _plan(items: list[Any], reader: SyntheticReader, way: str) -> None:
    """A plan by one of the ways in: the corpus, a lazy cube, an area in time, a lazy cube of an area."""
    if way == "cube":
        load_stac(items)
        return
    if way == "bounds":
        load_stac(items, bbox=BBOX, resampling="bilinear", bands=["red"])
        return
    opened = open_stac(items, bbox=BBOX, time="2021") if way == "area" else StacCorpus.open(items, reader=reader)
    plans = list(plan_convert(opened, "nowhere"))
    for plan in plans:
        assert set(plan.job.cube) <= SLUG
        assert not plan.job.cube.startswith(".")
    for _ in Plan(plans).head(4).rows():
        pass
