"""Recipes: what was done to a cube, recorded so that a worker can replay it on any window.

A *node* is plain JSON: a source, ``{"source": key, "kind": …, options}``, or a step on a node,
``{"step": name, "rev": 1, "args": {…}, "in": node}``; an argument that is itself a cube is ``{"cube": node}``.
The node of a lazy cube rides on its attribute ``eocube_recipe`` as a :class:`Recipe`, a ``str`` whose text is the public JSON
(inputs numbered, no address in it) and which carries the *binding* (the sources and steps themselves) and a *fingerprint* of
the cube it was made for. xarray hands attributes on through almost any operation; the fingerprint tells whether the cube is
still the one that the recipe describes.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from eocube.errors import AssetReadError, StepContractError, UnrecordedError
from eocube.model.frame import Frame
from eocube.model.hashing import canonical_json, digest
from eocube.model.licences import of_cubes
from eocube.model.spec import Cut, Place
from eocube.model.window import Span, Window, back_window

RECIPE_ATTR = "eocube_recipe"
UNRECORDED_ATTR = "eocube_unrecorded"
MAX_INLINE_BYTES = 65_536
"""A bigger array is written with ``write_cube`` first and passed as a cube."""

Node = dict[str, Any]
Arrays = dict[str, npt.NDArray[Any]]
OnError = Callable[[AssetReadError], None]


class Cost(NamedTuple):
    """What a read costs, by formula; no byte is touched."""

    requests: int
    bytes_fetched: int
    """Raw bytes of the source blocks that must be decoded."""
    bytes_used: int
    """Raw bytes of the pixels asked for."""

    def __add__(self, other: object) -> Cost:
        if not isinstance(other, Cost):
            return NotImplemented
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))


@runtime_checkable
class Source(Protocol):
    """Where pixels come from: one frame, read by windows. Pickles small; no open file or client in it."""

    def frame(self) -> Frame:
        """What the whole cube looks like."""

    def read(self, window: Window, *, names: tuple[str, ...] | None = None, on_error: OnError | None = None) -> Arrays:
        """Pixels of the variables ``names`` (default all) in ``window``, by name.

        A file that cannot be read raises AssetReadError, or, with ``on_error``, is handed to it and reads as nodata.
        """

    def ids(self, window: Window) -> list[list[Any]]:
        """JSON rows that name the content of ``window``: equal rows mean equal pixels."""

    def cost(self, window: Window) -> Cost:
        """What reading ``window`` costs."""

    def assets(self) -> list[dict[str, Any]]:
        """Rows for ``sources/``: item_id, time (ms), asset, href, dn_shift of every file."""

    def token(self) -> str:
        """Digest of everything that :meth:`read` depends on; names the lazy arrays made from this source."""

    @property
    def block_yx(self) -> tuple[int, int]:
        """Rows and columns of the unit that is decoded at once."""


@runtime_checkable
class Scratching(Protocol):
    """A source that says what reading takes beside the pixels read; one that says nothing counts as taking nothing."""

    def scratch_bytes(self, window: Window) -> int:
        """Most bytes that reading ``window`` holds beside its result: files decoded, warped or joined."""


@runtime_checkable
class Classed(Protocol):
    """A source that says which windows cost the same, so that a plan of very many need not count each."""

    def cost_class(self, window: Window) -> Hashable:
        """Windows of one class have equal :meth:`Source.cost` and ``scratch_bytes``, and so have equal parts of them."""


@runtime_checkable
class Sited(Protocol):
    """A source that says how its cube is cut, or which sites lie in it; else the layout decides, and the cube is one site."""

    @property
    def cut(self) -> Cut | None:
        """None: by the layout."""

    @property
    def places(self) -> tuple[Place, ...] | None:
        """The sites, windows of whole shards; None: the whole cube is one."""


FrameRule = Callable[..., Frame]
TimesRule = Callable[..., tuple[int, ...]]


def same_frame(frame: Frame, **_: Any) -> Frame:
    """The default: a step gives a cube like the one it got."""
    return frame


def same_times(inner: Frame, outer: Frame, times: tuple[int, ...], args: Mapping[str, Any]) -> tuple[int, ...]:  # noqa: ARG001
    """The default: output date i needs input date i."""
    return times


@dataclass(frozen=True, kw_only=True)
class Step:
    """A declared function from cube to cube. Pickles by the name of its function."""

    name: str
    rev: int
    """Raised when the step's pixels change: a store made with another ``rev`` is not mixed with."""

    fn: Callable[..., Any]
    """(Dataset, **arguments) → Dataset, for NumPy-backed and Dask-backed cubes."""

    halo_px: int
    """Input pixels of context beyond which the output no longer changes."""

    frame: FrameRule
    """(frame, **arguments) → frame of the result."""

    times: TimesRule
    """(input frame, output frame, output dates, arguments) → input dates needed."""

    arg_times: str
    """``all``: a cube argument is read on its whole time axis; ``same``: on the output's dates."""

    scratch: float = 0.0
    """Most that ``fn`` holds beside its inputs and result, as a share of both together. For plans and sub-windows only."""

    scratch_px: int = 0
    """Bytes that it holds beside that for each pixel and date of its widest input: flags, whatever the bands are."""

    changes: tuple[str, ...] | None = None
    """Variables of the result that ``fn`` makes; the others are its first input's own, not copied. None: all. For plans only."""

    by_name: bool = False
    """Whether the module-level name of ``fn`` leads to this step; others pickle by value."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if self.by_name:
            return _step_by_name, (self.fn.__module__, self.fn.__qualname__)
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "by_name"}
        return functools.partial(Step, **values), ()


def _step_by_name(module: str, qualname: str) -> Step:
    found: Any = functools.reduce(getattr, qualname.split("."), importlib.import_module(module))
    step: Step = found.step
    return step


@dataclass(frozen=True, kw_only=True)
class Binding:
    """What the names in a node stand for, here and now."""

    sources: Mapping[str, Source] = field(default_factory=dict)
    steps: Mapping[str, Step] = field(default_factory=dict)
    resources: Mapping[str, Any] = field(default_factory=dict)
    """Arguments that a recipe names by digest and not by value: networks."""

    def merged(self, other: Binding) -> Binding:
        """Both; step names must agree."""
        for name in self.steps.keys() & other.steps.keys():
            if self.steps[name].fn != other.steps[name].fn:
                raise StepContractError(f"Two different functions are recorded as step {name!r}; give each its own step_id.")
        return Binding(
            sources={**self.sources, **other.sources},
            steps={**self.steps, **other.steps},
            resources={**self.resources, **other.resources},
        )

    def replayed(self, value: Any) -> Any:
        """A recorded argument that is no cube, as the step takes it."""
        if isinstance(value, dict) and "resource" in value:
            return self.resources[value["resource"]]
        return replay_value(value)


class Recipe(str):
    """Public JSON outside; node, binding and fingerprint inside. Copies and pickles keep all of it."""

    __slots__ = ("binding", "fingerprint", "node")
    node: Node
    binding: Binding
    fingerprint: str | None

    def __new__(cls, node: Node, binding: Binding, fingerprint: str | None = None) -> Self:
        """Render ``node`` as public JSON and keep the rest."""
        self = super().__new__(cls, public_json(node))
        self.node, self.binding, self.fingerprint = node, binding, fingerprint
        return self

    def __reduce__(self) -> tuple[type[Recipe], tuple[Node, Binding, str | None]]:
        return type(self), (self.node, self.binding, self.fingerprint)

    def __copy__(self) -> Recipe:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Recipe:
        return self


def public_json(node: Node) -> str:
    """The recipe as JSON text: inputs ``in0, in1 …`` in order of first use, then the steps in order.

    Equal structures give equal texts whatever their sources are bound to.
    """
    inputs: dict[str, Node] = {}
    names: dict[str, str] = {}
    steps: list[Node] = []
    _flatten(node, inputs, names, steps)
    return canonical_json({"inputs": inputs, "steps": steps})


def _flatten(node: Node, inputs: dict[str, Node], names: dict[str, str], steps: list[Node]) -> str:
    if "source" in node:
        key = node["source"]
        if key not in names:
            names[key] = f"in{len(inputs)}"
            inputs[names[key]] = {k: v for k, v in node.items() if k != "source"}
        return names[key]
    text = canonical_json(node)
    if text not in names:
        inner = _flatten(node["in"], inputs, names, steps)
        args = {
            k: {"cube": _flatten(v["cube"], inputs, names, steps)} if is_cube_arg(v) else v
            for k, v in sorted(node["args"].items())
        }
        names[text] = f"s{len(steps)}"
        steps.append({"id": names[text], "step": node["step"], "rev": node["rev"], "in": inner, "args": args})
    return names[text]


def is_cube_arg(value: Any) -> bool:
    """Whether a recorded argument is itself a cube."""
    return isinstance(value, dict) and "cube" in value


def input_names(node: Node) -> dict[str, str]:
    """Source key → public name (``in0`` …), in order of first use."""
    inputs: dict[str, Node] = {}
    names: dict[str, str] = {}
    _flatten(node, inputs, names, [])
    return {k: v for k, v in names.items() if v in inputs}


# ------------------------------------------------------------------------------------------------ fingerprints


_MEANING = ("_FillValue", "scale_factor", "add_offset", "flag_values", "flag_meanings")
"""Attributes that steps act on; whoever changes one has changed the cube."""


def fingerprint_of(cube: Any) -> str | None:
    """Digest of dims, Dask names, coordinates and the attributes that say what numbers mean; None for arrays in memory.

    Dask names change with every operation, so a cube that fits its recipe's fingerprint was not touched since.
    """
    variables: dict[str, Any] = {}
    for name, v in cube.data_vars.items():
        graph_name = getattr(v.variable._data, "name", None)  # noqa: SLF001 - .data would load a lazily indexed array
        if not isinstance(graph_name, str):
            return None
        meaning = {k: repr(v.attrs[k]) for k in _MEANING if k in v.attrs}
        variables[str(name)] = [list(map(str, v.dims)), graph_name, meaning]
    coords = {str(name): [list(map(str, c.dims)), _coord_digest(c)] for name, c in cube.coords.items()}
    return digest({"variables": variables, "coords": coords})


def _coord_digest(coord: Any) -> str:
    values = np.asarray(coord.values)
    raw = repr(values.tolist()).encode() if values.dtype.kind in "OUST" else np.ascontiguousarray(values).tobytes()
    if "crs_wkt" in coord.attrs:  # a grid mapping: its content is its attributes
        raw += repr(sorted((str(k), str(v)) for k, v in coord.attrs.items())).encode()
    return hashlib.sha256(raw).hexdigest()[:16]


def recipe_of(cube: Any) -> Recipe:
    """The recipe of a lazy cube that nothing unrecorded has touched; else UnrecordedError saying what is the matter."""
    recipe = cube.attrs.get(RECIPE_ATTR)
    if not isinstance(recipe, Recipe):
        why = cube.attrs.get(UNRECORDED_ATTR, "it carries no recipe")
        raise UnrecordedError(f"This cube cannot be replayed: {why}. Use eocube.apply for functions of your own.")
    if recipe.fingerprint != fingerprint_of(cube):
        raise UnrecordedError(
            "This cube was changed by something eocube did not record (arithmetic, isel, map_blocks, load …), so its recipe "
            "no longer describes it. Use eocube.apply(cube, func, halo_px=…, step_id=…) for functions of your own."
        )
    return recipe


def with_recipe(cube: Any, node: Node, binding: Binding) -> Any:
    """``cube`` with its recipe and today's fingerprint in the attributes."""
    fingerprint = fingerprint_of(cube)
    if fingerprint is None:
        return without_recipe(cube, "its arrays are in memory, not lazy")
    attrs = {k: v for k, v in cube.attrs.items() if k != UNRECORDED_ATTR}
    cube.attrs = {**attrs, RECIPE_ATTR: Recipe(node, binding, fingerprint)}
    return cube


