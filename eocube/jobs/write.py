"""write_cube: any cube into a store, resumable; and plans, which say before what that will read and cost."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import xarray as xr

from eocube.errors import ArgumentError, CubeError, UnknownNameError
from eocube.exec.claim import CubeMeta
from eocube.exec.drive import CubePlan, Progress, Runner, RunReport, drive
from eocube.exec.executors import Resource, executing
from eocube.exec.region import CubeJob, Errors, run_regions
from eocube.io.blobs import absolute
from eocube.io.template import cube_template
from eocube.jobs.plan import Plan
from eocube.jobs.rebuild import delete_for_rebuild, rebuilding, refuse_retry_with_rebuild
from eocube.jobs.roots import address, require_target
from eocube.jobs.sited import laid_out
from eocube.lazy.graph_source import node_of
from eocube.model.licences import of_cubes
from eocube.model.recipe import Binding, Node, frame_of, input_names, public_json
from eocube.model.spec import Layout, choose_spec, settings_id

MAX_BYTES = 256 * 1024 * 1024
"""Default bound of the arrays that one task evaluates at once."""


@dataclass(frozen=True, kw_only=True)
class WriteSettings:
    """How cubes are written, beside what they are."""

    layout: Layout | None = None
    """``map``, ``patch``, ``balanced`` or ``series``: a shard holds 1, 4, 16 or 64 dates. None: as the corpus has it, else
    balanced."""

    errors: Errors = "raise"
    """``skip``: a file that cannot be read becomes a row of the report."""

    max_bytes: int = MAX_BYTES
    """Bound of the arrays that one task evaluates at once."""

    storage_options: Mapping[str, Any] = field(default_factory=dict)
    """For the store."""

    def __post_init__(self) -> None:
        require_count("max_bytes", self.max_bytes)


def require_count(name: str, value: object) -> None:
    """ArgumentError for what is no whole number from 1 on; ``name`` is the argument."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ArgumentError(f"{name} is {value!r}; expected a whole number, at least 1. Nothing was changed.")


def require_limit(limit: object) -> None:
    """ArgumentError for a limit that is neither None nor a whole number of regions from 1 on."""
    if limit is not None:
        require_count("limit", limit)


def write_cube(
    cube: xr.Dataset | xr.DataArray,
    store: str,
    *,
    site: str = "cube",
    product: str = "data",
    layout: Layout | None = None,
    executor: Any = None,
    errors: Errors = "raise",
    step_id: str | None = None,
    limit: int | None = None,
    retry: bool = False,
    rebuild: bool = False,
    max_bytes: int = MAX_BYTES,
    storage_options: Mapping[str, Any] | None = None,
    on_done: Progress | None = None,
) -> RunReport:
    """Write a cube into a store; the same call again after anything finishes what is left.

    Parameters
    ----------
    cube
        A cube of eocube, or of a chain of its steps: the chain is replayed window by window, whatever its size. A cube changed
        by anything else is written from its own Dask graph up to 2,000 chunks, and refused above. A DataArray (time, band, y, x)
        is taken as ``data``.
    store
        Folder or URL of the store; made if absent.
    site, product
        The cube goes to ``STORE/cubes/<site>/<product>``; ``[A-Za-z0-9_.-]`` only.
    layout
        ``map``, ``patch``, ``balanced`` or ``series``: how many dates a shard holds (1, 4, 16, 64). None: as the corpus that the
        cube comes from has it, else balanced.
    executor
        None (active Dask client, else threads), a description for :func:`eocube.connect`, a client, or an Executor.
    errors
        ``skip``: a file that cannot be read becomes a row of the report, its pixels nodata and its region unfinished.
    step_id
        For an unrecorded cube: a name of your own for what it is, so that a later session may go on with it.
    limit
        Write at most that many regions.
    retry
        Only regions in which a file failed.
    rebuild
        Delete the cube first, with its markers, and write it anew: in other settings, or with a date in between. Leave it out to
        go on after a run with it that did not end well.
    max_bytes
        Bound of the arrays that one task evaluates at once.
    on_done
        Called with each finished region.

    Returns
    -------
    The run's report; it is also in ``STORE/runs``.

    Raises
    ------
    SettingsError, GridError, LateDateError, StalePlanError
        The store's cube does not fit; nothing was changed.
    ArgumentError, CubeError, DamagedStoreError, StoreNotFoundError
        An argument cannot be, something else than a store is at the address, it is in a folder of another store, or there
        is none for ``retry``; nothing was changed.
    UnrecordedError
        The cube is too big to be written from its own graph.
    AssetReadError
        A file could not be read (``errors="raise"``).
    """
    settings = WriteSettings(layout=layout, errors=errors, max_bytes=max_bytes, storage_options=dict(storage_options or {}))
    anew, store = [f"{site}/{product}"] if rebuild else [], address("store", store)
    refuse_retry_with_rebuild(retry=retry, rebuild=anew)
    require_limit(limit)
    plan = plan_cube(cube, store, site=site, product=product, settings=settings, step_id=step_id)
    with executing(executor) as running:  # before anything is deleted: an executor may not be there
        if rebuild:
            delete_for_rebuild(store, [plan], anew, storage_options=storage_options)
        with rebuilding(anew):
            return run_plans(
                store,
                [plan],
                executor=running,
                limit=limit,
                retry=retry,
                storage_options=storage_options,
                on_done=on_done,
                **_how(plan),
            )


