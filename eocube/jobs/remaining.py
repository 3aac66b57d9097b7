"""What a run still has to do: planned regions less those that earlier runs finished; reads markers' names only."""

from __future__ import annotations

from dataclasses import dataclass

from eocube.exec.drive import CubePlan, check_plan, refuse_fewer
from eocube.io.blobs import open_blobs
from eocube.io.markers import is_finished
from eocube.io.tally import markers_by_region
from eocube.model.spec import Region


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far a planned cube is."""

    finished: frozenset[Region] = frozenset()
    """Regions that a run would pass by."""

    partial: frozenset[Region] = frozenset()
    """Regions in which a file could not be read."""


def standing(plan: CubePlan, *, checked: bool = False) -> Standing:
    """How far earlier runs came with a planned cube. One listing; a region's key is made only where a marker is.

    ``checked``: raise what a run would raise of the plan before it writes (SettingsError, GridError, LateDateError,
    StalePlanError, CubeError); that reads the cube's root, and the markers of regions that would be written anew.
    """
    job = plan.job
    blobs = open_blobs(job.store_url, job.storage_options)
    if checked:
        check_plan(blobs, plan)
    known = markers_by_region(blobs, job.cube, job.product)
    inside = {r: names for r, names in known.items() if job.spec.has(r)}
    finished = set()
    for region, names in inside.items():
        leaves = job.leaves(job.spec.window(region))
        key = job.region_key(region, leaves)
        if is_finished(names, key):
            finished.add(region)
        elif checked:
            for old in names:
                if old.key != key:
                    refuse_fewer(blobs, job, old, leaves)
    return Standing(
        finished=frozenset(finished), partial=frozenset(r for r, names in inside.items() if any(m.partial for m in names))
    )


def regions_left(plan: CubePlan, *, retry: bool = False) -> int:
    """How many regions of a planned cube a run would write now; ``retry``: only those in which a file could not be read."""
    now = standing(plan)
    return len(now.partial) if retry else plan.n_regions - len(now.finished)
