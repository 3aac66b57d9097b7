"""Decision 0003: resources on array layers are lost when the graph is optimised; resources on submitted tasks are not."""

from __future__ import annotations

from collections.abc import Iterator

import dask.array as da
import numpy as np
import pytest
from dask.base import annotate, optimize
from distributed import Client, Scheduler, SpecCluster, Worker, get_worker

N_BLOCKS = 64


def on_gpu_worker(_: object = None) -> bool:
    return "GPU" in get_worker().state.total_resources


def annotated_blocks() -> da.Array:
    """An array whose every block says whether it was computed on the GPU worker, annotated to be."""
    plain = da.zeros(N_BLOCKS, chunks=1)
    with annotate(resources={"GPU": 1}):
        return plain.map_blocks(lambda block: np.full(block.shape, on_gpu_worker()), dtype=bool)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A cluster in this process: one worker that carries CPU, one that carries GPU."""

    def worker(name: str) -> dict[str, object]:
        options = {"nthreads": 1, "resources": {name: 1}, "dashboard_address": None, "silence_logs": 40}
        return {"cls": Worker, "options": options}

    scheduler = {"cls": Scheduler, "options": {"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}}
    with (
        SpecCluster({n: worker(n) for n in ("CPU", "GPU")}, scheduler=scheduler, silence_logs=40) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.wait_for_workers(2, timeout=60)
        yield client


def test_optimisation_drops_the_annotation() -> None:
    annotated = annotated_blocks()
    assert {"resources": {"GPU": 1}} in [layer.annotations for layer in annotated.dask.layers.values()]
    (optimised,) = optimize(annotated)
    assert not any(layer.annotations for layer in optimised.dask.layers.values())


def test_annotated_blocks_also_run_on_the_cpu_worker(client: Client) -> None:
    blocks = client.compute(annotated_blocks()).result(timeout=60)
    assert 0 < blocks.sum() < N_BLOCKS


def test_without_optimisation_the_annotation_is_kept(client: Client) -> None:
    blocks = client.compute(annotated_blocks(), optimize_graph=False).result(timeout=60)
    assert blocks.all()


def test_submitted_tasks_run_only_where_their_resource_is(client: Client) -> None:
    futures = client.map(on_gpu_worker, range(N_BLOCKS), resources={"GPU": 1}, pure=False)
    assert all(client.gather(futures))


def test_unlabelled_tasks_drift_onto_the_gpu_worker(client: Client) -> None:
    futures = client.map(on_gpu_worker, range(N_BLOCKS), pure=False)
    assert any(client.gather(futures))
