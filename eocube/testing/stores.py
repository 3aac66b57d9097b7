"""Looking at stores from outside: digests of a folder, index rows, a server that counts requests; and plans of tiny cubes."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from eocube.exec.drive import CubePlan
from eocube.exec.executors import Executor, Resource
from eocube.io.blobs import open_blobs
from eocube.io.index import read_index
from eocube.io.template import cube_template
from eocube.model.licences import of_cubes
from eocube.model.recipe import public_json
from eocube.model.spec import settings_id


def tree(folder: Path | str) -> dict[str, str]:
    """Every file below ``folder``: relative path → SHA-256 of its bytes. Empty where there is no folder."""
    top = Path(folder)
    return {
        p.relative_to(top).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(top.rglob("*")) if p.is_file()
    }


def cubes_of(store: Path | str) -> dict[str, str]:
    """The :func:`tree` of a store's ``cubes``: what must not depend on how, where or in how many runs it was written."""
    return tree(Path(store) / "cubes")


def index_rows(store: Path | str) -> list[dict[str, Any]]:
    """Rows of a store's compacted index, sorted by site and product."""
    rows: list[dict[str, Any]] = read_index(open_blobs(str(store))).to_pylist()
    return sorted(rows, key=lambda r: (r["site"], r["product"]))


def markers_of(store: Path | str) -> dict[str, str]:
    """The :func:`tree` of a store's markers."""
    return tree(Path(store) / "markers")


def same_store(a: Path | str, b: Path | str) -> bool:
    """Whether two stores hold the same cubes, byte for byte, the same markers and the same index rows."""
    return cubes_of(a) == cubes_of(b) and markers_of(a) == markers_of(b) and index_rows(a) == index_rows(b)


def _no_fault(_: int) -> None:
    """Every request is answered."""


@dataclass
class CountingServer:
    """A folder served over HTTP with ranges, and a log of what was asked for."""

    url: str
    fault: Callable[[int], int | None] = _no_fault
    """Number of a request, from 0 → the HTTP status it fails with, or None."""

    requests: list[tuple[str, str]] = field(default_factory=list)
    """(method, path) of every request, in order; a path that ends in ``/`` would be a listing, and is answered 404."""

    bytes_sent: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def clear(self) -> None:
        """Forget what was asked so far."""
        with self.lock:
            self.requests.clear()
            self.bytes_sent = 0

    @property
    def paths(self) -> list[str]:
        """Paths that were asked for, in order."""
        return [path for _, path in self.requests]

    @property
    def listings(self) -> list[str]:
        """Requests that look like a listing: a folder, or a query."""
        return [path for path in self.paths if path.endswith("/") or "?" in path]


