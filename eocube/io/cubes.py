"""Cubes in a store: where they lie, opening one in one request, and reading its windows."""

from __future__ import annotations

import json
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from itertools import groupby
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from eocube.errors import CubeError, DamagedStoreError, StalePlanError, StoreNotFoundError, UnknownNameError
from eocube.io.blobs import Blobs, absolute, is_folder, open_blobs
from eocube.io.inline import chunks_at_once, read_inline
from eocube.io.markers import Marker, MarkerName, get_marker, is_finished, list_markers, marker_folder
from eocube.io.template import EOCUBE_ATTR, ROOT, frame_from_attrs
from eocube.kernels.radiometry import dn_to_reflectance
from eocube.model.frame import Frame, Variable
from eocube.model.hashing import digest
from eocube.model.memory import frame_bytes
from eocube.model.recipe import Arrays, Cost, OnError
from eocube.model.spec import CubeSpec, Cut, Place, Region
from eocube.model.window import Span, Window

Decode = Literal["dn", "reflectance"]
CUBES = "cubes"
READ_BYTES = 8 * 1024 * 1024
"""Pixels of one read in a folder, or one chunk's dates."""


def cube_path(cube: str, product: str) -> str:
    """Folder of a cube below its store."""
    return f"{CUBES}/{cube}/{product}"


_READING_BYTES = 512 * 1024
"""What zarr-python and its event loop take beside chunks."""


def split_cube_url(url: str) -> tuple[str, str, str]:
    """``STORE/cubes/<cube>/<product>`` → (store, cube, product); CubeError where ``url`` is not of that form."""
    head, _, tail = url.rstrip("/").rpartition(f"/{CUBES}/")
    parts = tail.split("/")
    if not head or len(parts) != 2:
        raise CubeError(
            f"{url} is not the address of a cube: expected STORE/cubes/<cube>/<product>. `eocube info STORE` lists them."
        )
    return head, parts[0], parts[1]


def read_root(blobs: Blobs, cube: str, product: str) -> dict[str, Any]:
    """The attributes of a cube's group: one request. StoreNotFoundError where there is none."""
    body = blobs.get(f"{cube_path(cube, product)}/{ROOT}")
    if body is None:
        raise StoreNotFoundError(f"{blobs.url}/{cube_path(cube, product)}", "cube")
    return root_attrs(body, f"{blobs.url}/{cube_path(cube, product)}")


def root_attrs(body: bytes, where: str) -> dict[str, Any]:
    """Attributes out of a ``zarr.json``; DamagedStoreError where it is not a cube of eocube."""
    try:
        attrs: dict[str, Any] = json.loads(body)["attributes"]
        attrs[EOCUBE_ATTR]["format"]
    except (ValueError, KeyError, TypeError) as e:
        raise DamagedStoreError(f"{where} is a Zarr group but not a cube written by eocube ({type(e).__name__}: {e}).") from e
    return attrs


def spec_from_attrs(attrs: Mapping[str, Any]) -> CubeSpec:
    """How a stored cube is cut; of one in which sites lie it does not tell which (its index rows and markers do)."""
    e = attrs[EOCUBE_ATTR]
    ct, cy, cx = e["chunk_tyx"]
    st, sy, sx = e["shard_tyx"]
    return CubeSpec(
        frame=frame_from_attrs(attrs),
        layout=e["layout"],
        chunk_tyx=(ct, cy, cx),
        shard_tyx=(st, sy, sx),
        cell_px=e["cell_px"],
        bands_apart=e.get("bands_apart", False),
        places=() if e.get("sited") else None,
    )


