"""A worker loads a network once, however many tasks and threads ask for it."""

from __future__ import annotations

import pickle
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from distributed import Client, LocalCluster

from eocube.errors import ModelError, UnknownNameError
from eocube.infer.load import ModelHolder, ModelSpec, dask_host, holder_in
from eocube.testing.models import NearestModel

loads: list[str] = []


def load_counted(name="x", seconds=0.0):
    loads.append(name)
    time.sleep(seconds)
    return NearestModel(2)


def load_at_the_second_try():
    loads.append("try")
    if len(loads) == 1:
        raise OSError("weights are not there yet")
    return NearestModel(2)


@pytest.fixture(autouse=True)
def _no_loads_yet():
    loads.clear()


def counted(name="x", **kwargs):
    return ModelSpec.of(f"{__name__}:load_counted", name=name, **kwargs)


def test_this_file_is_importable_by_the_name_its_loaders_have():
    assert sys.modules[__name__].load_counted is load_counted


def test_a_spec_loads_what_its_loader_gives_with_its_arguments():
    model = ModelSpec.of("eocube.testing.models:NearestModel", scale="10/3", bands=["red"]).load()
    assert (model.scale, model.bands_in) == (NearestModel("10/3").scale, ("red",))


def test_specs_are_equal_by_value_and_survive_pickling():
    one, two = ModelSpec.of("m:f", a=1, b=[2]), ModelSpec.of("m:f", b=[2], a=1)
    assert one == two == pickle.loads(pickle.dumps(one))
    assert hash(one) == hash(two)
    assert one.digest == two.digest


@pytest.mark.parametrize(
    "other", [ModelSpec.of("m:g", a=1), ModelSpec.of("m:f", a=2), ModelSpec.of("m:f", a=1, model_id="w"), ModelSpec.of("m:f")]
)
def test_whatever_decides_the_model_changes_the_digest(other):
    assert ModelSpec.of("m:f", a=1).digest != other.digest


def test_arguments_that_are_not_json_are_refused_when_the_spec_is_made():
    with pytest.raises(TypeError, match="JSON"):
        ModelSpec.of("m:f", a=object())


@pytest.mark.parametrize("loader", ["eocube.testing.models", ":f", "m:"])
def test_a_loader_that_names_no_function_is_refused(loader):
    with pytest.raises(UnknownNameError, match="module:function"):
        ModelSpec.of(loader).load()


def test_an_unknown_loader_is_refused_with_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"NearestModell.*known: .*'NearestModel'"):
        ModelSpec.of("eocube.testing.models:NearestModell").load()


def test_exchanged_weights_are_noticed():
    expected = NearestModel(2).model_id
    assert ModelSpec.of(f"{__name__}:load_counted", model_id=expected).load().model_id == expected
    with pytest.raises(ModelError, match=f"planned as model abc and is now {expected}"):
        ModelSpec.of(f"{__name__}:load_counted", model_id="abc").load()


def test_a_holder_loads_once_for_many_threads():
    holder = ModelHolder()
    barrier = Barrier(8)

    def ask(_):
        barrier.wait()
        return holder.get(counted(seconds=0.05))

    with ThreadPoolExecutor(8) as pool:
        models = list(pool.map(ask, range(8)))
    assert loads == ["x"]
    assert len({id(model) for model in models}) == 1


def test_two_models_load_at_the_same_time():
    """A slow load must not hold up a task with another model: each load waits for the other to have begun."""
    holder = ModelHolder()
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(holder.get, counted(name, seconds=0.1)) for name in "ab"]
        start = time.perf_counter()
        while len(loads) < 2 and time.perf_counter() - start < 5:
            time.sleep(0.001)
        assert sorted(loads) == ["a", "b"]
        assert not any(future.done() for future in futures)


def test_a_load_that_failed_is_tried_again():
    holder = ModelHolder()
    spec = ModelSpec.of(f"{__name__}:load_at_the_second_try")
    with pytest.raises(OSError, match="not there yet"):
        holder.get(spec)
    assert holder.get(spec) is holder.get(spec)
    assert loads == ["try", "try"]


def test_the_model_unused_for_longest_is_let_go_first():
    holder = ModelHolder(max_models=2)
    for name in "abaca":  # c pushes b out, not a
        holder.get(counted(name))
    assert loads == ["a", "b", "c"]
    holder.get(counted("b"))
    assert loads == ["a", "b", "c", "b"]


def test_a_holder_lives_in_its_host_and_nowhere_else():
    one, two = {}, {}
    assert holder_in(one) is holder_in(one)
    assert holder_in(one) is not holder_in(two)


def pool_task(number, spec):
    model = holder_in(dask_host()).get(spec)
    return id(model)


@pytest.mark.timeout(60)
def test_many_tasks_on_one_dask_worker_load_once_and_two_workers_load_twice():
    settings = {"processes": False, "threads_per_worker": 2, "dashboard_address": None}
    with LocalCluster(n_workers=2, **settings) as cluster, Client(cluster) as client:
        first, second = client.scheduler_info(n_workers=-1)["workers"]
        for n_loads, worker in ((1, first), (2, second)):
            ids = client.gather(client.map(pool_task, range(20), spec=counted(), workers=[worker], pure=False))
            assert len(loads) == n_loads
            assert len(set(ids)) == 1
        client.gather(client.map(pool_task, range(20), spec=counted(), pure=False))
        assert len(loads) == 2


def test_outside_a_dask_task_there_is_no_dask_host():
    with pytest.raises(ValueError, match="worker"):
        dask_host()
