"""What a run still has to do: planned regions less those that earlier runs finished; reads markers' names only."""

from __future__ import annotations

from eocube.exec.drive import CubePlan
from eocube.io.blobs import open_blobs
from eocube.io.markers import is_finished
from eocube.io.tally import markers_by_region


def regions_left(plan: CubePlan, *, retry: bool = False) -> int:
    """How many regions of a planned cube a run would write now.

    ``retry``: only those in which a file could not be read. One listing; a region's key is made only where a marker is.
    """
    job = plan.job
    known = markers_by_region(open_blobs(job.store_url, job.storage_options), job.cube, job.product)
    if retry:
        return sum(any(m.partial for m in names) for names in known.values())
    left = plan.n_regions
    for region, names in known.items():
        if all(i < n for i, n in zip(region, job.spec.grid, strict=True)):
            key = job.region_key(region, job.leaves(job.spec.window(region)))
            left -= is_finished(names, key)
    return left