class _Handler(BaseHTTPRequestHandler):
    """Answers from ``root``; :func:`counting_server` makes a class of it with the two attributes."""

    root: ClassVar[Path]
    counted: ClassVar[CountingServer]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """See http.server."""
        self._answer(body=True)

    def do_HEAD(self) -> None:
        """See http.server."""
        self._answer(body=False)

    def do_PUT(self) -> None:
        """Refuse: it serves only."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._send(405, {}, b"")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _answer(self, *, body: bool) -> None:
        with self.counted.lock:
            self.counted.requests.append((self.command, self.path))
            status = self.counted.fault(len(self.counted.requests) - 1)
        path = (self.root / unquote(urlsplit(self.path).path).lstrip("/")).resolve()
        if status is None and (self.root not in path.parents or not path.is_file() or "?" in self.path):
            status = 404
        if status is not None:
            self._send(status, {}, b"")
            return
        content, asked = path.read_bytes(), self.headers.get("Range")
        headers = {"Accept-Ranges": "bytes", "ETag": f'"{hashlib.sha256(content).hexdigest()[:16]}"'}
        status, start, stop = 200, 0, len(content)
        if asked:
            status, (start, stop) = 206, _range(asked, len(content))
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        self._send(status, headers, content[start:stop], body=body)

    def _send(self, status: int, headers: dict[str, str], content: bytes, *, body: bool = True) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        if body:
            self.wfile.write(content)
            with self.counted.lock:
                self.counted.bytes_sent += len(content)


@contextmanager
def counting_server(folder: Path | str, *, fault: Callable[[int], int | None] | None = None) -> Iterator[CountingServer]:
    """Serve ``folder`` on a free port of this machine; knows GET, HEAD and single byte ranges, and lists nothing.

    ``fault`` turns the number of a request, from 0, into the HTTP status it fails with, or None.
    """
    counted = CountingServer("", fault or _no_fault)
    handler = type("Handler", (_Handler,), {"root": Path(folder).resolve(), "counted": counted})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    counted.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield counted
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _range(header: str, size: int) -> tuple[int, int]:
    """``bytes=a-b``, ``bytes=a-`` or ``bytes=-n`` as a half-open range."""
    first, _, last = header.removeprefix("bytes=").partition("-")
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


# ------------------------------------------------------------------------------------------------ plans of small cubes


def cut_plan(plan: CubePlan, *, chunk_tyx: tuple[int, int, int], shard_tyx: tuple[int, int, int], cell_px: int = 4) -> CubePlan:
    """The same cube cut into small shards, so that a tiny one has many regions."""
    spec = replace(plan.job.spec, chunk_tyx=chunk_tyx, shard_tyx=shard_tyx, cell_px=cell_px)
    recipe = public_json(plan.job.node)
    sid = settings_id(recipe, spec)
    cube, product = plan.job.cube, plan.job.product
    template = cube_template(spec, cube=cube, product=product, recipe=recipe, sid=sid, licence=of_cubes([plan.meta.attrs]))
    return replace(plan, job=replace(plan.job, spec=spec, sid=sid), meta=replace(plan.meta, template=template))


class ShuffledExecutor:
    """Runs tasks in another order than they were drawn in, a handful at a time."""

    def __init__(self, seed: int = 0, *, handful: int = 7):
        self._random, self._handful = random.Random(seed), handful  # noqa: S311 - no secret

    def share(self, value: Any, *, resource: Resource = "CPU") -> Any:
        """See :class:`eocube.exec.executors.Executor`."""
        return value

    def run(
        self, func: Callable[[Any, Any], Any], tasks: Iterable[tuple[Any, Any]], *, resource: Resource = "CPU"
    ) -> Iterator[Any]:
        """See :class:`eocube.exec.executors.Executor`."""
        waiting = iter(tasks)
        while drawn := list(islice(waiting, self._handful)):
            self._random.shuffle(drawn)
            for shared, task in drawn:
                yield func(shared, task)

    def close(self) -> None:
        """See :class:`eocube.exec.executors.Executor`."""


_: type[Executor] = ShuffledExecutor


# ------------------------------------------------------------------------------------------------ a store in which runs die


class ProcessDiedError(BaseException):
    """Stands for SIGKILL: no ``except Exception`` may outlive it."""


class MortalFileSystem(MemoryFileSystem):
    """``mortal://``: a file system in memory in which, after a given number of writes and deletes, every further one kills."""

    protocol = "mortal"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    writes_left: ClassVar[int | None] = None
    """Writes and deletes until death; None: immortal."""

    writes: ClassVar[int] = 0
    """Writes and deletes since :meth:`begin`."""

    @classmethod
    def begin(cls, content: dict[str, bytes] | None = None, *, writes_left: int | None = None) -> None:
        """Start with this content and so many writes to live."""
        cls.store.clear()
        cls.pseudo_dirs[:] = [""]
        cls.writes_left, cls.writes = None, 0
        fs = cls()
        for path, body in (content or {}).items():
            fs.pipe_file(path, body)
        cls.writes_left, cls.writes = writes_left, 0

    @classmethod
    def content(cls) -> dict[str, bytes]:
        """Every object: path → bytes."""
        return {path: file.getvalue() for path, file in cls.store.items()}

    @classmethod
    def _live(cls) -> None:
        if cls.writes_left is not None and cls.writes >= cls.writes_left:
            raise ProcessDiedError
        cls.writes += 1

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        """As in memory, or death."""
        self._live()
        super().pipe_file(path, value, mode=mode, **kwargs)

    def rm_file(self, path: str) -> None:
        """As in memory, or death."""
        self._live()
        super()._rm(path)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return f"/{path.removeprefix('mortal://').strip('/')}".rstrip("/")


def register_mortal() -> None:
    """Make ``mortal://`` known to fsspec."""
    fsspec.register_implementation("mortal", MortalFileSystem, clobber=True)
