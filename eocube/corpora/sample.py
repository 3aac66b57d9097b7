"""Samples: small real corpora that ship inside the package, unpacked to a folder of the user's, and synthetic ones written there.

A sample is unpacked into a staging folder beside its place, which is then renamed: what stands under its final name is whole,
whenever a run was killed. The digest of the archive lies inside, so that a second call knows that nothing is left to do.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath

from eocube.errors import ArgumentError, CatalogError, StoreWriteError, UnknownNameError

DIGEST_FILE = ".eocube-sample.sha256"
"""Name of the file, inside an unpacked sample, that holds the digest of the archive it came from."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One archive of the package."""

    archive: str
    """File name below ``eocube/corpora/data``: a zip."""

    entry: str
    """The member to open first."""


SAMPLES: dict[str, Sample] = {
    # Contains modified Copernicus Sentinel data 2015-2021; pixels from nrt 0.0.5 (EUPL-1.2): data/ATTRIBUTION.txt.
    "sentinel2": Sample(archive="sentinel2_romania.zip", entry="catalog.json"),
}


SYNTHETIC = ("rapidai4eo", "worldstrat")
"""Corpora of which a small synthetic copy can be written, in the true layout."""

DEFAULT_SITES = 4


def sample_corpus(
    name: str,
    folder: str | os.PathLike[str],
    *,
    sites: int | None = None,
    dates: int | None = None,
    defects: Sequence[str] = (),
    zipped: bool = False,
) -> Path:
    """Unpack a real sample that ships with eocube, or write a synthetic copy of a corpus, offline, and say where it is.

    Parameters
    ----------
    name
        ``"sentinel2"``: 140 dates of Sentinel-2 L2A over 1 km² of forest in Romania, 2015 to 2021, as a STAC catalogue of
        COGs at 10 m and 20 m in EPSG:3035 (DN uint16, scale 0.0001, offset 0, nodata 0; SCL uint8). ``"worldstrat"``,
        ``"rapidai4eo"``: SYNTHETIC files in the layout of these corpora, with the texture of that sample, WorldStrat on real
        bounds. Their README.txt says so.
    folder
        Where samples are kept; made if missing. The sample becomes the folder ``name`` in it. A synthetic corpus becomes the
        folder itself, which must be empty.
    sites, dates
        Of a synthetic corpus: how many sites (default 4), and how many dates of each (default all: 16 revisits, 146 dates).
    defects
        Known defects of the real corpus to write too, by name (``DEFECTS`` in :mod:`eocube.corpora.worldstrat_sample` and
        :mod:`eocube.corpora.rapidai4eo_sample`).
    zipped
        WorldStrat: .zip archives instead of folders.

    Returns
    -------
    Path to open: ``folder/sentinel2/catalog.json``, or the folder of a synthetic corpus. An unpacked sample that is whole is left
    as it is; one from another version of eocube, or with files missing, is replaced.

    Raises
    ------
    UnknownNameError
        If no such sample ships.
    StoreWriteError
        If something that is no sample already stands at the place, or nothing can be written there.
    CatalogError
        If the archive of the package is damaged.

    Notes
    -----
    Contains modified Copernicus Sentinel data 2015-2021. ``ATTRIBUTION.txt`` in the sample says where the files come from,
    what was changed and under which terms (EUPL-1.2) they are passed on.
    """
    if name in SYNTHETIC:
        return _synthetic(name, folder, sites or DEFAULT_SITES, dates, defects, zipped=zipped)
    if name not in SAMPLES:
        raise UnknownNameError("sample", name, [*SAMPLES, *SYNTHETIC], "the samples that eocube has")
    if sites is not None or dates is not None or defects or zipped:
        raise ArgumentError(
            f"The sample {name!r} ships as it is: sites, dates, defects and zipped are for {', '.join(SYNTHETIC)}."
        )
    sample = SAMPLES[name]
    target = Path(folder) / name
    with resources.as_file(resources.files("eocube") / "corpora" / "data" / sample.archive) as archive:
        unpack_sample(archive, target)
    return target / sample.entry


