"""WorldStrat's pixels: the revisits of one area in time order, or one of its high-resolution images, from whole small files.

Facts of the files are in :mod:`eocube.corpora.worldstrat_files`. What is not in them is put in here: the high-resolution images
have no geotransform and cover exactly the area's bounds; the black bars at their edges (0 in every band) become ``valid``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from eocube.corpora.worldstrat_files import Revisit
from eocube.errors import AssetReadError
from eocube.io.chips import Chip, decode_chip
from eocube.io.trees import StoredFile, TreeReader
from eocube.kernels.quantise import to_integers
from eocube.model.frame import Axis, Frame, Variable
from eocube.model.hashing import digest
from eocube.model.memory import frame_bytes
from eocube.model.recipe import Arrays, Cost, Node, OnError
from eocube.model.spec import Cut
from eocube.model.window import Window

STEPS, FILL = 10_000, 65_535
"""Reflectance is stored in steps of 0.0001; 65,535 is no data."""

MOST_OFF = 0.02
"""Furthest that a float may be from a step, in steps: float32 of numbers up to 2 is within 0.001."""

CLM_NONE = 255
"""No cloud mask: what the file says, and what a revisit without that file gets."""

ANGLES = Axis(
    name="angle",
    labels=("view_zenith", "view_azimuth", "sun_azimuth", "sun_zenith"),
    attrs=(("long_name", "mean viewing angles, sun angles"),),
)
ANGLE_FILES = ("viewZenithMean", "viewAzimuthMean", "sunAzimuthAngles", "sunZenithAngles")
"""Kind of side file of each label of ``ANGLES``."""

SIDES: Mapping[str, tuple[str, ...]] = {"clm": ("CLM",), "clp": ("CLP",), "valid": ("dataMask",), "angles": ANGLE_FILES}
"""Variable → the kinds of side files that it is made of."""

_GRID_PX = 0.01
"""How far a file's grid may lie off the area's, in pixels."""


def lr_variables(kinds: frozenset[str], *, float32: bool) -> tuple[Variable, ...]:
    """``data``, and what the side files ``kinds`` give."""
    data = (
        Variable(name="data", dtype="float32", banded=True, nodata=math.nan)
        if float32
        else Variable(name="data", dtype="uint16", banded=True, nodata=FILL, scale=1 / STEPS, offset=0.0)
    )
    own = {
        "clm": Variable(
            name="clm",
            dtype="uint8",
            flags=((0, "clear"), (1, "cloud"), (CLM_NONE, "no_data")),
            attrs=(("long_name", "s2cloudless cloud mask, 160 m"),),
        ),
        "clp": Variable(
            name="clp",
            dtype="uint16",
            nodata=FILL,
            attrs=(("long_name", "s2cloudless cloud probability, 160 m; 255 is 1"), ("units", "1/255")),
        ),
        "valid": Variable(name="valid", dtype="uint8", flags=((0, "no_data"), (1, "data")), attrs=(("long_name", "dataMask"),)),
        "angles": Variable(name="angles", dtype="float32", axis=ANGLES, nodata=math.nan, attrs=(("units", "degrees"),)),
    }
    return (data, *(v for name, v in own.items() if kinds.intersection(SIDES[name])))


HR_VARIABLES = (
    Variable(name="data", dtype="uint16", banded=True, scale=1 / STEPS, offset=0.0),
    Variable(
        name="valid",
        dtype="uint8",
        flags=((0, "no_data"), (1, "data")),
        attrs=(("long_name", "not 0 in every band: without the black bars of some images"),),
    ),
)


@dataclass(frozen=True, kw_only=True)
class WorldStratSource:
    """The files of one product of one area. See :class:`eocube.model.recipe.Source`."""

    area: str
    product: str
    cube_frame: Frame
    images: tuple[Revisit[StoredFile], ...]
    """One a date, in time order; of a high-resolution product the one image, without side files."""

    located: bool
    """Whether the files say where they lie; else they lie where the frame does."""

    reader: TreeReader

    def frame(self) -> Frame:
        """See :class:`eocube.model.recipe.Source`."""
        return self.cube_frame

    @property
    def node(self) -> Node:
        """Its entry in a recipe."""
        key = digest(["worldstrat", self.area, self.product, self.float32])
        return {"source": key, "kind": "worldstrat", "product": self.product, "float32": self.float32}

    @property
    def float32(self) -> bool:
        """Whether reflectance stays as it is."""
        return self.cube_frame.data.dtype == "float32"

    @property
    def block_yx(self) -> tuple[int, int]:
        """See :class:`eocube.model.recipe.Source`: files are read whole."""
        return self.cube_frame.shape_yx

    @property
    def cut(self) -> Cut:
        """See :class:`eocube.model.recipe.Sited`: all revisits of an area in one shard, so that it is two objects a variable."""
        ny, nx = self.cube_frame.shape_yx
        if self.product in ("l2a", "l1c"):
            return Cut(chunk_tyx=(1, ny, nx), shard_tyx=(REVISITS, ny, nx))
        cy, cx = (math.ceil(n / _HR_CHUNKS[self.product]) for n in (ny, nx))
        return Cut(chunk_tyx=(1, cy, cx), shard_tyx=(1, cy * _HR_CHUNKS[self.product], cx * _HR_CHUNKS[self.product]))

    @property
    def places(self) -> None:
        """See :class:`eocube.model.recipe.Sited`: an area is a cube of its own."""
        return

    def read(self, window: Window, *, names: tuple[str, ...] | None = None, on_error: OnError | None = None) -> Arrays:
        """See :class:`eocube.model.recipe.Source`."""
        wanted = [v for v in self.cube_frame.variables if names is None or v.name in names]
        shape = window.shape_yx
        out = {
            v.name: np.full((len(window.times), *self.cube_frame.depth(v), *shape), _UNKNOWN.get(v.name, v.fill), v.dtype)
            for v in wanted
        }
        for i, t in enumerate(window.times):
            self._read_date(t, {name: values[i] for name, values in out.items()}, window, on_error)
        return out

    def _read_date(self, t: int, out: Arrays, window: Window, on_error: OnError | None) -> None:
        """One date into ``out``, variable by variable: (band or angle, y, x) or (y, x)."""
        revisit, crop = self.images[t], (slice(*window.y), slice(*window.x))
        is_low = self.product in ("l2a", "l1c")
        if "valid" in out and is_low and "dataMask" not in revisit.sides:
            out["valid"][...] = 1
        if "data" in out or not is_low:
            with _Noting(on_error):
                pixels = self._pixels(revisit.data, t, "data", self._bands)
                if "data" in out:
                    out["data"][...] = pixels[(..., *crop)]
                if not is_low and "valid" in out:
                    out["valid"][...] = pixels[(..., *crop)].any(axis=0)
        for name, kinds in SIDES.items():
            for layer, kind in enumerate(kinds):
                if name in out and kind in revisit.sides:
                    with _Noting(on_error):
                        values = self._pixels(revisit.sides[kind], t, kind, _side(name))[(0, *crop)]
                        (out[name][layer] if name == "angles" else out[name])[...] = values

    def _pixels(self, file: StoredFile, t: int, asset: str, decode: Callable[[Chip, str], npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Pixels of a whole file (band, y, x), as the cube has them; AssetReadError says of which revisit and file."""
        try:
            chip = decode_chip(self.reader.read_whole(file), file.href)
            self._check_grid(chip, file.href)
            return decode(chip, file.href)
        except AssetReadError as e:
            raise AssetReadError(file.href, self.item_id(t), asset, e.reason) from e

    def _bands(self, chip: Chip, href: str) -> npt.NDArray[Any]:
        """The bands, as numbers of the cube."""
        n = len(self.cube_frame.bands)
        if chip.pixels.shape[0] != n:
            raise AssetReadError(href, "", "", f"it has {chip.pixels.shape[0]} bands, {self.product} has {n}")
        if self.float32 or self.product not in ("l2a", "l1c"):
            return _as(chip, str(self.cube_frame.data.dtype), href)
        values, off = to_integers(_as(chip, "float32", href), STEPS, most=FILL - 1, fill=FILL)
        if off > MOST_OFF:
            raise AssetReadError(
                href,
                "",
                "",
                f"its reflectance is no whole number of 1/{STEPS}: {off:g} of a step off where {MOST_OFF} is allowed. Keep it as "
                "it is with --float32 (float32=True), in another store or product",
            )
        return values

    def _check_grid(self, chip: Chip, href: str) -> None:
        """The file must lie where the cube does."""
        box = self.cube_frame.geobox
        if chip.pixels.shape[1:] != self.cube_frame.shape_yx:
            raise AssetReadError(href, "", "", f"it is {chip.pixels.shape[1:]} pixels (y, x), the area {tuple(box.shape)}")
        if not self.located:
            return
        if chip.transform is None:
            raise AssetReadError(href, "", "", "it has no geotransform, so that its place cannot be compared with the area's")
        there = ~box.affine @ chip.transform
        corners = [(there @ at, at) for at in ((0.0, 0.0), (float(box.shape[1]), float(box.shape[0])))]
        if chip.crs != str(box.crs) or any(math.dist(found, at) > _GRID_PX for found, at in corners):
            raise AssetReadError(href, "", "", f"it lies at {tuple(chip.transform)[:6]} {chip.crs}, the area at {_grid(box)}")

    def item_id(self, t: int) -> str:
        """What a date is called: ``<AOI>-<n>-L2A``, as its files; of a high-resolution image ``<AOI>_ps``."""
        level = self.product.upper()
        return f"{self.area}-{self.images[t].n}-{level}" if level in ("L2A", "L1C") else f"{self.area}_{self.product[3:]}"

    def ids(self, window: Window) -> list[list[Any]]:
        """See :class:`eocube.model.recipe.Source`: revisit, time, and the side files that are there."""
        return [[self.item_id(t), self.cube_frame.time_ms[t], " ".join(sorted(self.images[t].sides))] for t in window.times]

    def cost(self, window: Window) -> Cost:
        """See :class:`eocube.model.recipe.Source`: files are read whole."""
        files = [f for t in window.times for f in (self.images[t].data, *self.images[t].sides.values())]
        fetched = sum(max(f.size, 0) for f in files)
        whole = Window(window.times, (0, self.cube_frame.shape_yx[0]), (0, self.cube_frame.shape_yx[1]))
        share = math.prod(window.shape_yx) / math.prod(whole.shape_yx)
        return Cost(len(files), fetched, round(fetched * share))

    def scratch_bytes(self, window: Window) -> int:
        """See :class:`eocube.model.recipe.Scratching`: one file's bytes, its pixels as they are, and as the cube has them."""
        one_date = Window((0,), (0, self.cube_frame.shape_yx[0]), (0, self.cube_frame.shape_yx[1]))
        pixels = len(self.cube_frame.bands) * math.prod(self.cube_frame.shape_yx) * 4
        largest = max((f.size for t in window.times for f in (self.images[t].data, *self.images[t].sides.values())), default=0)
        return max(largest, pixels) + pixels + frame_bytes(self.cube_frame, one_date)

    def assets(self) -> list[dict[str, Any]]:
        """See :class:`eocube.model.recipe.Source`."""
        return [
            {"item_id": self.item_id(t), "time": ms, "asset": asset, "href": file.href, "dn_shift": None}
            for t, ms in enumerate(self.cube_frame.time_ms)
            for asset, file in {"data": self.images[t].data, **self.images[t].sides}.items()
        ]

    def token(self) -> str:
        """See :class:`eocube.model.recipe.Source`."""
        return digest([self.node, [a["href"] for a in self.assets()], list(self.cube_frame.time_ms)])