def without_recipe(cube: Any, why: str) -> Any:
    """``cube`` without a recipe; the reason is kept for the error message of a later ``write_cube``."""
    cube.attrs = {**{k: v for k, v in cube.attrs.items() if k != RECIPE_ATTR}, UNRECORDED_ATTR: why}
    return cube


# ------------------------------------------------------------------------------------------------ the recorder


_RESERVED = {"array", "cube", "float", "resource"}
"""Keys by which a recorded argument says what it is; a dictionary of the caller's must not have them."""


def record_value(value: Any) -> Any:
    """An argument as JSON: scalars, lists, dicts of them, arrays up to 64 kB; else UnrecordedError."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if isinstance(value, str | int | float | bool | type(None)):
        return value
    if isinstance(value, tuple | list | range):
        return [record_value(v) for v in value]
    if isinstance(value, Mapping) and not _RESERVED & set(value) and all(isinstance(k, str) for k in value):
        return {k: record_value(v) for k, v in value.items()}
    if isinstance(value, np.ndarray) and value.dtype.kind in "iufb" and value.nbytes <= MAX_INLINE_BYTES:
        return {"array": record_value(value.ravel().tolist()), "dtype": str(value.dtype), "shape": list(value.shape)}
    raise UnrecordedError(
        f"An argument of type {type(value).__name__} cannot be recorded: pass JSON scalars, arrays up to {MAX_INLINE_BYTES} "
        f"bytes, dictionaries without the keys {sorted(_RESERVED)}, or eocube cubes (write a big mask with write_cube first)."
    )


def replay_value(value: Any) -> Any:
    """The inverse of :func:`record_value` (tuples come back as lists)."""
    if isinstance(value, list):
        return [replay_value(v) for v in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return np.array(replay_value(value["array"]), value["dtype"]).reshape(value["shape"])
    if "float" in value:
        return float(value["float"])
    return {k: replay_value(v) for k, v in value.items()}


def step(
    *,
    rev: int = 1,
    halo_px: int = 0,
    frame: FrameRule = same_frame,
    times: TimesRule = same_times,
    arg_times: str = "all",
    scratch: float = 0.0,
    scratch_px: int = 0,
    changes: tuple[str, ...] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare a function from cube to cube as a step: it runs as it is, and its lazy result carries the grown recipe.

    The function takes a Dataset first and keyword arguments that are JSON scalars, small arrays or cubes. It sees NumPy-backed
    windows when a store is written and Dask-backed cubes in a notebook; it must not look at absolute positions or whole-image
    statistics (the window-invariance contract finds that out).
    """

    def declare(fn: Callable[..., Any]) -> Callable[..., Any]:
        declared = Step(
            name=fn.__name__.lstrip("_"),
            rev=rev,
            fn=fn,
            halo_px=halo_px,
            frame=frame,
            times=times,
            arg_times=arg_times,
            scratch=scratch,
            scratch_px=scratch_px,
            changes=changes,
            by_name="<" not in fn.__qualname__,
        )
        signature = inspect.signature(fn)

        @functools.wraps(fn)
        def run(cube: Any, *args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(cube, *args, **kwargs)
            bound.apply_defaults()
            return _run_recorded(declared, cube, dict(list(bound.arguments.items())[1:]))

        run.step = declared  # type: ignore[attr-defined]
        return run

    return declare


def _run_recorded(declared: Step, cube: Any, args: dict[str, Any]) -> Any:
    if not hasattr(cube, "data_vars"):
        lone = declared.fn(cube.to_dataset(name="data"), **args)["data"]
        lone.attrs.pop(RECIPE_ATTR, None)
        return lone
    try:
        node, binding = record_step(declared, cube, args)
        frame_of(node, binding)  # fails before any graph is built
    except UnrecordedError as e:
        return without_recipe(_licensed(declared.fn(cube, **args).copy(), cube, args), str(e))
    # A copy: a step may hand back the very cube it got, whose own recipe must stay.
    return with_recipe(_licensed(declared.fn(cube, **args).copy(), cube, args), node, binding)


def _licensed(made: Any, cube: Any, args: Mapping[str, Any]) -> Any:
    """What a step made, with the licences and attributions of every cube that it was given."""
    others = [value.attrs for value in args.values() if hasattr(value, "data_vars")]
    made.attrs = {**made.attrs, **of_cubes([cube.attrs, *others])}
    return made


def record_step(declared: Step, cube: Any, args: Mapping[str, Any]) -> tuple[Node, Binding]:
    """The node and binding of ``declared`` run on ``cube``; UnrecordedError where either cannot be recorded."""
    recipe = recipe_of(cube)
    binding = recipe.binding.merged(Binding(steps={declared.name: declared}))
    recorded: dict[str, Any] = {}
    for name, value in args.items():
        if hasattr(value, "data_vars"):
            other = recipe_of(value)
            binding = binding.merged(other.binding)
            recorded[name] = {"cube": other.node}
        elif isinstance(getattr(value, "resource_id", None), str):
            binding = binding.merged(Binding(resources={value.resource_id: value}))
            recorded[name] = {"resource": value.resource_id}
        else:
            recorded[name] = record_value(value)
    return {"step": declared.name, "rev": declared.rev, "args": recorded, "in": recipe.node}, binding


# ------------------------------------------------------------------------------------------------ frames forward, windows back


Frames = dict[int, Frame]
"""Frames already made, by ``id`` of their node: the holder of the memo also holds the nodes."""


def frame_of(node: Node, binding: Binding, memo: Frames | None = None) -> Frame:
    """The frame of a node's result, from its sources' frames. ``memo`` keeps frames of nodes already seen."""
    memo = {} if memo is None else memo
    if id(node) not in memo:
        if "source" in node:
            memo[id(node)] = binding.sources[node["source"]].frame()
        else:
            inner = frame_of(node["in"], binding, memo)
            args = {
                k: frame_of(v["cube"], binding, memo) if is_cube_arg(v) else binding.replayed(v) for k, v in node["args"].items()
            }
            memo[id(node)] = binding.steps[node["step"]].frame(inner, **args)
    return memo[id(node)]


class Need(NamedTuple):
    """One input of one step: the node it comes from and the window of it."""

    node: Node
    window: Window


def needs(node: Node, window: Window, binding: Binding, memo: Frames, *, extra_px: int = 0) -> tuple[Need, dict[str, Need]]:
    """What a step node needs to make ``window`` of its result: its main input, and its cube arguments by name.

    ``extra_px`` widens the step's halo (window-invariance probe).
    """
    declared = binding.steps[node["step"]]
    outer, inner = frame_of(node, binding, memo), frame_of(node["in"], binding, memo)
    halo_px = declared.halo_px + extra_px
    y, x = back_window(inner.geobox, outer.geobox, window.y, window.x, halo_px=halo_px)
    main = Need(node["in"], Window(declared.times(inner, outer, window.times, node["args"]), y, x))
    others: dict[str, Need] = {}
    for name, value in node["args"].items():
        if is_cube_arg(value):
            other = frame_of(value["cube"], binding, memo)
            y, x = back_window(other.geobox, outer.geobox, window.y, window.x, halo_px=halo_px)
            times = tuple(range(len(other.time_ms))) if declared.arg_times == "all" else window.times
            others[name] = Need(value["cube"], Window(times, y, x))
    return main, others


def trace(node: Node, window: Window, binding: Binding, memo: Frames | None = None) -> list[tuple[str, Window]]:
    """(source key, window) of every source read that ``window`` of the result needs; no pixel is touched."""
    memo = {} if memo is None else memo
    if "source" in node:
        return [(node["source"], window)]
    main, others = needs(node, window, binding, memo)
    found = trace(main.node, main.window, binding, memo)
    for need in others.values():
        found += trace(need.node, need.window, binding, memo)
    return list(dict.fromkeys(found))


def shared_nodes(node: Node) -> frozenset[int]:
    """``id`` of every node that is used more than once below ``node``: its results are kept while the rest is evaluated."""
    uses: Counter[int] = Counter()

    def visit(one: Node) -> None:
        uses[id(one)] += 1
        if uses[id(one)] == 1 and "source" not in one:
            for inner in (one["in"], *(v["cube"] for v in one["args"].values() if is_cube_arg(v))):
                visit(inner)

    visit(node)
    return frozenset(i for i, n in uses.items() if n > 1)


def whole(frame: Frame) -> Window:
    """The window that is the whole frame."""
    ny, nx = frame.shape_yx
    y: Span = (0, ny)
    x: Span = (0, nx)
    return Window(tuple(range(len(frame.time_ms))), y, x)
