"""Object stores behind one small face: get, put, put-if-absent, list, delete.

Local folders are written by staging in ``STORE/tmp`` and ``os.replace`` (put) or ``os.link`` (put-if-absent), so that nothing
but finished objects is ever under ``cubes/``; s3, gs, az and http(s) go through obstore; any other fsspec URL through fsspec.
Nothing here relies on rename beyond the local staging folder, on append or on listing order.
"""

from __future__ import annotations

import contextlib
import errno
import html
import os
import re
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
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_ALLOWED = {errno.EROFS, errno.EACCES, errno.EPERM}
_REASON_CHARS = 300
_OBSTORE_SCHEMES = {"s3", "s3a", "gs", "az", "abfs", "abfss", "adl", "azure", "http", "https"}

Options = Mapping[str, Any]


class Blobs(Protocol):
    """Bytes by key under one URL. Pickles; opens its client lazily in each process."""

    url: str

    def get(self, key: str) -> bytes | None:
        """The object's bytes, None where there is none."""

    def size(self, key: str) -> int | None:
        """The object's bytes, counted; None where there is none."""

    def put(self, key: str, body: bytes) -> None:
        """Put the object, whatever was there."""

    def put_parts(self, key: str, parts: Iterable[bytes], *, n_bytes: int) -> None:
        """Put an object that comes in pieces, ``n_bytes`` in all; they are gone through once and need not be held together.

        StoreWriteError, and no object, where they are not as many.
        """

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
        """What was written there; StoreWriteError where the file gives less."""
        try:
            body = os.pread(self._file.fileno(), n_bytes, offset)
        except OSError as e:
            raise self._error(e) from e
        _require_all(f"A chunk that was laid by in a file below {self._folder}", len(body), n_bytes)
        return body

    def close(self) -> None:
        """Nothing is left of it."""
        self._file.close()

    def _error(self, error: OSError) -> StoreWriteError:
        return _unwritten(f"Encoded pixels could not be laid by in a file below {self._folder}", error)


def open_blobs(url: str | os.PathLike[str], storage_options: Options | None = None) -> Blobs:
    """The object store at ``url``: a folder, ``memory://``, ``s3://``, ``gs://``, ``az://``, ``http(s)://`` or any fsspec URL.

    ``storage_options`` go to obstore (s3, gs, az, http) or fsspec (others) as they are; nothing is taken from them into a store.
    """
    text = os.fspath(url)
    if not text or "\0" in text:
        raise UnknownNameError("store address", text, ["a folder", "s3://…", "gs://…", "az://…", "https://…", "memory://…"])
    scheme = urlsplit(text).scheme.lower()
    if scheme in {"", "file"} or len(scheme) == 1:
        return LocalBlobs(text.removeprefix("file://"))
    if scheme in _OBSTORE_SCHEMES:
        return ObstoreBlobs(text.rstrip("/"), storage_options or {})
    return FsspecBlobs(text.rstrip("/"), storage_options or {})


def is_folder(url: str) -> bool:
    """Whether objects at ``url`` are files of this machine."""
    scheme = urlsplit(url).scheme.lower()
    return scheme in {"", "file"} or len(scheme) == 1


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
        except OSError as e:
            raise StoreReadError(self.url, key, e.strerror or str(e)) from e

    def size(self, key: str) -> int | None:
        """See :class:`Blobs`."""
        try:
            return os.stat(self._path(key)).st_size  # noqa: PTH116
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as e:
            raise StoreReadError(self.url, key, e.strerror or str(e)) from e

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
                written = sum(f.write(part) for part in parts)
            _require_all(f"Object {key!r}", written, n_bytes)
            yield staged
        except StoreWriteError:
            raise
        except OSError as e:
            raise _unwritten(f"Object {key!r} ({n_bytes} bytes) could not be written below {self.url}", e) from e
        finally:
            with contextlib.suppress(OSError):
                os.unlink(staged)  # noqa: PTH108

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """See :class:`Blobs`."""
        for folder, _, files in os.walk(self._path(prefix), onerror=self._refuse_unlisted):
            for name in files:
                path = f"{folder}/{name}"
                with contextlib.suppress(FileNotFoundError):
                    yield os.path.relpath(path, self.url), os.stat(path).st_size  # noqa: PTH116

    def _refuse_unlisted(self, error: OSError) -> None:
        """A folder that is there and cannot be looked into must not pass for an empty one."""
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise StoreReadError(self.url, str(error.filename), error.strerror or str(error)) from error

    def delete(self, key: str) -> None:
        """See :class:`Blobs`."""
        try:
            os.unlink(self._path(key))  # noqa: PTH108
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as e:
            raise _unwritten(f"Object {key!r} could not be deleted below {self.url}", e) from e

    def sweep_staging(self) -> None:
        """Remove staged files older than a day: what a killed run left behind."""
        oldest = time.time() - STAGING_MAX_AGE_S
        with contextlib.suppress(OSError):  # the first write says what is the matter with the place
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


