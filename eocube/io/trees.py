"""The files of a corpus below a root, wherever they lie: in folders, in zip archives, on this machine or behind HTTP.

A listing opens folders and the directories of archives, never a file. An archive in a folder is looked into as if it had been
unpacked there, so a corpus reads the same before and after unpacking. A listed file is small, is pickled to workers, and is read
there with one read or, over HTTP, usually one request.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from eocube.errors import AssetReadError, CatalogError
from eocube.io.archives import Member, read_directory, read_member
from eocube.io.blobs import absolute, is_folder, reason_of

UNKNOWN_SIZE = -1
"""Size of a file that no listing told: an address made from a rule."""

_TIMEOUT = "60s"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file of a corpus, and where its bytes are."""

    path: str
    """POSIX, below the root."""

    size: int
    """Bytes; -1 where nobody told."""

    place: str
    """Absolute path or URL of the file, or of the archive that it is in."""

    member: Member | None = None
    """Where it is in that archive; None of a plain file."""

    @property
    def href(self) -> str:
        """Its path or URL; of a member fsspec's chained form, ``zip://<path>::<archive>``."""
        return self.place if self.member is None else f"zip://{self.member.name}::{self.place}"


class TreeReader:
    """Lists and reads; keeps a connection to each server while it lives. Pickles, without them."""

    def __init__(self, *, retries: int = 3, backoff_s: float = 0.5):
        self.retries, self.backoff_s = retries, backoff_s
        self._servers: dict[str, Any] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), retries=self.retries, backoff_s=self.backoff_s), ()

    def list_tree(self, root: str | Sequence[str]) -> Iterator[StoredFile]:
        """See :func:`list_tree`."""
        roots = [root] if isinstance(root, str) else list(root)
        for one in roots:
            _check_root(one)
        return _without_repeats(_merged([self._listed(one) for one in roots]))

    def read_whole(self, file: StoredFile) -> bytes:
        """See :func:`read_whole`."""
        try:
            body = self._read(file)
        except AssetReadError:
            raise
        except (OSError, ValueError) as e:
            raise AssetReadError(file.href, "", "", getattr(e, "strerror", None) or reason_of(e)) from e
        if file.size not in (UNKNOWN_SIZE, len(body)):
            reason = f"it was listed with {file.size} bytes and has {len(body)}: it was cut off, or changed since"
            raise AssetReadError(file.href, "", "", reason)
        return body

    def _read(self, file: StoredFile) -> bytes:
        if not is_folder(file.place):
            if file.member is None:
                return self._get(file.place)
            return read_member(partial(self._get_range, file.place), file.member, file.place)
        with _opened(file.place) as fd:
            if file.member is None:
                return _pread(fd, 0, os.fstat(fd).st_size if file.size == UNKNOWN_SIZE else file.size + 1)
            return read_member(partial(_pread_all, fd), file.member, file.place)

    def _listed(self, root: str) -> Iterator[StoredFile]:
        """The files of one root, sorted."""
        if not is_folder(root):
            yield from self._remote_archive(root)
        elif os.path.isdir(place := absolute(root)):  # noqa: PTH112 - a path is a text in all of this
            yield from _walk(place, "", ())
        else:
            yield from _local_archive(place, "")

    def _remote_archive(self, url: str) -> Iterator[StoredFile]:
        try:
            size = self._size(url)
            members = read_directory(partial(self._get_range, url), size, url)
        except CatalogError:
            raise
        except (OSError, ValueError) as e:
            raise CatalogError(
                f"The directory of zip archive {url} could not be read: {reason_of(e)}. Check the address and the network; the "
                "server must know byte ranges, else download the archive."
            ) from e
        yield from _stored(members, url, "")

    # ------------------------------------------------------------------------------------------------------ HTTP

    def _size(self, url: str) -> int:
        import obstore

        return int(self._tried(url, lambda store, key: obstore.head(store, key)["size"]))

    def _get(self, url: str) -> bytes:
        import obstore

        return self._tried(url, lambda store, key: bytes(obstore.get(store, key).bytes()))

    def _get_range(self, url: str, start: int, stop: int) -> bytes:
        import obstore

        def get(store: Any, key: str) -> bytes:
            return _exactly(bytes(obstore.get_range(store, key, start=start, end=stop)), start, stop)

        return self._tried(url, get)

    def _tried(self, url: str, act: Callable[[Any, str], _T]) -> _T:
        """``act`` on a server and a path, tried again where it fails for another reason than that nothing is there."""
        from obstore.exceptions import BaseError

        for n in range(self.retries):
            try:
                return act(*self._server(url))
            except FileNotFoundError as e:
                raise FileNotFoundError(f"the server has nothing at {url}") from e
            except (BaseError, OSError) as e:
                if n + 1 == self.retries:
                    raise OSError(reason_of(e)) from e
                time.sleep(self.backoff_s * 2**n)
        raise AssertionError  # the loop returns or raises

    def _server(self, url: str) -> tuple[Any, str]:
        """A connection to the server of ``url``, and the path on it. A query, such as a signature, goes with each request."""
        from obstore.store import HTTPStore

        parts = urlsplit(url)
        base = f"{parts.scheme}://{parts.netloc}/{f'?{parts.query}' if parts.query else ''}"
        with self._lock:
            if base not in self._servers:
                # Tried again by ourselves: the library would go on for minutes.
                self._servers[base] = HTTPStore.from_url(
                    base, client_options={"allow_http": True, "timeout": _TIMEOUT}, retry_config={"max_retries": 0}
                )
            return self._servers[base], unquote(parts.path).lstrip("/")


