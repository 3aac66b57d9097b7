"""Composites of series that grow: dates inside a period renew it, wherever they lie; a new period must come last."""

from __future__ import annotations

from pathlib import Path

import pytest

import eocube
from eocube.errors import LateDateError, SettingsError, StalePlanError
from eocube.testing.contracts_step import write_small
from eocube.testing.sources import DATES, make_cube
from eocube.testing.stores import cubes_of, same_store


def compose_into(store: Path, dates: tuple[str, ...], *, layout: str = "map", freq: str = "MS") -> None:
    """Monthly composites of those dates. A date's pixels must not depend on the others: each comes out of the whole series."""
    whole = make_cube(name="growing")
    from eocube.lazy.cube import lazy_cube
    from eocube.testing.sources import ArraySource, sources_of

    (source,) = sources_of(whole)
    at = [DATES.index(d) for d in dates]
    frame = source.frame()
    kept = frame.with_(
        time_ms=tuple(frame.time_ms[i] for i in at),
        per_time=tuple(type(p)(name=p.name, dtype=p.dtype, values=tuple(p.values[i] for i in at)) for p in frame.per_time),
    )
    some = ArraySource(kept, {k: v[at] for k, v in source.arrays.items()}, name="growing")
    cube = lazy_cube(some, some.node, chunks={"time": 1, "y": 16, "x": 32})
    write_small(eocube.composite(eocube.mask_clouds(cube), freq=freq), store, layout=layout)  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["map", "balanced"])
@pytest.mark.parametrize("late", [(4,), (1, 5, 7), (10, 11), (2, 11)])
def test_dates_inside_periods_that_are_there_renew_them_wherever_they_lie(
    tmp_path: Path, layout: str, late: tuple[int, ...]
) -> None:
    before = tuple(d for i, d in enumerate(DATES) if i not in late)
    compose_into(tmp_path / "grown", before, layout=layout)
    compose_into(tmp_path / "grown", DATES, layout=layout)
    compose_into(tmp_path / "whole", DATES, layout=layout)
    assert same_store(tmp_path / "grown", tmp_path / "whole")


def test_a_date_that_makes_an_earlier_period_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    compose_into(tmp_path, tuple(d for d in DATES if d != "2020-02-29"))
    before = cubes_of(tmp_path)
    with pytest.raises(LateDateError, match="2020-02-01"):
        compose_into(tmp_path, DATES)
    assert cubes_of(tmp_path) == before


def test_a_series_that_lost_a_date_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    compose_into(tmp_path, DATES)
    before = cubes_of(tmp_path)
    for gone in ("2020-01-11", "2020-02-29"):
        with pytest.raises(StalePlanError):
            compose_into(tmp_path, tuple(d for d in DATES if d != gone))
        assert cubes_of(tmp_path) == before


def test_another_period_or_step_is_another_product(tmp_path: Path) -> None:
    compose_into(tmp_path, DATES)
    with pytest.raises(SettingsError):
        compose_into(tmp_path, DATES, freq="QS")
