"""convert: a corpus into a store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from eocube.corpora.protocol import Corpus
from eocube.errors import ArgumentError, CatalogError, UnknownNameError
from eocube.exec.drive import CubePlan, Progress, RunReport
from eocube.exec.executors import executing
from eocube.exec.region import Errors
from eocube.jobs.open import OpenedCorpus, one_or_many
from eocube.jobs.rebuild import delete_for_rebuild, refuse_retry_with_rebuild
from eocube.jobs.write import MAX_BYTES, WriteSettings, plan_node, run_plans
from eocube.model.recipe import Binding
from eocube.model.spec import Layout


def convert(
    corpus: OpenedCorpus | Corpus,
    store: str,
    *,
    sites: Sequence[str] | None = None,
    products: Sequence[str] | None = None,
    layout: Layout = "balanced",
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
        is older than the last one, or to take one out.
    layout, executor, errors, limit, retry, max_bytes, storage_options, on_done
        As in :func:`eocube.write_cube`.
    """
    rebuild = one_or_many(rebuild) or ()
    refuse_retry_with_rebuild(retry=retry, rebuild=rebuild)
    settings = WriteSettings(layout=layout, errors=errors, max_bytes=max_bytes, storage_options=dict(storage_options or {}))
    plans = plan_convert(corpus, store, sites=sites, products=products, settings=settings)
    with executing(executor) as running:  # before anything is deleted: an executor may not be there
        if rebuild:
            plans = iter(delete_for_rebuild(store, plans, rebuild, storage_options=storage_options))
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
    """What the root of a new store says of the corpus."""
    inner = _inner(corpus)
    return {
        "corpus": inner.name,
        "licenses": [inner.license] if inner.license else [],
        "attributions": list(inner.attributions),
    }


def plan_convert(
    corpus: OpenedCorpus | Corpus,
    store: str,
    *,
    sites: Sequence[str] | None = None,
    products: Sequence[str] | None = None,
    settings: WriteSettings | None = None,
) -> Iterator[CubePlan]:
    """A plan for each cube, made as it is drawn. UnknownNameError for sites or products that the corpus lacks."""
    inner, sites, products = _inner(corpus), one_or_many(sites), one_or_many(products)
    places = {s.name: s for s in inner.sites}
    if not places:
        raise CatalogError("The corpus has no site; there is nothing to convert.")
    for name in sites or ():
        if name not in places:
            raise UnknownNameError("site", name, sorted(places)[:20], "this corpus")
    known = sorted({p for s in places.values() for p in s.products})
    for name in products or ():
        if name not in known:
            raise UnknownNameError("product", name, known, "this corpus")
    return (
        _plan_one(inner, store, site, product, settings or WriteSettings())
        for site in dict.fromkeys(sites or sorted(places))
        for product in places[site].products
        if products is None or product in products
    )


def _plan_one(corpus: Corpus, store: str, site: str, product: str, settings: WriteSettings) -> CubePlan:
    source, node = corpus.source(site, product)
    licence = {"license": corpus.license, "attribution": "; ".join(corpus.attributions)}
    binding = Binding(sources={node["source"]: source})
    return plan_node(node, binding, store, site=site, product=product, settings=settings, licence=licence)