def _synthetic(
    name: str, folder: str | os.PathLike[str], sites: int, dates: int | None, defects: Sequence[str], *, zipped: bool
) -> Path:
    if name == "worldstrat":
        from eocube.corpora.worldstrat_sample import write_worldstrat

        return write_worldstrat(folder, sites=sites, revisits=dates or 16, defects=defects, zipped=zipped)
    if zipped:
        raise ArgumentError("RapidAI4EO is not published in archives: zipped is for worldstrat.")
    from eocube.corpora.rapidai4eo_sample import write_rapidai4eo

    return write_rapidai4eo(folder, sites=sites, tiles=min(2, sites), dates=dates or 146, defects=defects)


def unpack_sample(archive: Path, target: Path) -> None:
    """Make ``target`` a whole copy of the zip ``archive``, in one rename; does nothing where it already is one.

    Raises
    ------
    StoreWriteError, CatalogError
        As `sample_corpus`; nothing is changed at ``target`` then.
    """
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    try:
        with zipfile.ZipFile(archive) as source:
            members = {_safe_path(info, archive): info for info in source.infolist()}
            if not _is_whole(target, members, digest):
                _replace(source, members, target, digest)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise CatalogError(f"Sample archive {archive} is damaged: {error}. Install eocube again.") from error
    except StoreWriteError:
        raise
    except OSError as error:
        raise StoreWriteError(f"A sample cannot be unpacked to {target}: {error}. Make room, or name another folder.") from error


def _safe_path(info: zipfile.ZipInfo, archive: Path) -> PurePosixPath:
    """Path of a member below the target; refuses whatever could lead out of it."""
    path = PurePosixPath(info.filename)
    leads_out = path.is_absolute() or ".." in path.parts or "\\" in info.filename or ":" in info.filename
    if leads_out or not path.parts or info.is_dir() or stat.S_ISLNK(info.external_attr >> 16):
        raise CatalogError(
            f"Sample archive {archive} has the member {info.filename!r}, which is not a plain file below its folder. "
            "Nothing was unpacked. The archive was changed since it was made: install eocube again."
        )
    return path


def _is_whole(target: Path, members: dict[PurePosixPath, zipfile.ZipInfo], digest: str) -> bool:
    """Whether ``target`` came from the archive with this digest and still has every file at its full size."""
    try:
        same = (target / DIGEST_FILE).read_text() == digest
        return same and all((target / path).stat().st_size == info.file_size for path, info in members.items())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _replace(source: zipfile.ZipFile, members: dict[PurePosixPath, zipfile.ZipInfo], target: Path, digest: str) -> None:
    """Unpack beside ``target`` and rename; what an earlier call left there goes when the new copy stands whole."""
    _refuse_foreign(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    new, old = staging / "new", staging / "old"
    try:
        _extract(source, members, new)
        (new / DIGEST_FILE).write_text(digest)
        try:
            new.rename(target)  # onto nothing, or onto an empty folder
        except OSError:
            if _is_whole(target, members, digest):
                return  # another process unpacked the same archive meanwhile
            target.rename(old)
            new.rename(target)
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(staging, ignore_errors=True)


def _refuse_foreign(target: Path) -> None:
    """Refuse to replace anything that this module did not make; an empty folder counts as nothing."""
    is_empty = target.is_dir() and not any(target.iterdir())
    if os.path.lexists(target) and not is_empty and not (target / DIGEST_FILE).is_file():
        raise StoreWriteError(
            f"A sample cannot be unpacked to {target}: something else stands there (no {DIGEST_FILE} in it). "
            "It was left as it is; move it away, or name another folder."
        )


def _extract(source: zipfile.ZipFile, members: dict[PurePosixPath, zipfile.ZipInfo], folder: Path) -> None:
    """Write all members below ``folder``; their CRCs are checked on the way."""
    folder.mkdir()
    for path, info in members.items():
        out = folder / path
        out.parent.mkdir(parents=True, exist_ok=True)
        with source.open(info) as content, out.open("xb") as file:
            shutil.copyfileobj(content, file)
