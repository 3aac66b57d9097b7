"""The errors of eocube: each says what was asked, what was found, where, and what to do, and is also a stdlib error.

The values stand as attributes too, so that a program can act on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


class EocubeError(Exception):
    """The root of every error that eocube raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The constructors take values and make the message; a copy from a worker needs the message, values and notes as they are.
        return _remade, (type(self), self.args, self.__dict__)


def _remade(cls: type[EocubeError], args: tuple[Any, ...], state: dict[str, Any]) -> EocubeError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


MAX_MESSAGE = 8_000
"""Characters of a message that leave a task: Dask takes the class of an error away whose message has more than 10,000."""


def alone(error: EocubeError) -> EocubeError:
    """The same error without what it was raised from, and with a message of bounded length: so it may leave a task.

    Errors of other packages often cannot be unpickled, and Dask then sends text instead of the whole chain. The message of an
    error of eocube already says why.
    """
    text = str(error)
    if len(text) > MAX_MESSAGE:
        error.args = (f"{text[:MAX_MESSAGE]} …",)
    error.__cause__ = error.__context__ = None
    return error


class MissingDependencyError(EocubeError, ImportError):
    """An optional package is not installed."""

    def __init__(self, what: str, package: str, extra: str):
        self.what, self.package, self.extra = what, package, extra
        super().__init__(f"{what} needs {package}, which is not installed; pip install 'eocube[{extra}]'")


class UnknownNameError(EocubeError, LookupError):
    """A name (corpus, band, product, method …) that does not exist where it was looked up."""

    def __init__(self, kind: str, name: object, known: Iterable[object], where: str = ""):
        self.kind, self.name, self.known, self.where = kind, name, tuple(known), where
        listed = ", ".join(repr(k) for k in self.known) or "none"
        super().__init__(f"Unknown {kind} {name!r}{f' in {where}' if where else ''}; known: {listed}.")


class ArgumentError(EocubeError, ValueError):
    """An argument cannot be what it is, or two of them contradict each other."""


class CatalogError(EocubeError, ValueError):
    """A catalogue, item or asset description cannot be used as it stands."""


class RadiometryError(EocubeError, ValueError):
    """Scale, offset or nodata are missing, unknown or contradict each other."""


class GridError(EocubeError, ValueError):
    """Two grids do not fit, or a grid cannot be known."""


class CubeError(EocubeError, ValueError):
    """An object is not a cube as eocube understands one (dims, coordinates, masks)."""


class UnrecordedError(EocubeError, ValueError):
    """A cube was changed by something that eocube did not record, so that it cannot be replayed on a window."""


class StepContractError(EocubeError, RuntimeError):
    """A step did not give what its declaration (frame, times, halo) promised."""


class SettingsError(EocubeError, ValueError):
    """A cube in a store was made with other settings than those asked for now."""

    def __init__(self, what: str, differences: Mapping[str, tuple[object, object]]):
        self.what, self.differences = what, dict(differences)
        listed = "; ".join(f"{name}: stored {stored}, asked {asked}" for name, (stored, asked) in differences.items())
        super().__init__(
            f"{what} was made with other settings than this run asks for ({listed}). Write to another store or product, or "
            "delete it first (--rebuild in convert and compose, rebuild=True in write_cube)."
        )


class LateDateError(EocubeError, ValueError):
    """A date older than the last one of the cube would have to be put in between."""

    def __init__(self, cube: str, date: str, last: str):
        self.cube, self.date, self.last = cube, date, last
        super().__init__(
            f"Date {date} is older than the last date {last} of cube {cube!r}, and is not in it. Dates are only appended; "
            f"pass --rebuild {cube} to write this cube anew (rebuild=True in write_cube)."
        )


class StalePlanError(EocubeError, RuntimeError):
    """A plan knows less than the store already holds: going on would take dates away."""


NO_HREF = "(no href)"
"""In place of an address: the item has no such asset."""


class AssetReadError(EocubeError, OSError):
    """One file could not be read."""

    def __init__(self, href: str, item_id: str, asset: str, reason: str):
        self.href, self.item_id, self.asset, self.reason = href, item_id, asset, reason
        mend = "Complete the item" if href == NO_HREF else "Mend the file"
        super().__init__(
            f"Asset {asset!r} of item {item_id!r} could not be read from {href}: {reason.rstrip('. ')}. "
            f"{mend} and run again, or pass errors='skip' (--errors skip) to list it and go on."
        )


class StoreNotFoundError(EocubeError, FileNotFoundError):
    """No eocube store or cube is at a place."""

    def __init__(self, url: str, what: str = "store"):
        self.url, self.what = url, what
        listed = "; `eocube info STORE` lists cubes" if what == "cube" else ""
        super().__init__(f"No eocube {what} at {url}: no zarr.json was found there. Check the address{listed}.")


class StoreReadError(EocubeError, OSError):
    """An object store, or a folder, did not answer or refused."""

    def __init__(self, url: str, key: str, reason: str):
        self.url, self.key, self.reason = url, key, reason
        remote = "://" in url and not url.startswith("file://")
        check = "the address, the credentials and the network" if remote else "the path, its permissions and the disk"
        super().__init__(f"{key!r} could not be read from {url}: {reason.strip()}. Check {check}.")


class StoreWriteError(EocubeError, OSError):
    """The target cannot be written."""


class DamagedStoreError(EocubeError, ValueError):
    """An object of a store is not what its metadata or marker says."""


class FormulaError(EocubeError, ValueError):
    """A formula holds something else than the arithmetic that formulas may hold."""

    def __init__(self, formula: str, reason: str):
        self.formula, self.reason = formula, reason
        super().__init__(
            f"Formula {formula[:100]!r} cannot be computed: {reason}. "
            "A formula is made of numbers, band and parameter names, parentheses and + - * / **."
        )


class ModelError(EocubeError, ValueError):
    """A network does not fit the cube, or its files cannot be used."""


class PatchError(EocubeError, ValueError):
    """A patch set cannot be made, or read, as it is described."""


class PlacementError(EocubeError, RuntimeError):
    """No worker of the cluster may run this kind of task."""
