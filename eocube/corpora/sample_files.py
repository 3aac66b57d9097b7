"""Files of a synthetic corpus: rasters as bytes, a folder, or archives in one, that they are put into by path, made whole."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy.typing as npt

from eocube.errors import MissingDependencyError, StoreWriteError


@contextmanager
def whole_folder(target: Path, *, last: str) -> Iterator[Path]:
    """A folder to write into that becomes ``target`` at the end, and is nowhere after an error.

    One rename, or, where an empty folder stands already, which may be where the user's shell stands, a rename a member with
    ``last`` as the last one: what has it is whole.

    Raises
    ------
    StoreWriteError
        If something stands at ``target``, or it cannot be written.
    """
    if os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
        raise StoreWriteError(f"A sample cannot be written to {target}: something else stands there. Name another folder.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            new = staging / "new"
            new.mkdir()
            yield new
            if target.exists():
                for member in sorted(new.iterdir(), key=lambda path: path.name == last):
                    member.rename(target / member.name)
            else:
                new.rename(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        if isinstance(error, StoreWriteError):
            raise
        raise StoreWriteError(f"A sample cannot be written to {target}: {error}. Make room, or name another folder.") from error


def raster_bytes(data: npt.NDArray[Any], *, driver: str = "GTiff", **profile: Any) -> bytes:
    """A raster (band, y, x) as the bytes of a file, with rasterio's defaults but for ``profile``; equal arrays give equal bytes.

    Without ``transform`` the file has none, and nothing warns of it.

    Raises
    ------
    MissingDependencyError
        Without rasterio.
    """
    try:
        from rasterio.errors import NotGeoreferencedWarning
        from rasterio.io import MemoryFile
    except ImportError as error:
        raise MissingDependencyError("Writing a synthetic corpus", "rasterio", "build") from error
    count, height, width = data.shape
    profile |= {"driver": driver, "count": count, "height": height, "width": width, "dtype": data.dtype}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with MemoryFile() as memory:
            with memory.open(**profile) as file:
                file.write(data)
            return bytes(memory.read())


class FileSink:
    """A folder that files are put into by their path, some of them into zip archives there; a context manager."""

    def __init__(self, folder: Path, archive_of: Callable[[str], str | None] = lambda _: None):
        self._folder, self._archive_of = folder, archive_of
        self._archives: dict[str, zipfile.ZipFile] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for archive in self._archives.values():
            archive.close()

    def put(self, path: str, content: bytes) -> None:
        """Write ``path`` below the folder, or as a member of the archive that ``archive_of`` names for it."""
        name = self._archive_of(path)
        if name is None:
            place = self._folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
            return
        if name not in self._archives:
            self._archives[name] = zipfile.ZipFile(self._folder / name, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
        info = zipfile.ZipInfo(path)  # of 1980: equal samples are equal bytes
        info.compress_type = zipfile.ZIP_DEFLATED
        info.external_attr = 0o644 << 16
        self._archives[name].writestr(info, content)