def _unwritten(what: str, error: OSError) -> StoreWriteError:
    """The error for something that this machine does not let us write, with what to do about it."""
    if error.errno in _NO_SPACE:
        todo = "Make free space there (or raise the limit)"
    elif error.errno in _NOT_ALLOWED:
        todo = "It is read-only for this user: mend the permissions or the mount, or name another store"
    else:
        todo = "Check the path, its permissions and the free space"
    found = StoreWriteError(
        f"{what}: {error.strerror or error}. {todo}, then run the same command again; finished regions are kept."
    )
    found.errno = error.errno
    return found


def _require_all(what: str, found: int, n_bytes: int) -> None:
    """Refuse to put an object that is not what its index and marker say."""
    if found != n_bytes:
        raise StoreWriteError(
            f"{what} came as {found} bytes and not as {n_bytes}: nothing was put. Check the disk, then run the same command "
            "again; finished regions are kept."
        )


def _joined(key: str, parts: Iterable[bytes], n_bytes: int) -> bytearray:
    """One piece; parts that nobody else holds go while it fills."""
    whole, end = bytearray(n_bytes), 0
    for part in parts:
        whole[end : end + len(part)] = part
        end += len(part)
    _require_all(f"Object {key!r}", end, n_bytes)
    return whole


class ObstoreBlobs:
    """s3, gs, az or http(s) through obstore."""

    def __init__(self, url: str, options: Options):
        self.url, self._options = url, dict(options)

    def __reduce__(self) -> tuple[type[ObstoreBlobs], tuple[str, dict[str, Any]]]:
        return type(self), (self.url, self._options)

    @cached_property
    def _store(self) -> Any:
        from obstore.exceptions import BaseError
        from obstore.store import from_url

        options = dict(self._options)
        if self.url.startswith("http://"):
            options["client_options"] = {"allow_http": True, **options.get("client_options", {})}
        try:
            return from_url(self.url, **options)
        except (BaseError, ValueError, TypeError) as e:
            raise StoreReadError(self.url, "zarr.json", f"the address or its options are not understood: {reason_of(e)}") from e

    def get(self, key: str) -> bytes | None:
        """See :class:`Blobs`."""
        import obstore
        from obstore.exceptions import BaseError

        try:
            return bytes(obstore.get(self._store, key).bytes())
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as e:
            raise StoreReadError(self.url, key, reason_of(e)) from e

    def size(self, key: str) -> int | None:
        """See :class:`Blobs`."""
        import obstore
        from obstore.exceptions import BaseError

        try:
            return int(obstore.head(self._store, key)["size"])
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as e:
            raise StoreReadError(self.url, key, reason_of(e)) from e

    def put(self, key: str, body: bytes) -> None:
        """See :class:`Blobs`."""
        self._put(key, body, "overwrite")

    def put_parts(self, key: str, parts: Iterable[bytes], *, n_bytes: int) -> None:
        """See :class:`Blobs`. Big ones (from 5 MB) as a multipart upload: one long request would run into its time limit.

        No object is there before the last part is. A kill leaves the old object, or none, and parts that no listing shows and no
        reader sees, but which the server keeps until a rule of the bucket ends incomplete uploads.
        """
        self._put(key, _joined(key, parts, n_bytes), "overwrite")

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
        except (BaseError, OSError) as e:
            raise self._unwritten(f"Object {key!r} ({len(body)} bytes) could not be written to", e) from e

    def _unwritten(self, what: str, error: Exception) -> StoreWriteError:
        return StoreWriteError(
            f"{what} {self.url}: {reason_of(error)}. Check the address, that its credentials may write, and the network, then "
            "run the same command again; finished regions are kept."
        )

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
        except (BaseError, OSError) as e:
            raise StoreReadError(self.url, f"{prefix}/", reason_of(e)) from e

    def delete(self, key: str) -> None:
        """See :class:`Blobs`."""
        import obstore
        from obstore.exceptions import BaseError

        try:
            obstore.delete(self._store, key)
        except FileNotFoundError:
            return
        except (BaseError, OSError) as e:
            raise self._unwritten(f"Object {key!r} could not be deleted in", e) from e

    def scratch(self) -> Scratch | None:
        """See :class:`Blobs`."""
        return None

    def zarr_store(self) -> Any:
        """See :class:`Blobs`."""
        from zarr.storage import ObjectStore

        return ObjectStore(self._store, read_only=True)


