"""Object stores behind one small face: get, put, put-if-absent, list, delete.

Local folders are written by staging in ``STORE/tmp`` and ``os.replace`` (put) or ``os.link`` (put-if-absent), so that nothing
but finished objects is ever under ``cubes/``; s3, gs, az and http(s) go through obstore; any other fsspec URL through fsspec.
Nothing here relies on rename beyond the local staging folder, on append or on listing order.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from eocube.errors import StoreReadError, StoreWriteError, UnknownNameError

STAGING = "tmp"
STAGING_MAX_AGE_S = 86_400
_OBSTORE_SCHEMES = {"s3", "s3a", "gs", "az", "abfs", "abfss", "adl", "azure", "http", "https"}

Options = Mapping[str, Any]


class Blobs(Protocol):
    """Bytes by key under one URL. Pickles; opens its client lazily in each process."""

    url: str

    def get(self, key: str) -> bytes | None:
        """The object's bytes, None where there is none."""

    def put(self, key: str, body: bytes) -> None:
        """Put the object, whatever was there."""

    def put_parts(self, key: str, parts: Iterable[bytes], *, n_bytes: int) -> None:
        """Put an object that comes in pieces, ``n_bytes`` in all; they are gone through once and need not be held together."""

    def put_new(self, key: str, body: bytes) -> bool:
        """Put the object if none is there; whether this call made it. Exactly one of many callers wins."""

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """(key, size) of every object below the folder ``prefix``, in no order."""

    def delete(self, key: str) -> None:
        """Delete the object; nothing happens where there is none."""

    def scratch(self) -> Scratch | None:
        """A nameless file for what a task cannot hold in memory; None where the store is no folder of this machine."""

    def zarr_store(self) -> Any:
        """A read-only zarr-python store on the same objects."""


class Scratch:
    """A file without a name in a folder: gone when it is closed, also by the end of its process."""

    def __init__(self, folder: str):
        self._folder, self._end = folder, 0
        path = f"{folder}/{uuid.uuid4().hex}"
        try:
            self._file = _in_folder(path, partial(open, path, "x+b", buffering=0))
            os.unlink(path)  # noqa: PTH108
        except OSError as e:
            raise self._error(e) from e

    def append(self, body: bytes) -> int:
        """Write at the end; where it is now."""
        start, rest = self._end, memoryview(body)
        try:
            while rest:
                rest = rest[os.pwrite(self._file.fileno(), rest, self._end + len(body) - len(rest)) :]
        except OSError as e:
            raise self._error(e) from e
        self._end += len(body)
        return start

    def read(self, offset: int, n_bytes: int) -> bytes:
        """What was written there."""
        return os.pread(self._file.fileno(), n_bytes, offset)

    def close(self) -> None:
        """Nothing is left of it."""
        self._file.close()

    def _error(self, error: OSError) -> StoreWriteError:
        return StoreWriteError(
            f"Encoded pixels could not be laid by in a file below {self._folder}: {error.strerror or error}. Check the path, its "
            "permissions and the free space, then run the same command again; finished regions are kept."
        )


def open_blobs(url: str | os.PathLike[str], storage_options: Options | None = None) -> Blobs:
    """The object store at ``url``: a folder, ``memory://``, ``s3://``, ``gs://``, ``az://``, ``http(s)://`` or any fsspec URL.

    ``storage_options`` go to obstore (s3, gs, az, http) or fsspec (others) as they are; nothing is taken from them into a store.
    """
    text = os.fspath(url)
    scheme = urlsplit(text).scheme.lower()
    if scheme in {"", "file"} or len(scheme) == 1:
        return LocalBlobs(text.removeprefix("file://"))
    if scheme in _OBSTORE_SCHEMES:
        return ObstoreBlobs(text.rstrip("/"), storage_options or {})
    return FsspecBlobs(text.rstrip("/"), storage_options or {})