class CubeSource:
    """A stored cube, or one site that lies in it, as a source of windows, through zarr-python."""

    def __init__(
        self,
        store_url: str,
        cube: str,
        product: str,
        *,
        attrs: Mapping[str, Any],
        decode: Decode,
        options: Mapping[str, Any],
        site: Place | None = None,
        places: tuple[Place, ...] | None = None,
    ):
        if decode not in ("dn", "reflectance"):
            raise UnknownNameError("decode", decode, ["dn", "reflectance"], "open_cube")
        self.store_url, self.cube, self.product = store_url, cube, product
        self._attrs, self.decode, self._options = dict(attrs), decode, dict(options)
        self._site, self._places = site, places

    @classmethod
    def open(
        cls,
        url: str,
        *,
        decode: Decode = "dn",
        options: Mapping[str, Any] | None = None,
        site: Place | None = None,
        places: tuple[Place, ...] | None = None,
    ) -> CubeSource:
        """Open ``STORE/cubes/<cube>/<product>``; one request.

        ``site``: its window only, of a cube in which sites lie. ``places``: these of its sites only; None: those of its index
        rows.
        """
        store_url, cube, product = split_cube_url(absolute(url))
        attrs = read_root(open_blobs(store_url, options), cube, product)
        inside = site if attrs[EOCUBE_ATTR].get("sited") else None
        return cls(store_url, cube, product, attrs=attrs, decode=decode, options=options or {}, site=inside, places=places)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__
        return {k: state[k] for k in ("store_url", "cube", "product", "_attrs", "decode", "_options", "_site", "_places")}

    @cached_property
    def spec(self) -> CubeSpec:
        """How the cube is cut."""
        return spec_from_attrs(self._attrs)

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Attributes of the cube's group."""
        return self._attrs

    @property
    def node(self) -> dict[str, Any]:
        """The source's entry in a recipe: what it was made with, not where it lies."""
        key = digest([self.store_url, self.cube, self.product, self.decode, *([self._site] if self._site else [])])
        return {"source": key, "kind": "cube", "decode": self.decode, "settings": self._attrs[EOCUBE_ATTR]["settings_id"]}

    def frame(self) -> Frame:
        """See :class:`eocube.model.recipe.Source`."""
        return self._frame

    @cached_property
    def _frame(self) -> Frame:
        stored = self.spec.frame
        if self._site is not None:
            stored = stored.with_(geobox=stored.geobox[slice(*self._site.y), slice(*self._site.x)])
        data = stored.data
        if self.decode == "dn" or np.dtype(data.dtype).kind == "f":
            return stored
        return stored.with_variable("data", dtype="float32", nodata=math.nan, scale=None, offset=None)

    @property
    def block_yx(self) -> tuple[int, int]:
        """See :class:`eocube.model.recipe.Source`."""
        return self.spec.chunk_tyx[1:]

    @property
    def cut(self) -> Cut | None:
        """See :class:`eocube.model.recipe.Sited`: as a corpus had it, or as sites lie."""
        spec = self.spec
        if spec.layout != "corpus" and spec.places is None:
            return None
        return Cut(chunk_tyx=spec.chunk_tyx, shard_tyx=spec.shard_tyx, bands_apart=spec.bands_apart)

    @cached_property
    def places(self) -> tuple[Place, ...] | None:
        """See :class:`eocube.model.recipe.Sited`."""
        if self._site is not None or self.spec.places is None:
            return None
        return self._places or read_places(open_blobs(self.store_url, self._options), self.cube, self.product)

    def _stored(self, window: Window) -> Window:
        """A window of this source as one of the whole cube."""
        if self._site is None:
            return window
        (y, _), (x, _) = self._site.y, self._site.x
        return Window(window.times, (window.y[0] + y, window.y[1] + y), (window.x[0] + x, window.x[1] + x))

    def assets(self) -> list[dict[str, Any]]:
        """See :class:`eocube.model.recipe.Source`."""
        where = f"{self.store_url}/{cube_path(self.cube, self.product)}"
        return [{"item_id": f"{self.cube}/{self.product}", "time": None, "asset": "cube", "href": where, "dn_shift": None}]

    def token(self) -> str:
        """See :class:`eocube.model.recipe.Source`. The frame tells one state of a growing cube from the next."""
        return digest([self.node, self._attrs[EOCUBE_ATTR]["frame_digest"]])

    @cached_property
    def _arrays(self) -> dict[str, Any]:
        import zarr

        store = open_blobs(f"{self.store_url}/{cube_path(self.cube, self.product)}", self._options).zarr_store()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            group = zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=True)
            return {v.name: group[v.name] for v in self.spec.frame.variables}

    def read(self, window: Window, *, names: tuple[str, ...] | None = None, on_error: OnError | None = None) -> Arrays:
        """See :class:`eocube.model.recipe.Source`."""
        wanted = [v for v in self.spec.frame.variables if names is None or v.name in names]
        return {v.name: self._read(v, self._stored(window)) for v in wanted}

    def _read(self, variable: Variable, window: Window) -> npt.NDArray[Any]:
        array, (y, x) = self._arrays[variable.name], (slice(*window.y), slice(*window.x))
        space = (*(slice(None) for _ in self.spec.frame.depth(variable)), y, x)
        with self._naming_damage(variable, window):
            values = self._gathered(array, variable, window, space)
        if variable.name != "data" or self._frame.data == variable:
            return values
        if variable.scale is None:
            raise CubeError(
                f"Cube {self.cube}/{self.product} has no scale, so its numbers cannot be decoded to reflectance. "
                "Open it with decode='dn'."
            )
        return dn_to_reflectance(values, scale=variable.scale, offset=variable.offset or 0.0, nodata=variable.nodata)

    def _gathered(self, array: Any, variable: Variable, window: Window, space: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Some dates after the other: what zarr-python holds beside the result is then that of a few."""
        runs = list(self._runs(variable, window))
        if len(runs) == 1:
            return read_inline(array, (slice(*runs[0]), *space))
        shape = (len(window.times), *self.spec.frame.depth(variable), *window.shape_yx)
        values, at = np.empty(shape, variable.dtype), 0
        for a, b in runs:
            values[at : (at := at + b - a)] = read_inline(array, (slice(a, b), *space))
        return values

    def _runs(self, variable: Variable, window: Window) -> Iterator[Span]:
        """Consecutive dates, in a folder cut between chunks so that a read is ``READ_BYTES``, elsewhere requests cost more."""
        unit = self._dates_at_once(variable, window)
        for a, b in _runs(window.times):
            starts = [a, *range((a // unit + 1) * unit, b, unit)] if unit else [a]
            yield from zip(starts, [*starts[1:], b], strict=True)

    def _dates_at_once(self, variable: Variable, window: Window) -> int:
        """Whole chunks of dates; 0 where all are read at once."""
        if not is_folder(self.store_url):
            return 0
        ct = self.spec.chunk_tyx[0]
        return ct * max(1, READ_BYTES // max(1, ct * math.prod(window.shape_yx) * self.spec.frame.pixel_bytes(variable)))

    @contextmanager
    def _naming_damage(self, variable: Variable, window: Window) -> Iterator[None]:
        """zarr-python says of a damaged shard or chunk neither which it is nor what to do."""
        try:
            yield
        except (ValueError, RuntimeError) as e:
            regions = ", ".join(map(str, self._regions(window)[:5]))
            raise DamagedStoreError(
                f"{variable.name!r} of cube {self.cube}/{self.product} in {self.store_url} cannot be read in regions {regions} "
                f"({type(e).__name__}: {e}). `eocube audit {self.store_url}` says which shard is damaged and what to do."
            ) from e

    @cached_property
    def _finished(self) -> dict[Region, str]:
        blobs = open_blobs(self.store_url, self._options)
        names = list_markers(blobs, self.cube, self.product)
        n_markers = Counter(m.region for m in names)
        return {m.region: m.key for m in names if n_markers[m.region] == 1 and is_finished([m], m.key)}

    def _regions(self, window: Window) -> list[Region]:
        st, sy, sx = self.spec.shard_tyx
        return [
            Region(t, y, x)
            for t in sorted({i // st for i in window.times})
            for y in _shards(window.y, sy)
            for x in _shards(window.x, sx)
        ]

    def require_finished(self) -> None:
        """CubeError where a region of the cube is not finished: its pixels would be a silent hole in whatever is made of it."""
        for region in self._own_regions():
            self._finished_key(region)

    def _own_regions(self) -> Iterator[Region]:
        """Regions of the whole cube, or of the sites that are asked for."""
        sites = [self._site] if self._site is not None else self.places
        if sites is None:
            return self.spec.regions()
        return (Region(t, *cell) for t in range(self.spec.grid[0]) for place in sites for cell in self.spec.cells_of(place))

    def _finished_key(self, region: Region) -> str:
        if region not in self._finished:
            raise CubeError(
                f"Region {region} of input cube {self.cube}/{self.product} in {self.store_url} is not finished: its pixels "
                "would be a silent hole. Finish the run that writes it (the same command again, --retry for failed assets)."
            )
        return self._finished[region]

    def ids(self, window: Window) -> list[list[Any]]:
        """See :class:`eocube.model.recipe.Source`: digests of the shards, which a rebuilt input changes."""
        regions = self._regions(self._stored(window))
        if self.spec.places is not None:
            regions = [r for r in regions if r in self._finished or r in set(self._own_regions())]  # no site there: nodata
        unknown = [r for r in regions if r not in self._content]
        for region in unknown:
            self._finished_key(region)
        if len(unknown) > 1:
            with ThreadPoolExecutor(min(16, len(unknown))) as pool:
                self._content.update(zip(unknown, pool.map(self._digest, unknown), strict=True))
        elif unknown:
            self._content[unknown[0]] = self._digest(unknown[0])
        return [[str(r), self._content[r]] for r in regions]

    @cached_property
    def _content(self) -> dict[Region, str]:
        """Digests of regions' shards, as they are asked for."""
        return {}

    def _digest(self, region: Region) -> str:
        blobs = open_blobs(self.store_url, self._options)
        marker = get_marker(blobs, self.cube, self.product, MarkerName(region, self._finished[region], partial=False))
        if marker is None:
            raise StalePlanError(
                f"Region {region} of input cube {self.cube}/{self.product} in {self.store_url} was renewed while this run was "
                "planned. Run the same command again."
            )
        self._require_shards(blobs, region, marker)
        return digest(marker.shards)

    def _require_shards(self, blobs: Blobs, region: Region, marker: Marker) -> None:
        """DamagedStoreError where a shard is not there or not of its size: Zarr would read it as nodata, without a word."""
        for key, said in marker.shards.items():
            found = blobs.size(key) if said is not None else None
            if said is not None and found != said[0]:
                there = "is not there" if found is None else f"{found} are there"
                raise DamagedStoreError(
                    f"Shard {key} of {self.store_url} has {said[0]} bytes by its marker, and {there}: an input cube is damaged. "
                    f"`eocube audit` lists what is; delete {marker_folder(self.cube, self.product, region)} and run the command "
                    "that writes that cube again, which makes this region anew, or use its --rebuild."
                )

    def cost(self, window: Window) -> Cost:
        """See :class:`eocube.model.recipe.Source`: whole inner chunks, one request each plus one a shard for its index."""
        window = self._stored(window)
        ct, cy, cx = self.spec.chunk_tyx
        n_t = len({i // ct for i in window.times})
        n_yx = len(_shards(window.y, cy)) * len(_shards(window.x, cx))
        height, width = window.shape_yx
        cost = Cost(0, 0, 0)
        for v in self.spec.frame.variables:
            deep = self.spec.frame.pixel_bytes(v)
            cost += Cost(
                n_t * n_yx * self.spec.deep_chunks(v) + len(self._regions(window)),
                n_t * ct * n_yx * cy * cx * deep,
                len(window.times) * height * width * deep,
            )
        return cost

    def scratch_bytes(self, window: Window) -> int:
        """See :class:`eocube.model.recipe.Scratching`."""
        room = max(self._room(v, self._stored(window)) for v in self.spec.frame.variables) + _READING_BYTES
        return room + (frame_bytes(self.spec.frame, window) if self._frame.data != self.spec.frame.data else 0)

    def _room(self, variable: Variable, window: Window) -> int:
        """One read: every encoded chunk, which may be as big as its pixels, a few decoded ones, and a copy out of each shard."""
        ct, cy, cx = self.spec.chunk_tyx
        (height, width), deep = window.shape_yx, self.spec.frame.pixel_bytes(variable)
        dates = max((b - a for a, b in self._runs(variable, window)), default=0)
        n = math.ceil(dates / ct) * len(_shards(window.y, cy)) * len(_shards(window.x, cx))
        return deep * (dates * height * width + ct * cy * cx * (n + min(n, chunks_at_once())))


def read_places(blobs: Blobs, cube: str, product: str) -> tuple[Place, ...]:
    """The finished sites that lie in a cube, from its parts of the index; CubeError where none is finished."""
    from eocube.io.index import part_rows

    rows = part_rows(blobs, cube, product)
    if not rows:
        raise CubeError(
            f"No site of {cube}/{product} in {blobs.url} is finished yet. Finish the run that writes it (the same command again)."
        )
    return tuple(sorted({Place(r["site"], (r["window"][0], r["window"][1]), (r["window"][2], r["window"][3])) for r in rows}))


def _shards(span: Span, unit: int) -> range:
    return range(span[0] // unit, -(-span[1] // unit) if span[1] > span[0] else span[0] // unit)


def _runs(times: tuple[int, ...]) -> list[Span]:
    """Consecutive indices as half-open ranges."""
    runs = []
    for _, group in groupby(enumerate(times), key=lambda p: p[1] - p[0]):
        members = [t for _, t in group]
        runs.append((members[0], members[-1] + 1))
    return runs