REVISITS = 16
"""Dates of a shard: as many revisits as an area has at most. The axis is closed."""

_HR_CHUNKS = {"hr_ps": 4, "hr_pan": 2, "hr_rgbn": 1}
"""Chunks along an edge, of half a megabyte each."""

_UNKNOWN: Mapping[str, int] = {"clm": CLM_NONE, "valid": 0}
"""What a mask says where its file could not be read. A low-resolution revisit that has no dataMask is taken as valid."""


class _Noting:
    """Files that cannot be read go to ``on_error``, if there is one."""

    def __init__(self, on_error: OnError | None):
        self._on_error = on_error

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> bool:
        if self._on_error is None or not isinstance(error, AssetReadError):
            return False
        self._on_error(error)
        return True


def _side(name: str) -> Callable[[Chip, str], npt.NDArray[Any]]:
    """How a side file of a variable is decoded: masks are whole numbers that lie on disk as float32."""

    def decode(chip: Chip, href: str) -> npt.NDArray[Any]:
        if name == "angles":
            return _as(chip, "float32", href)
        found = chip.pixels.astype(np.float64)
        whole = np.rint(found)
        if not (np.abs(found - whole) <= MOST_OFF).all() or whole.min() < 0 or whole.max() > 255:  # NaN is no number either
            raise AssetReadError(
                href, "", "", f"its values are no whole numbers from 0 to 255 ({found.min():g} to {found.max():g})"
            )
        return whole.astype(np.uint8)

    return decode


def _as(chip: Chip, dtype: str, href: str) -> npt.NDArray[Any]:
    if chip.dtype != dtype:
        raise AssetReadError(href, "", "", f"its pixels are {chip.dtype}, expected {dtype}")
    return chip.pixels


def _grid(box: GeoBox) -> str:
    return f"{tuple(box.affine)[:6]} {box.crs}"
