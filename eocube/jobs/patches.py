"""plan_patches and extract_patches: LR/HR pairs of a store, planned without pixels and cut once into a patch set."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import pyarrow as pa

from eocube.errors import PatchError, SettingsError, UnknownNameError
from eocube.exec.claim import add_licences
from eocube.exec.executors import Executor, executing
from eocube.io.blobs import Blobs, LocalBlobs, open_blobs
from eocube.io.cubes import CubeSource, cube_path
from eocube.io.markers import is_finished
from eocube.io.tally import markers_by_region
from eocube.io.template import ROOT
from eocube.jobs.open import Store, open_store, some_or_all
from eocube.model.patch_spec import PatchSpec
from eocube.model.spec import CubeSpec, Region
from eocube.patches.extract import PRODUCT, ExtractTask, PatchesDone, PatchJob, run_extract
from eocube.patches.index import INDEX, join_parts
from eocube.patches.layout import PatchLayout, layout_of, read_licence
from eocube.patches.plan import PatchPair, PatchPlan

MAX_BYTES = 256 * 1024 * 1024
"""Default bound of the decoded source pixels that one task holds at once."""

Progress = Callable[[PatchesDone], None]


@dataclass(kw_only=True)
class PatchReport:
    """What a run of extract_patches did, and what the set holds now."""

    out: str
    tasks_done: int = 0
    tasks_skipped: int = 0
    """Tasks that an earlier run had finished."""

    bytes_written: int = 0
    seconds: float = 0.0
    patches: dict[str, int] = field(default_factory=dict)
    """Patches of the finished set by split; empty while it is unfinished."""

    dropped: int = 0
    """Slots of the finished set that turned out too cloudy; the index says why of each."""

    stopped_at_limit: bool = False

    def __str__(self) -> str:
        kept = ", ".join(f"{n} {split}" for split, n in sorted(self.patches.items())) or "unfinished"
        return f"{self.out}: {kept} patches, {self.dropped} dropped, {self.tasks_done} tasks done, {self.tasks_skipped} skipped"


def plan_patches(
    store: str | Store,
    spec: PatchSpec,
    *,
    sites: Sequence[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> PatchPlan:
    """Which patches a store holds by a spec: from its index, grids and dates alone; no pixel is read.

    Parameters
    ----------
    store
        Folder or URL of the store, or the opened store.
    spec
        What is wanted.
    sites
        Only those; None: every site that has both products.
    storage_options
        For the store.

    Returns
    -------
    A plan with ``len``, ``head(n)``, ``rows()``, ``summary()``; order and ids follow from store and spec alone.

    Raises
    ------
    UnknownNameError
        For a product, site or band that is not there.
    GridError
        If the two grids of a site do not nest at the spec's scale.
    PatchError
        If no site has both products, sites differ in their bands, or sites lie in bigger cubes.
    """
    opened = store if isinstance(store, Store) else open_store(store, storage_options=storage_options)
    cubes = _cubes_of(opened, spec, sites)
    pairs = tuple(
        PatchPair(
            site=site,
            lr_cube=lr,
            hr_cube=hr,
            lr=_cube_spec(opened.url, lr, spec.lr_product, storage_options),
            hr=_cube_spec(opened.url, hr, spec.hr_product, storage_options),
            spec=spec,
        )
        for site, (lr, hr) in sorted(cubes.items())
    )
    return PatchPlan(spec=spec, pairs=pairs)


def _cubes_of(store: Store, spec: PatchSpec, sites: Sequence[str] | None) -> dict[str, tuple[str, str]]:
    """Site → names of its LR and its HR cube."""
    sites = some_or_all("sites", sites)
    rows = store.index.select(["site", "product", "cube"]).to_pylist()
    products = sorted({r["product"] for r in rows})
    for product in (spec.lr_product, spec.hr_product):
        if product not in products:
            raise UnknownNameError("product", product, products, f"the index of {store.url}")
    names = {(r["site"], r["product"]): r["cube"] for r in rows}
    known = sorted({r["site"] for r in rows})
    for site in sites or ():
        if site not in known:
            raise UnknownNameError("site", site, known[:20], f"the index of {store.url}")
    both = {
        s: (names[s, spec.lr_product], names[s, spec.hr_product])
        for s in sites or known
        if (s, spec.lr_product) in names and (s, spec.hr_product) in names
    }
    if not both:
        raise PatchError(
            f"No site of {store.url} has both {spec.lr_product!r} and {spec.hr_product!r}; convert both products of a site."
        )
    return both


def _cube_spec(store_url: str, cube: str, product: str, options: Mapping[str, Any] | None) -> CubeSpec:
    spec = CubeSource.open(f"{store_url}/{cube_path(cube, product)}", options=options).spec
    if spec.places is not None:
        raise PatchError(
            f"Sites of {product!r} in {store_url} lie in bigger cubes ({cube}); patches are cut from cubes that are one site. "
            f"Write the sites as cubes of their own first: eocube.write_cube(store.cube(site, {product!r}), …)."
        )
    return spec


def extract_patches(
    store: str,
    out: str,
    spec: PatchSpec | PatchPlan,
    *,
    sites: Sequence[str] | None = None,
    executor: Any = None,
    limit: int | None = None,
    max_bytes: int = MAX_BYTES,
    storage_options: Mapping[str, Any] | None = None,
    on_done: Progress | None = None,
) -> PatchReport:
    """Cut the patches of a store into a patch set; the same call again after anything finishes what is left.

    Parameters
    ----------
    store
        Folder or URL of the store.
    out
        Folder or URL of the patch set; made if absent.
    spec
        What is wanted, or a plan of :func:`plan_patches` (its ``head(n)``, say).
    sites
        Only those, where ``spec`` is not a plan.
    executor
        As in :func:`eocube.write_cube`; these tasks never run on GPU workers.
    limit
        Run at most that many tasks; the set is then unfinished until a later call.
    max_bytes
        Most decoded source pixels that a task holds at once.
    storage_options
        For both URLs.
    on_done
        Called with each finished task.

    Returns
    -------
    What was done. A slot that is less clear than asked is kept as fill, and its index row says ``dropped`` and why.

    Raises
    ------
    SettingsError
        If another patch set is at ``out``; nothing was changed.
    CubeError
        If a region of a cube is not finished, or a cube has no scale to decode it with.
    UnknownNameError, GridError, PatchError
        As :func:`plan_patches`.
    """
    started = time.perf_counter()
    opened = open_store(store, storage_options=storage_options)
    plan = spec if isinstance(spec, PatchPlan) else plan_patches(opened, spec, sites=sites, storage_options=storage_options)
    if not len(plan):
        raise PatchError(
            f"There is nothing to extract from {store}: the plan has {plan.summary()}. Make patches or blocks smaller."
        )
    layout = PatchLayout(
        spec=plan.spec,
        lr_bands=plan.lr_bands,
        hr_bands=plan.hr_bands,
        n_places=plan.n_places,
        shard_patches=plan.shard_patches,
        chunk_patches=plan.chunk_patches,
    )
    blobs = open_blobs(out, storage_options)
    if isinstance(blobs, LocalBlobs):
        blobs.sweep_staging()
    _claim(blobs, layout, read_licence(open_blobs(opened.url, storage_options)))
    report = PatchReport(out=blobs.url)
    with executing(executor) as running:
        stream = _Stream(opened.url, blobs, plan, layout, report, limit=limit, max_bytes=max_bytes, options=storage_options)
        for done in running.run(run_extract, stream.tasks(running)):
            report.tasks_done += 1
            report.bytes_written += done.bytes_written
            if on_done is not None:
                on_done(done)
    if not report.stopped_at_limit:
        _count(report, join_parts(blobs, stream.parts))
    report.seconds = time.perf_counter() - started
    return report


def _claim(blobs: Blobs, layout: PatchLayout, licence: Mapping[str, Any]) -> None:
    """Make the set's metadata, or find the same there; SettingsError where another set is."""
    objects = layout.objects(licence)
    if not blobs.put_new(ROOT, objects[ROOT]):
        stored = layout_of(blobs.get(ROOT) or b"", blobs.url)
        if stored.layout_id != layout.layout_id:
            raise SettingsError(f"The patch set at {blobs.url}", stored.differences(layout))
        add_licences(blobs, licence)  # the store may have got cubes of other sources since
    for key, body in objects.items():
        if key != ROOT:
            blobs.put_new(key, body)