def list_tree(root: str | Sequence[str]) -> Iterator[StoredFile]:
    """The files below a root, sorted by the parts of their paths.

    Parameters
    ----------
    root
        A folder, looked into to the bottom: hidden files are left out, links are followed, though never back into a folder that
        they lie in; ``.zip`` files in it are looked into as if they were unpacked where they are. Or one ``.zip``, by its path or
        its http(s) URL. Or several of these.

    Returns
    -------
    Lazily, one by one. Of a path that a folder and an archive have, the plain file; of one that several roots have, the first's.

    Raises
    ------
    CatalogError
        A root is none of these; a folder or an archive cannot be read, or contradicts itself; two archives hold different files
        under one path.
    """
    return TreeReader().list_tree(root)


def read_whole(file: StoredFile) -> bytes:
    """The bytes of a file, with one read or, over HTTP, usually one request. To read many, use one :class:`TreeReader`.

    Raises
    ------
    AssetReadError
        It is not there, is not as long as it was listed, or, in an archive, is not what its checksum says.
    """
    return TreeReader().read_whole(file)


# ---------------------------------------------------------------------------------------------------------- listing


def _check_root(root: str) -> None:
    """A root must be something before anything is listed."""
    known = "A root is a folder, a .zip, or the http(s) URL of a .zip"
    if not root or "\0" in root:
        raise CatalogError(f"{root!r} is no place of a corpus. {known}.")
    if not is_folder(root):
        parts = urlsplit(root)
        if parts.scheme not in ("http", "https") or not _is_zip(parts.path):
            raise CatalogError(f"{root} is no place of a corpus. {known}; download other remote files into a folder.")
        return
    try:
        mode = os.stat(place := absolute(root)).st_mode  # noqa: PTH116 - a path is a text in all of this
    except (OSError, ValueError) as e:
        raise CatalogError(f"{root} cannot be listed: {getattr(e, 'strerror', None) or e}. {known}; check the path.") from e
    if not stat.S_ISDIR(mode) and not (stat.S_ISREG(mode) and _is_zip(place)):
        raise CatalogError(f"{root} is neither a folder nor a .zip. {known}; unpack other archives into a folder first.")


def _is_zip(path: str) -> bool:
    return path.lower().endswith(".zip")


