"""Object stores behind one small face: get, put, put-if-absent, list, delete.

Local folders are written by staging in ``STORE/tmp`` and ``os.replace`` (put) or ``os.link`` (put-if-absent), so that nothing
but finished objects is ever under ``cubes/``; s3, gs, az and http(s) go through obstore; any other fsspec URL through fsspec.
Nothing here relies on rename beyond the local staging folder, on append or on listing order.
"""

from __future__ import annotations

import contextlib
import html
import os
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from eocube.errors import StoreReadError, StoreWriteError, UnknownNameError
from eocube.io.scratch import Scratch, in_folder, require_all, unwritten

STAGING = "tmp"
STAGING_MAX_AGE_S = 86_400
PART_BYTES, PARTS_AT_ONCE = 5 * 1024 * 1024, 1
"""A bigger object goes to an object store in parts of this size (S3 takes no smaller ones), so many under way at once."""

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

    def version(self, key: str) -> str | None:
        """A text that changes with the object; None where there is none."""

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

    def scratch(self) -> Scratch:
        """A nameless file of this machine for what a task cannot hold in memory."""

    def zarr_store(self) -> Any:
        """A read-only zarr-python store on the same objects."""


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


def absolute(url: str) -> str:
    """The address as every process of this machine understands it: workers have working folders of their own."""
    return LocalBlobs(url.removeprefix("file://")).url if url and is_folder(url) else url


def uploading_bytes(url: str) -> int:
    """Most that is on its way at once while objects are put at ``url``.

    In an object store the parts that go up, one that waits and one that is being filled; elsewhere one small object and its
    pieces, beside what a file system of fsspec's holds itself.
    """
    if is_folder(url):
        return 0
    return PART_BYTES * (PARTS_AT_ONCE + 2 if urlsplit(url).scheme.lower() in _OBSTORE_SCHEMES else 2)


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

    def version(self, key: str) -> str | None:
        """See :class:`Blobs`."""
        try:
            found = os.stat(self._path(key))  # noqa: PTH116
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as e:
            raise StoreReadError(self.url, key, e.strerror or str(e)) from e
        return f"{found.st_ino}-{found.st_mtime_ns}-{found.st_size}"

    def put(self, key: str, body: bytes) -> None:
        """See :class:`Blobs`."""
        self.put_parts(key, [body], n_bytes=len(body))

    def put_parts(self, key: str, parts: Iterable[bytes], *, n_bytes: int) -> None:
        """See :class:`Blobs`."""
        with self._staged(key, parts, n_bytes) as staged:
            in_folder(self._path(key), partial(os.replace, staged, self._path(key)))

    def put_new(self, key: str, body: bytes) -> bool:
        """See :class:`Blobs`. ``os.link`` fails where the name exists, atomically."""
        with self._staged(key, [body], len(body)) as staged:
            try:
                in_folder(self._path(key), partial(os.link, staged, self._path(key)))
            except FileExistsError:
                return False
            return True

    @contextlib.contextmanager
    def _staged(self, key: str, parts: Iterable[bytes], n_bytes: int) -> Iterator[str]:
        staged = self._path(f"{STAGING}/{uuid.uuid4().hex}")
        try:
            with in_folder(staged, partial(open, staged, "xb")) as f:
                written = sum(f.write(part) for part in parts)
            require_all(f"Object {key!r}", written, n_bytes)
            yield staged
        except StoreWriteError:
            raise
        except OSError as e:
            raise unwritten(f"Object {key!r} ({n_bytes} bytes) could not be written below {self.url}", e) from e
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
            raise unwritten(f"Object {key!r} could not be deleted below {self.url}", e) from e

    def sweep_staging(self) -> None:
        """Remove staged files older than a day: what a killed run left behind."""
        oldest = time.time() - STAGING_MAX_AGE_S
        with contextlib.suppress(OSError):  # the first write says what is the matter with the place
            for entry in os.scandir(self._path(STAGING)):
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat().st_mtime < oldest:
                        os.unlink(entry.path)  # noqa: PTH108

    def scratch(self) -> Scratch:
        """See :class:`Blobs`. On the disk of the store."""
        return Scratch(self._path(STAGING))

    def zarr_store(self) -> Any:
        """See :class:`Blobs`."""
        from zarr.storage import LocalStore

        return LocalStore(self.url, read_only=True)


def _temporary() -> str:
    """The temporary folder of this machine."""
    try:
        return tempfile.gettempdir()
    except OSError as e:
        raise unwritten("Encoded pixels need a temporary folder (TMPDIR), and there is none", e) from e


def _gather(parts: Iterable[bytes], path: str) -> None:
    try:
        with open(path, "wb") as f:  # noqa: PTH123
            f.writelines(parts)
    except StoreWriteError:
        raise
    except OSError as e:
        raise unwritten(f"A shard could not be gathered in {path}", e) from e


