"""Files of this machine: what goes wrong with them, and a nameless one for what a task cannot hold in memory."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

from eocube.errors import StoreWriteError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_ALLOWED = {errno.EROFS, errno.EACCES, errno.EPERM}


class Scratch:
    """A file without a name in a folder: gone when it is closed, also by the end of its process."""

    def __init__(self, folder: str):
        self._folder, self._end = folder, 0
        path = f"{folder}/{uuid.uuid4().hex}"
        try:
            self._file = in_folder(path, partial(open, path, "x+b", buffering=0))
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
        require_all(f"A chunk that was laid by in a file below {self._folder}", len(body), n_bytes)
        return body

    def close(self) -> None:
        """Nothing is left of it."""
        self._file.close()

    def _error(self, error: OSError) -> StoreWriteError:
        return unwritten(f"Encoded pixels could not be laid by in a file below {self._folder}", error)


def in_folder(path: str, act: Callable[[], Any]) -> Any:
    """``act``, which makes ``path``; once more with the folder made where that is missing. Nearly always it is there."""
    try:
        return act()
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
        return act()


def unwritten(what: str, error: OSError) -> StoreWriteError:
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


def require_all(what: str, found: int, n_bytes: int) -> None:
    """Refuse to put an object that is not what its index and marker say."""
    if found != n_bytes:
        raise StoreWriteError(
            f"{what} came as {found} bytes and not as {n_bytes}: nothing was put. Check the disk, then run the same command "
            "again; finished regions are kept."
        )