def _count(report: PatchReport, index: pa.Table) -> None:
    for row in index.select(["split", "dropped"]).to_pylist():
        if row["dropped"]:
            report.dropped += 1
        else:
            report.patches[row["split"]] = report.patches.get(row["split"], 0) + 1


class _Stream:
    """The tasks of a plan that are not finished yet, drawn one by one."""

    def __init__(
        self,
        store_url: str,
        blobs: Blobs,
        plan: PatchPlan,
        layout: PatchLayout,
        report: PatchReport,
        *,
        limit: int | None,
        max_bytes: int,
        options: Mapping[str, Any] | None,
    ):
        self._store_url, self._blobs, self._plan, self._layout, self._report = store_url, blobs, plan, layout, report
        self._limit, self._max_bytes, self._options = limit, max_bytes, dict(options or {})
        self.parts: list[str] = []
        """Index part of every task seen so far, finished or not."""

    def tasks(self, executor: Executor) -> Iterator[tuple[Any, ExtractTask]]:
        """(shared job, task), site by site."""
        n = 0
        for _, group in groupby(self._plan.tasks(), key=lambda item: item[0].site):
            items = list(group)
            job = self._job(items[0][0])
            shared = None
            known = markers_by_region(self._blobs, job.pair.hr_cube, PRODUCT)
            for _, task in items:
                todo = self._todo(job, task.region, known, task)
                self.parts.append(job.part_key(task.region))
                if todo is None:
                    self._report.tasks_skipped += 1
                    continue
                if self._limit is not None and n >= self._limit:
                    self._report.stopped_at_limit = True
                    return
                if n == 0:
                    self._blobs.delete(INDEX)  # from here on the set is unfinished; it is written anew at the end
                shared = executor.share(job) if shared is None else shared
                n += 1
                yield shared, todo

    def _job(self, pair: PatchPair) -> PatchJob:
        return PatchJob(
            store_url=self._store_url,
            out_url=self._blobs.url,
            storage_options=self._options,
            pair=pair,
            layout=self._layout,
            max_bytes=self._max_bytes,
        )

    def _todo(self, job: PatchJob, region: Region, known: Mapping[Region, Any], task: Any) -> ExtractTask | None:
        """The task with its key; None where it is finished."""
        leaves = job.leaves(job.slots(task))
        key = job.key(task, leaves)
        found = known.get(region, [])
        return None if is_finished(found, key) else ExtractTask(task=task, key=key, leaves=leaves, replaces=tuple(found))
