from __future__ import annotations

import copy
import pickle

import pytest

from eocube import errors

EXAMPLES = [
    errors.MissingDependencyError("Reading", "rasterio", "build"),
    errors.UnknownNameError("band", "rad", ["red", "nir"], "this cube"),
    errors.SettingsError("Cube 'a/10m'", {"bands": ("red", "red, nir")}),
    errors.LateDateError("a/10m", "2020-01-01", "2021-01-01"),
    errors.AssetReadError("a.tif", "item", "B04", "no such file"),
    errors.StoreNotFoundError("nowhere"),
    errors.StoreWriteError("could not be written"),
    errors.GridError("two grids"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy], ids=["pickle", "copy"])
def test_an_error_comes_back_from_a_worker_with_message_values_and_notes(error, again) -> None:
    error.add_note("While reading 'x'.")

    back = again(error)

    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)
    assert back.__notes__[-1] == "While reading 'x'."


def test_every_error_is_a_stdlib_error_too() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.EocubeError)]
    plain = [
        c.__name__ for c in classes if c is not errors.EocubeError and len(c.__mro__) <= errors.EocubeError.__mro__.__len__() + 1
    ]

    assert plain == []


def test_a_reason_that_ends_in_a_full_stop_gets_no_second() -> None:
    assert ": not a supported file format. Mend" in str(errors.AssetReadError("a", "b", "c", "not a supported file format."))