class LocalBlobs:
    """A folder of this machine."""

    def __init__(self, folder: str):
        self.url = str(Path(folder).expanduser().absolute())

    def _path(self, key: str) -> str:
        return os.path.join(self.url, key)  # noqa: PTH118 - hot path; Path costs ten times as much

    def get(self, key: str) -> bytes | None:
        """See :class:`Blobs`."""
        try:
            with open(self._path(key), "rb") as f:  # noqa: PTH123
                return f.read()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def put(self, key: str, body: bytes) -> None:
        """See :class:`Blobs`."""
        self.put_parts(key, [body], n_bytes=len(body))

    def put_parts(self, key: str, parts: Iterable[bytes], *, n_bytes: int) -> None:
        """See :class:`Blobs`."""
        with self._staged(key, parts, n_bytes) as staged:
            _in_folder(self._path(key), partial(os.replace, staged, self._path(key)))

    def put_new(self, key: str, body: bytes) -> bool:
        """See :class:`Blobs`. ``os.link`` fails where the name exists, atomically."""
        with self._staged(key, [body], len(body)) as staged:
            try:
                _in_folder(self._path(key), partial(os.link, staged, self._path(key)))
            except FileExistsError:
                return False
            return True

    @contextlib.contextmanager
    def _staged(self, key: str, parts: Iterable[bytes], n_bytes: int) -> Iterator[str]:
        staged = self._path(f"{STAGING}/{uuid.uuid4().hex}")
        try:
            with _in_folder(staged, partial(open, staged, "xb")) as f:
                for part in parts:
                    f.write(part)
            yield staged
        except OSError as e:
            raise StoreWriteError(
                f"Object {key!r} ({n_bytes} bytes) could not be written below {self.url}: {e.strerror or e}. Check the path, "
                "its permissions and the free space, then run the same command again; finished regions are kept."
            ) from e
        finally:
            with contextlib.suppress(OSError):
                os.unlink(staged)  # noqa: PTH108

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """See :class:`Blobs`."""
        top = self._path(prefix)
        for folder, _, files in os.walk(top):
            for name in files:
                path = f"{folder}/{name}"
                with contextlib.suppress(FileNotFoundError):
                    yield os.path.relpath(path, self.url), os.stat(path).st_size  # noqa: PTH116

    def delete(self, key: str) -> None:
        """See :class:`Blobs`."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(key))  # noqa: PTH108

    def sweep_staging(self) -> None:
        """Remove staged files older than a day: what a killed run left behind."""
        oldest = time.time() - STAGING_MAX_AGE_S
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for entry in os.scandir(self._path(STAGING)):
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat().st_mtime < oldest:
                        os.unlink(entry.path)  # noqa: PTH108

    def scratch(self) -> Scratch | None:
        """See :class:`Blobs`."""
        return Scratch(self._path(STAGING))

    def zarr_store(self) -> Any:
        """See :class:`Blobs`."""
        from zarr.storage import LocalStore

        return LocalStore(self.url, read_only=True)


def _in_folder(path: str, act: Callable[[], Any]) -> Any:
    """``act``, which makes ``path``; once more with the folder made where that is missing. Nearly always it is there."""
    try:
        return act()
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
        return act()


def _joined(parts: Iterable[bytes], n_bytes: int) -> bytearray:
    """One piece; parts that nobody else holds go while it fills."""
    whole, end = bytearray(n_bytes), 0
    for part in parts:
        whole[end : end + len(part)] = part
        end += len(part)
    return whole


class ObstoreBlobs:
    """s3, gs, az or http(s) through obstore."""

    def __init__(self, url: str, options: Options):
        self.url, self._options = url, dict(options)

    def __reduce__(self) -> tuple[type[ObstoreBlobs], tuple[str, dict[str, Any]]]:
        return type(self), (self.url, self._options)

    @cached_property
    def _store(self) -> Any:
        from obstore.store import from_url

        options = dict(self._options)
        if self.url.startswith("http://"):
            options["client_options"] = {"allow_http": True, **options.get("client_options", {})}
        return from_url(self.url, **options)

    def get(self, key: str) -> bytes | None:
        """See :class:`Blobs`."""
        import obstore
        from obstore.exceptions import BaseError

        try:
            return bytes(obstore.get(self._store, key).bytes())
        except FileNotFoundError:
            return None
        except BaseError as e:
            raise StoreReadError(self.url, key, str(e)) from e

    def put(self, key: str, body: bytes) -> None:
        """See :class:`Blobs`."""
        self._put(key, body, "overwrite")

    def put_parts(self, key: str, parts: Iterable[bytes], *, n_bytes: int) -> None:
        """See :class:`Blobs`. In one request, so that nothing is left of a put that was killed."""
        self._put(key, _joined(parts, n_bytes), "overwrite")

    def put_new(self, key: str, body: bytes) -> bool:
        """See :class:`Blobs`. A conditional PUT (If-None-Match: *)."""
        from obstore.exceptions import AlreadyExistsError

        try:
            self._put(key, body, "create")
        except AlreadyExistsError:
            return False
        return True

    def _put(self, key: str, body: bytes | bytearray, mode: Any) -> None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, BaseError

        try:
            obstore.put(self._store, key, body, mode=mode, use_multipart=False if mode == "create" else None)
        except AlreadyExistsError:
            raise
        except BaseError as e:
            raise StoreWriteError(
                f"Object {key!r} ({len(body)} bytes) could not be written to {self.url}: {type(e).__name__}. "
                "Check credentials and the bucket, then run the same command again; finished regions are kept."
            ) from e

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """See :class:`Blobs`."""
        import obstore
        from obstore.exceptions import BaseError

        if self.url.startswith(("http://", "https://")):
            raise StoreReadError(
                self.url,
                f"{prefix}/",
                "plain HTTP has no listings. To write something made from this store, name it by its s3://, gs:// or az:// "
                "address, or a copy of it in a folder",
            )
        try:
            for page in obstore.list(self._store, prefix=prefix):
                for entry in page:
                    yield str(entry["path"]), int(entry["size"])
        except BaseError as e:
            raise StoreReadError(self.url, f"{prefix}/", str(e)) from e

    def delete(self, key: str) -> None:
        """See :class:`Blobs`."""
        import obstore

        with contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, key)

    def scratch(self) -> Scratch | None:
        """See :class:`Blobs`."""
        return None

    def zarr_store(self) -> Any:
        """See :class:`Blobs`."""
        from zarr.storage import ObjectStore

        return ObjectStore(self._store, read_only=True)


class FsspecBlobs:
    """Any other fsspec file system; ``memory://`` among them.

    Put-if-absent uses the file system's exclusive creation, which not every one of them makes atomic: use one writer there.
    """

    def __init__(self, url: str, options: Options):
        self.url, self._options = url, dict(options)

    def __reduce__(self) -> tuple[type[FsspecBlobs], tuple[str, dict[str, Any]]]:
        return type(self), (self.url, self._options)

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        import fsspec

        try:
            fs, root = fsspec.core.url_to_fs(self.url, **self._options)
        except ValueError as e:
            raise UnknownNameError("URL scheme", self.url, sorted(_OBSTORE_SCHEMES | {"file", "memory"})) from e
        return fs, root.rstrip("/")

    def _path(self, key: str) -> str:
        return f"{self._opened[1]}/{key}"

    def get(self, key: str) -> bytes | None:
        """See :class:`Blobs`."""
        try:
            body: bytes = self._opened[0].cat_file(self._path(key))
        except (FileNotFoundError, IsADirectoryError):
            return None
        return body

    def put(self, key: str, body: bytes) -> None:
        """See :class:`Blobs`."""
        self._opened[0].pipe_file(self._path(key), body)

    def put_parts(self, key: str, parts: Iterable[bytes], *, n_bytes: int) -> None:
        """See :class:`Blobs`."""
        self.put(key, b"".join(parts))

    def put_new(self, key: str, body: bytes) -> bool:
        """See :class:`Blobs`."""
        try:
            self._opened[0].pipe_file(self._path(key), body, mode="create")
        except FileExistsError:
            return False
        return True

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """See :class:`Blobs`."""
        fs, root = self._opened
        try:
            found = fs.find(f"{root}/{prefix}", detail=True)
        except FileNotFoundError:
            return
        for path, info in found.items():
            yield path.removeprefix(f"{root}/"), int(info["size"])

    def delete(self, key: str) -> None:
        """See :class:`Blobs`."""
        with contextlib.suppress(FileNotFoundError):
            self._opened[0].rm_file(self._path(key))

    def scratch(self) -> Scratch | None:
        """See :class:`Blobs`."""
        return None

    def zarr_store(self) -> Any:
        """See :class:`Blobs`."""
        from zarr.storage import FsspecStore

        if self.url.startswith("memory://"):
            from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

            fs, root = self._opened
            return FsspecStore(AsyncFileSystemWrapper(fs, asynchronous=True), path=root, read_only=True)
        return FsspecStore.from_url(self.url, storage_options=self._options, read_only=True)
