"""convert: a corpus into a store."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from eocube.corpora.protocol import Corpus, LicensedProducts, Noted, TiledCorpus
from eocube.errors import ArgumentError, CatalogError, EocubeError, UnknownNameError
from eocube.exec.drive import CubePlan, Progress, RunReport
from eocube.exec.executors import executing
from eocube.exec.region import Errors
from eocube.jobs.open import OpenedCorpus, licence_of, one_or_many, some_or_all
from eocube.jobs.rebuild import delete_for_rebuild, rebuilding, refuse_retry_with_rebuild
from eocube.jobs.roots import address
from eocube.jobs.write import MAX_BYTES, WriteSettings, plan_node, require_limit, run_plans
from eocube.model.licences import merged
from eocube.model.recipe import Binding, Node, Sited, Source
from eocube.model.scene import Site
from eocube.model.spec import Layout


def convert(
    corpus: OpenedCorpus | Corpus,
    store: str,
    *,
    sites: Sequence[str] | None = None,
    products: Sequence[str] | None = None,
    layout: Layout | None = None,
    executor: Any = None,
    errors: Errors = "raise",
    limit: int | None = None,
    retry: bool = False,
    max_bytes: int = MAX_BYTES,
    rebuild: Sequence[str] = (),
    storage_options: Mapping[str, Any] | None = None,
    on_done: Progress | None = None,
) -> RunReport:
    """Write a corpus's cubes into a store, one cube for each site and product; run again after anything, and it goes on.

    Parameters
    ----------
    corpus
        As :func:`eocube.open_corpus` gives it.
    sites, products
        Only those; None: all.
    rebuild
        Cubes (``site`` or ``site/product``) to delete first, with their markers, and to write anew: the way to put in a date that
        is older than the last one, or to take one out. The same call again would delete what it wrote of them: leave it out to go
        on.
    layout, executor, errors, limit, retry, max_bytes, storage_options, on_done
        As in :func:`eocube.write_cube`, as are the errors.
    """
    rebuild, store = one_or_many(rebuild) or (), address("store", store)
    require_limit(limit)
    refuse_retry_with_rebuild(retry=retry, rebuild=rebuild)
    settings = WriteSettings(layout=layout, errors=errors, max_bytes=max_bytes, storage_options=dict(storage_options or {}))
    plans = plan_convert(corpus, store, sites=sites, products=products, settings=settings)
    with executing(executor) as running:  # before anything is deleted: an executor may not be there
        if rebuild:
            plans = iter(delete_for_rebuild(store, plans, rebuild, storage_options=storage_options))
        with rebuilding(rebuild):
            return run_plans(
                store,
                plans,
                executor=running,
                limit=limit,
                retry=retry,
                storage_options=storage_options,
                store_attrs=store_attrs(corpus),
                on_done=on_done,
            )


def _inner(corpus: OpenedCorpus | Corpus) -> Corpus:
    """The corpus itself; ArgumentError for something else, a path for one."""
    inner = corpus.corpus if isinstance(corpus, OpenedCorpus) else corpus
    if not hasattr(inner, "sites") or not hasattr(inner, "source"):
        raise ArgumentError(
            f"convert takes a corpus and was given {type(corpus).__name__} {str(corpus)[:80]!r}. Open it first: "
            "eocube.convert(eocube.open_corpus('stac', catalogue), store)."
        )
    return inner


def store_attrs(corpus: OpenedCorpus | Corpus) -> dict[str, object]:
    """What the root of a new store says of the corpus: every licence of its products by itself."""
    inner = _inner(corpus)
    stated: list[str | None] = [inner.license]
    if isinstance(inner, LicensedProducts):
        stated = [inner.licence(p)[0] for p in OpenedCorpus(inner).products]
    return {"corpus": inner.name, "licenses": merged((), stated), "attributions": list(inner.attributions)}


def notes_of(corpus: OpenedCorpus | Corpus) -> dict[str, list[str]]:
    """What is odd about a copy of a corpus and ends nothing: kind → sentences. After a run there may be more of it."""
    inner = _inner(corpus)
    kinds: dict[str, list[str]] = {}
    try:
        for text in map(str, inner.file_notes if isinstance(inner, Noted) else ()):
            kinds.setdefault(text.partition(":")[0], []).append(text)
    except EocubeError as e:  # a table that a run did not need
        kinds["error"] = [str(e)]
    return kinds


def plan_convert(
    corpus: OpenedCorpus | Corpus,
    store: str,
    *,
    sites: Sequence[str] | None = None,
    products: Sequence[str] | None = None,
    settings: WriteSettings | None = None,
) -> Iterator[CubePlan]:
    """A plan for each cube, made as it is drawn.

    UnknownNameError for sites or products that the corpus lacks, ArgumentError for an empty list of them.
    """
    inner, sites, products = _inner(corpus), some_or_all("sites", sites), some_or_all("products", products)
    settings = settings or WriteSettings()
    if isinstance(inner, TiledCorpus):
        return _plan_tiles(inner, store, sites, products, settings)
    return _plan_sites(inner, store, sites, products, settings)


def _plan_sites(
    corpus: Corpus, store: str, sites: list[str] | None, products: list[str] | None, settings: WriteSettings
) -> Iterator[CubePlan]:
    """A cube a site and product."""
    places = {s.name: s for s in corpus.sites}
    if not places:
        raise CatalogError("The corpus has no site; there is nothing to convert.")
    _require_known("site", sites, sorted(places))
    _require_known("product", products, sorted({p for s in places.values() for p in s.products}))

    def plan(site: Site, product: str) -> CubePlan:
        labels = {k: v for k, v in (("split", site.split), ("group", site.group)) if v is not None}
        return _plan_one(corpus, store, corpus.source(site.name, product), (site.name, site.cube, product), labels, settings)

    return (
        plan(places[name], product)
        for name in dict.fromkeys(sites or sorted(places))
        for product in places[name].products
        if products is None or product in products
    )


def _plan_tiles(
    corpus: TiledCorpus, store: str, sites: list[str] | None, products: list[str] | None, settings: WriteSettings
) -> Iterator[CubePlan]:
    """A cube a tile and product, with the sites in it that have the product."""
    if sites is not None:
        _require_known("site", sites, {s for _, names in corpus.tiles() for s in names})
    _require_known("product", products, corpus.products)
    for cube, names in corpus.tiles(sites):
        for product in corpus.products if products is None else products:
            found = corpus.tile_source(cube, names, product)
            if not isinstance(found[0], Sited) or found[0].places:
                yield _plan_one(corpus, store, found, (cube, cube, product), corpus.labels(cube), settings)


def _require_known(kind: str, names: Iterable[str] | None, known: Collection[str]) -> None:
    for name in names or ():
        if name not in known:
            raise UnknownNameError(kind, name, sorted(known)[:20], "this corpus")


def _plan_one(
    corpus: Corpus,
    store: str,
    found: tuple[Source, Node],
    named: tuple[str, str, str],
    labels: Mapping[str, str],
    settings: WriteSettings,
) -> CubePlan:
    """The plan of one source; ``named``: site, cube (empty: as the site), product."""
    (source, node), (site, cube, product) = found, named
    return plan_node(
        node,
        Binding(sources={node["source"]: source}),
        store,
        site=site,
        product=product,
        settings=settings,
        licence=licence_of(corpus, product),
        name=cube or site,
        labels=labels,
    )