def _how(plan: CubePlan) -> dict[str, Any]:
    """Where and how the tasks of a plan run: a chain with a network in it needs GPU workers, one that ends in it the pool."""
    if not plan.job.binding.resources:
        return {}
    from eocube.sr.pool import REGIONS_A_TASK, run_superres
    from eocube.sr.step import is_superresolved

    if is_superresolved(plan.job.node):
        return {"resource": "GPU", "run": run_superres, "group": REGIONS_A_TASK}
    return {"resource": "GPU"}


def run_plans(
    store: str,
    plans: Iterable[CubePlan],
    *,
    executor: Any = None,
    limit: int | None = None,
    retry: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    store_attrs: dict[str, object] | None = None,
    resource: Resource = "CPU",
    run: Runner = run_regions,
    group: int = 1,
    on_done: Progress | None = None,
) -> RunReport:
    """Run cube plans on an executor. Errors of the arguments and of the place, as of :func:`write_cube`, before any of them."""
    require_limit(limit)
    require_target(store, storage_options, retry=retry)
    with executing(executor) as running:
        return drive(
            store,
            plans,
            running,
            storage_options=dict(storage_options or {}),
            store_attrs=store_attrs,
            limit=limit,
            retry=retry,
            resource=resource,
            run=run,
            group=group,
            on_done=on_done,
        )


def explain(cube: xr.Dataset, *, layout: Layout | None = None, max_bytes: int = MAX_BYTES) -> Plan:
    """What writing ``cube`` would read and cost: tasks, requests, bytes fetched, used and written, peak memory of one task.

    Reads no pixels; ``print(explain(cube))`` is the summary, ``.table()`` has a row a task, ``.head(n)`` is the first tasks.
    """
    settings = WriteSettings(layout=layout, max_bytes=max_bytes)
    return Plan([plan_cube(cube, "explained", site="cube", product="data", settings=settings)])


def plan_cube(
    cube: xr.Dataset | xr.DataArray,
    store: str,
    *,
    site: str,
    product: str,
    settings: WriteSettings,
    step_id: str | None = None,
    name: str | None = None,
) -> CubePlan:
    """Decide how a cube is written; nothing is touched. Parameters as in :func:`write_cube`; ``name`` as in :func:`plan_node`."""
    if isinstance(cube, xr.DataArray):
        cube = cube.to_dataset(name="data")
    if not isinstance(cube, xr.Dataset):
        raise CubeError(f"write_cube takes an xarray Dataset or DataArray, got {type(cube).__name__}.")
    node, binding = node_of(cube, step_id=step_id)
    licence = of_cubes([cube.attrs])
    return plan_node(node, binding, store, site=site, product=product, settings=settings, licence=licence, name=name)


def plan_node(
    node: Node,
    binding: Binding,
    store: str,
    *,
    site: str,
    product: str,
    settings: WriteSettings,
    licence: Mapping[str, Any],
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> CubePlan:
    """The plan of one recorded node. ``name``: the cube's, where it is not the site's; ``labels``: ``split`` and ``group``."""
    cube = site if name is None else name
    if settings.errors not in ("raise", "skip"):
        raise UnknownNameError("errors", settings.errors, ["raise", "skip"])
    for given in (cube, product):
        if not given or set(given) - _SLUG or given.startswith("."):
            raise CubeError(
                f"{given!r} cannot name a cube or product: use letters, digits, '_', '.', '-' only, not starting with '.'."
            )
    frame = frame_of(node, binding)
    if not frame.time_ms:
        raise CubeError("The cube has no date; there is nothing to write.")
    names = input_names(node)
    blocks = [binding.sources[k].block_yx for k in names]
    cut, places = laid_out(node, binding, frame)
    spec = choose_spec(frame, layout=settings.layout, block_yx=max(blocks, default=(1, 1)), cut=cut, places=places)
    recipe = public_json(node)
    sid = settings_id(recipe, spec)
    template = cube_template(spec, cube=cube, product=product, recipe=recipe, sid=sid, licence=licence, site=site, labels=labels)
    if places is None:
        _ = template.root_json  # what is wrong with it shows before anything is written; of a tile's grid nothing can be
    job = CubeJob(
        store_url=absolute(store),
        storage_options=settings.storage_options,
        cube=cube,
        product=product,
        node=node,
        binding=binding,
        spec=spec,
        sid=sid,
        input_names=names,
        errors=settings.errors,
        max_bytes=settings.max_bytes,
    )
    meta = CubeMeta(cube=cube, product=product, template=template)
    return CubePlan(job=job, meta=meta, site=site)


_SLUG = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")