def _walk(folder: str, below: str, inside: tuple[tuple[int, int], ...]) -> Iterator[StoredFile]:
    """The files of a folder and of the archives in it, sorted; ``inside`` are the folders that it lies in."""
    try:
        status = os.stat(folder)  # noqa: PTH116 - a path is a text in all of this
        if (status.st_dev, status.st_ino) in inside:
            return
        with os.scandir(folder) as found:
            entries = sorted((e for e in found if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as e:
        raise CatalogError(f"Folder {folder} cannot be listed: {e.strerror or e}. Mend its permissions or the disk.") from e
    within = (*inside, (status.st_dev, status.st_ino))
    zips = [e for e in entries if _is_zip(e.name) and not _is_dir(e)]
    plain = _plain((e for e in entries if not _is_zip(e.name) or _is_dir(e)), below, within)
    if zips:
        yield from _without_repeats(_merged([plain, *(_local_archive(e.path, below) for e in zips)]))
    else:
        yield from plain


def _plain(entries: Iterable[os.DirEntry[str]], below: str, within: tuple[tuple[int, int], ...]) -> Iterator[StoredFile]:
    for entry in entries:
        if _is_dir(entry):
            yield from _walk(entry.path, f"{below}{entry.name}/", within)
        else:
            yield StoredFile(path=f"{below}{entry.name}", size=_size_of(entry), place=entry.path)


def _is_dir(entry: os.DirEntry[str]) -> bool:
    """Also behind a link; a link that goes in a circle is no folder."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _size_of(entry: os.DirEntry[str]) -> int:
    """Its bytes. A link to nothing is listed too, and fails when it is read: it must not be missing without a word."""
    try:
        return entry.stat().st_size
    except OSError:
        return UNKNOWN_SIZE


def _local_archive(place: str, below: str) -> Iterator[StoredFile]:
    try:
        with _opened(place) as fd:
            members = read_directory(partial(_pread_all, fd), os.fstat(fd).st_size, place)
    except CatalogError:
        raise
    except OSError as e:
        raise CatalogError(f"Zip archive {place} cannot be read: {e.strerror or e}. Mend it or take it away.") from e
    yield from _stored(members, place, below)


def _stored(members: Iterable[Member], place: str, below: str) -> Iterator[StoredFile]:
    """The members that are not hidden, sorted."""
    seen = (m for m in members if not m.name.startswith(".") and "/." not in m.name)
    for member in sorted(seen, key=lambda m: m.name.split("/")):
        path = f"{below}{member.name}" if below else member.name
        yield StoredFile(path=path, size=member.size, place=place, member=member)


def _merged(streams: Sequence[Iterator[StoredFile]]) -> Iterator[StoredFile]:
    """All files in one order; of equal paths, those of the earlier stream first."""
    return streams[0] if len(streams) == 1 else heapq.merge(*streams, key=lambda file: file.path.split("/"))


def _without_repeats(files: Iterable[StoredFile]) -> Iterator[StoredFile]:
    """Each path once: the first, which is the plain one; archives that disagree are refused."""
    last: StoredFile | None = None
    for file in files:
        if last is None or file.path != last.path:
            yield file
            last = file
        elif last.member is not None and file.member is not None and _content(last.member) != _content(file.member):
            raise CatalogError(
                f"{file.path!r} is in {last.place} and, with other bytes, in {file.place}. Take away the archive that should not "
                "be there, or unpack the file that is meant: a plain file wins."
            )


def _content(member: Member) -> tuple[int, int]:
    return member.size, member.crc


# ---------------------------------------------------------------------------------------------------------- this machine's files


@contextlib.contextmanager
def _opened(place: str) -> Iterator[int]:
    """A file's descriptor; OSError for what is no file, without waiting for a pipe's writer."""
    fd = os.open(place.removeprefix("file://"), os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError("it is not a file")
        yield fd
    finally:
        os.close(fd)


def _pread(fd: int, start: int, n: int) -> bytes:
    """``n`` bytes, fewer where the file ends before."""
    found = os.pread(fd, n, start)
    while 0 < len(found) < n and (more := os.pread(fd, n - len(found), start + len(found))):
        found += more
    return found


def _pread_all(fd: int, start: int, stop: int) -> bytes:
    return _exactly(_pread(fd, start, stop - start), start, stop)


def _exactly(found: bytes, start: int, stop: int) -> bytes:
    if len(found) != stop - start:
        raise OSError(f"bytes {start} to {stop} were asked for and {len(found)} came: it was cut off, or changed since")
    return found