def reason_of(error: Exception) -> str:
    """What an object store's error says, in a sentence: the server's own code and words, else the system's, else its first line.

    The library puts the request, its duration and a dump of its inner state around them.
    """
    whole = str(error)
    text = whole.partition("Debug source:")[0]
    said = [
        html.unescape(found[1]).strip() for tag in ("Code", "Message") if (found := re.search(rf"<{tag}>([^<]+)</{tag}>", text))
    ]
    status = re.search(r"status code: (\d{3}[A-Za-z ]*)", text)
    system = re.search(r'kind: \w+,\s*message: "([^"]+)"', whole)
    if said or status:
        reason = f"the server answers {' '.join([status[1].strip()] if status else [])}: {': '.join(said)}".rstrip(": ")
    elif system:
        reason = f"no connection: {system[1]}"
    else:
        reason = re.sub(r"Error performing [A-Z]+ \S+( in [\d.]+\S+)?( - )?|^Generic \w+ error: ", "", text)
    return " ".join(reason.split()).rstrip(".")[:_REASON_CHARS] or type(error).__name__


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
        except OSError as e:
            raise StoreReadError(self.url, key, reason_of(e)) from e
        return body

    def size(self, key: str) -> int | None:
        """See :class:`Blobs`."""
        try:
            return int(self._opened[0].info(self._path(key))["size"])
        except FileNotFoundError:
            return None
        except OSError as e:
            raise StoreReadError(self.url, key, reason_of(e)) from e

    def put(self, key: str, body: bytes) -> None:
        """See :class:`Blobs`."""
        self._write(f"Object {key!r} ({len(body)} bytes) could not be written to", "pipe_file", key, body)

    def _write(self, what: str, act: str, key: str, *args: Any, **kwargs: Any) -> None:
        try:
            getattr(self._opened[0], act)(self._path(key), *args, **kwargs)
        except FileExistsError:
            raise
        except OSError as e:
            if not (act == "rm_file" and isinstance(e, FileNotFoundError)):
                raise _unwritten(f"{what} {self.url}", e) from e

    def put_parts(self, key: str, parts: Iterable[bytes], *, n_bytes: int) -> None:
        """See :class:`Blobs`."""
        body = b"".join(parts)
        _require_all(f"Object {key!r}", len(body), n_bytes)
        self.put(key, body)

    def put_new(self, key: str, body: bytes) -> bool:
        """See :class:`Blobs`."""
        try:
            self._write(f"Object {key!r} ({len(body)} bytes) could not be written to", "pipe_file", key, body, mode="create")
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
        self._write(f"Object {key!r} could not be deleted in", "rm_file", key)

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
