"""What heals each kind of problem that an audit finds; done in tests/jobs/test_audit_cures.py (--retry: test_audit.py)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from eocube.io.cubes import cube_path
from eocube.io.template import ROOT
from eocube.io.verify import Problem

_MOST_NAMES = 3
_ANY_REGION = "markers/CUBE/PRODUCT/0.0.0/"


class Row(Protocol):
    """What a cure needs to know of a problem: see :class:`eocube.jobs.audit.AuditRow`."""

    @property
    def cube(self) -> str:
        """The cube; empty where it is about the store."""

    @property
    def product(self) -> str:
        """Its product."""

    @property
    def region(self) -> str:
        """``t.y.x``, or empty."""

    @property
    def key(self) -> str:
        """Object below the store."""

    @property
    def problem(self) -> Problem:
        """Its kind."""


def advice(rows: Sequence[Row], problems: Collection[str]) -> tuple[str, ...]:
    """What heals these problems, one text for each group of kinds, in the order in which to do it.

    ``problems`` are all kinds found: of many findings not each has a row.
    """
    return tuple(_told(rows, problems))


def _told(rows: Sequence[Row], problems: Collection[str]) -> Iterator[str]:
    for cure in _CURES:
        kinds = [kind for kind in cure.kinds if kind in problems]
        found = [row for row in rows if row.problem in kinds and cure.about(row)]
        if found or (kinds and not any(row.problem in kinds for row in rows)):
            yield f"{', '.join(kinds)}: {cure.text.format(**_examples(found))}"


def _examples(found: Sequence[Row]) -> dict[str, str]:
    """Names to put into a text, of the first rows."""
    markers = [f"markers/{row.cube}/{row.product}/{row.region or '0.0.0'}/" for row in found if row.cube]
    return {
        "key": found[0].key if found else "KEY",
        "keys": _some(row.key for row in found) or "KEY",
        "regions": _some(markers) or _ANY_REGION,
        "region": next(iter(markers), _ANY_REGION),
        "rebuild": " ".join(f"--rebuild {name}" for name in _names(found)) or "--rebuild CUBE/PRODUCT",
    }


def _names(found: Iterable[Row]) -> list[str]:
    """``cube/product`` of the first three cubes, and a sign that there are more."""
    names = list(dict.fromkeys(f"{row.cube}/{row.product}" for row in found if row.cube))
    return [*names[:_MOST_NAMES], *(["…"] if len(names) > _MOST_NAMES else [])]


def _some(keys: Iterable[str]) -> str:
    listed = list(dict.fromkeys(keys))
    return ", ".join(listed[:_MOST_NAMES]) + (" …" if len(listed) > _MOST_NAMES else "")


class _Cure(NamedTuple):
    kinds: tuple[Problem, ...]
    text: str
    about: Callable[[Row], bool] = lambda _: True


def _is_root(row: Row) -> bool:
    return bool(row.cube) and row.key == f"{cube_path(row.cube, row.product)}/{ROOT}"


_CURES = (
    _Cure(
        ("unreadable",),
        "nothing is known of what cannot be read. Mend the permissions, the disk or the address, and audit again.",
    ),
    _Cure(
        ("unfinished",),
        "the command that writes the cube, run again, writes these regions.",
    ),
    _Cure(
        ("failed_asset",),
        "mend the files and run the same command with --retry.",
    ),
    _Cure(
        ("missing", "size", "digest", "not_empty", "undecodable", "counts"),
        "a damaged region has its marker, so no run looks at it again. Delete that (here {regions}) and run the same command: it "
        "writes what has no marker. Or write the whole cube anew: {rebuild}.",
    ),
    _Cure(
        ("marker",),
        "run the same command again: it finishes an append, and replaces what was left over. What an audit still lists then, "
        "delete (here {key}), and run it once more.",
    ),
    _Cure(
        ("sources",),
        "the pixels are whole, only where they came from is not known. Delete the marker of one region (here {region}) and run "
        "the same command: it writes this region and the addresses of the files.",
    ),
    _Cure(
        ("coordinate",),
        "no run puts them again. Write the cube anew with the same command and {rebuild}. open_cube is right meanwhile, plain "
        "xarray is not.",
    ),
    _Cure(
        ("metadata",),
        "a cube's own zarr.json is not what a run wrote. Run the same command again, which puts it as it was; where that is "
        "refused: {rebuild}.",
        _is_root,
    ),
    _Cure(
        ("metadata",),
        "no run puts an array's zarr.json again. Write the cube anew with the same command and {rebuild}.",
        lambda row: bool(row.cube) and not _is_root(row),
    ),
    _Cure(
        ("metadata",),
        "of a group above the cubes: write into it what its row says. The store's own zarr.json: delete it and run the same "
        "command, which makes it again.",
        lambda row: not row.cube,
    ),
    _Cure(
        ("unknown_object",),
        "no run reads or deletes it. If nobody else put it there for a reason, delete it: {keys}.",
    ),
    _Cure(
        ("index",),
        "`eocube index STORE` makes it again.",
    ),
    _Cure(
        ("staging",),
        "harmless, and no damage: a run that is under way writes there, or one that was killed did. The first run into the store "
        "a day later removes it.",
    ),
)