def _counted(key: str, parts: Iterable[bytes], n_bytes: int) -> Iterator[bytes]:
    """The same parts; StoreWriteError at their end where they are not ``n_bytes`` in all."""
    found = 0
    for part in parts:
        found += len(part)
        yield part
    require_all(f"Object {key!r}", found, n_bytes)


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

    def version(self, key: str) -> str | None:
        """See :class:`Blobs`."""
        import obstore
        from obstore.exceptions import BaseError

        try:
            found = obstore.head(self._store, key)
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as e:
            raise StoreReadError(self.url, key, reason_of(e)) from e
        return f"{found['e_tag']}-{found['last_modified']}-{found['size']}"

    def put(self, key: str, body: bytes) -> None:
        """See :class:`Blobs`."""
        self._put(key, body, "overwrite", len(body))

    def put_parts(self, key: str, parts: Iterable[bytes], *, n_bytes: int) -> None:
        """See :class:`Blobs`. Bigger than ``PART_BYTES`` as a multipart upload: one long request would run into its time limit.

        No object is there before the last part is. A kill leaves the old object, or none, and parts that no listing shows and no
        reader sees, but which the server keeps until a rule of the bucket ends incomplete uploads.
        """
        counted = _counted(key, parts, n_bytes)
        self._put(key, b"".join(counted) if n_bytes <= PART_BYTES else counted, "overwrite", n_bytes)

    def put_new(self, key: str, body: bytes) -> bool:
        """See :class:`Blobs`. A conditional PUT (If-None-Match: *)."""
        from obstore.exceptions import AlreadyExistsError

        try:
            self._put(key, body, "create", len(body))
        except AlreadyExistsError:
            return False
        return True

    def _put(self, key: str, body: bytes | Iterator[bytes], mode: Any, n_bytes: int) -> None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, BaseError

        try:
            obstore.put(
                self._store,
                key,
                body,
                mode=mode,
                use_multipart=mode != "create" and n_bytes > PART_BYTES,
                chunk_size=PART_BYTES,
                max_concurrency=PARTS_AT_ONCE,
            )
        except (AlreadyExistsError, StoreWriteError):
            raise
        except (BaseError, OSError) as e:
            raise self._unwritten(f"Object {key!r} ({n_bytes} bytes) could not be written to", e) from e

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

    def scratch(self) -> Scratch:
        """See :class:`Blobs`. In this machine's temporary folder."""
        return Scratch(_temporary())

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

    def version(self, key: str) -> str | None:
        """See :class:`Blobs`."""
        try:
            return str(self._opened[0].ukey(self._path(key)))
        except FileNotFoundError:
            return None
        except OSError as e:
            raise StoreReadError(self.url, key, reason_of(e)) from e

    def put(self, key: str, body: bytes) -> None:
        """See :class:`Blobs`."""
        act = partial(self._opened[0].pipe_file, self._path(key), body)
        self._write(f"Object {key!r} ({len(body)} bytes) could not be written to", act)

    def _write(self, what: str, act: Callable[[], Any]) -> None:
        try:
            act()
        except FileExistsError:
            raise
        except OSError as e:
            raise unwritten(f"{what} {self.url}", e) from e

    def put_parts(self, key: str, parts: Iterable[bytes], *, n_bytes: int) -> None:
        """See :class:`Blobs`."""
        counted = _counted(key, parts, n_bytes)
        if n_bytes <= PART_BYTES:
            self.put(key, b"".join(counted))
            return
        # A file is what every file system can take in pieces. Killed meanwhile, it stays where it is.
        with tempfile.TemporaryDirectory(prefix="eocube-", dir=_temporary()) as folder:
            whole = f"{folder}/object"
            _gather(counted, whole)
            act = partial(self._opened[0].put_file, whole, self._path(key))
            self._write(f"Object {key!r} ({n_bytes} bytes) could not be written to", act)

    def put_new(self, key: str, body: bytes) -> bool:
        """See :class:`Blobs`."""
        try:
            act = partial(self._opened[0].pipe_file, self._path(key), body, mode="create")
            self._write(f"Object {key!r} ({len(body)} bytes) could not be written to", act)
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

        def act() -> None:
            with contextlib.suppress(FileNotFoundError):
                self._opened[0].rm_file(self._path(key))

        self._write(f"Object {key!r} could not be deleted in", act)

    def scratch(self) -> Scratch:
        """See :class:`Blobs`. In this machine's temporary folder."""
        return Scratch(_temporary())

    def zarr_store(self) -> Any:
        """See :class:`Blobs`."""
        from zarr.storage import FsspecStore

        if self.url.startswith("memory://"):
            from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

            fs, root = self._opened
            return FsspecStore(AsyncFileSystemWrapper(fs, asynchronous=True), path=root, read_only=True)
        return FsspecStore.from_url(self.url, storage_options=self._options, read_only=True)
