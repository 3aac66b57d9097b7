"""Spectral index formulas, against spyndex and numbers worked by hand."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import spyndex

from eocube.errors import EocubeError, FormulaError, GridError, UnknownNameError
from eocube.kernels.index import MAX_CHARACTERS, evaluate, variables

NDVI = "(N-R)/(N+R)"


def bands(*names, shape=(20, 30), seed=0):
    """Reflectance-like float32 bands."""
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(0.02, 0.6, shape).astype("float32") for name in names}


def test_ndvi_by_hand():
    out = evaluate(NDVI, {"N": np.array([0.5, 0.25, -0.5], "float32"), "R": np.array([0.25, 0.25, 0.25], "float32")})
    assert out.dtype == np.float32
    assert out.tolist() == [np.float32(1 / 3), 0.0, 3.0]


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("N - R - G", 8 - 2 - 4),
        ("N / R / G", 1),
        ("N - R * G", 0),
        ("2 ** R ** 3", 256),
        ("-R ** 2", -4),
        ("(-R) ** 2", 4),
        ("+N", 8),
        ("N ** -1", 0.125),
        ("N ** 0", 1),
        ("G ** 0.5", 2),
        ("N ** (1 / 3)", 2),
        ("R ** R", 4),
        ("1e-3 * N", np.float32(0.001) * np.float32(8)),
        ("\n(N\n+R)\n", 10),
    ],
)
def test_operators_bind_as_in_python(formula, value):
    out = evaluate(
        formula, {"N": np.full((1, 2), 8, "float32"), "R": np.full((1, 2), 2, "float32"), "G": np.full((1, 2), 4, "float32")}
    )
    assert out.tolist() == [[value, value]]


@pytest.mark.parametrize(
    "name", ["NDVI", "EVI", "NDWI", "MNDWI", "SAVI", "NBR", "GEMI", "MSAVI", "NDSI", "NDVIMNDWI", "OSAVI", "NDMI"]
)
def test_well_known_indices_equal_spyndex(name):
    index = spyndex.indices[name]
    defaults = {k: v.default for k, v in spyndex.constants.items() if v.default is not None}
    values = {k: defaults.get(k, v) for k, v in bands(*index.bands).items()}
    expected = spyndex.computeIndex(name, params={k: np.asarray(v, "float64") for k, v in values.items()})
    assert np.allclose(evaluate(index.formula, values), expected, rtol=1e-4, atol=1e-5)


def test_every_formula_of_the_catalogue_equals_float64_arithmetic():
    """All formulas of spyndex, on bands where no divisor comes near zero; compared where float32 can tell."""
    compared = 0
    for index in spyndex.indices.values():
        values = bands(*index.bands, seed=len(index.formula))
        with np.errstate(all="ignore"):
            expected = eval(index.formula, {k: v.astype("float64") for k, v in values.items()})  # noqa: S307
        out = evaluate(index.formula, values)
        assert sorted(variables(index.formula)) == sorted(index.bands)
        assert out.dtype == np.float32
        error = np.abs(out - expected) / (1 + np.abs(expected))
        assert np.array_equal(np.isnan(out), np.isnan(expected)), index.short_name
        assert np.nanquantile(error, 0.95) < 1e-4, index.short_name
        compared += 1
    assert compared > 200


@pytest.mark.parametrize("formula", [NDVI, "N/R", "(N-R)**2 + 0.1", "N**0.5", "N**1.16", "2.5*N - 1/3"])
def test_nothing_is_computed_in_float64(formula):
    """The same operations in float32, one by one."""
    values = bands("N", "R")
    n, r, f = values["N"], values["R"], np.float32
    expected = {
        NDVI: (n - r) / (n + r),
        "N/R": n / r,
        "(N-R)**2 + 0.1": (n - r) * (n - r) + f(0.1),
        "N**0.5": np.sqrt(n),
        "N**1.16": (n.astype("float64") ** float(f(1.16))).astype("float32"),
        "2.5*N - 1/3": f(2.5) * n - f(1) / f(3),
    }[formula]
    assert expected.dtype == np.float32
    assert evaluate(formula, values).tobytes() == expected.tobytes()


@pytest.mark.parametrize("formula", [NDVI, "(N-R)/0", "N/(R-R)", "1/0*N", "(R-R)**-1", "(R-R)**-0.5", "0**-1 * N"])
def test_a_zero_divisor_is_nan_without_a_warning(formula):
    n, r = np.zeros((2, 2), "float32"), np.zeros((2, 2), "float32")
    assert np.isnan(evaluate(formula, {"N": n, "R": r})).all()


def test_a_root_of_a_negative_number_is_nan():
    values = {"N": np.array([-1.0], "float32")}
    assert np.isnan(evaluate("N**0.5", values)).all()
    assert np.isnan(evaluate("N**0.3", values)).all()


@pytest.mark.parametrize("formula", [NDVI, "N**0 + R", "N**2*0", "R**N", "2**N", "1**N"])
def test_nan_stays_nan(formula):
    n = np.array([np.nan, 0.5], "float32")
    out = evaluate(formula, {"N": n, "R": np.array([1.0, 0.25], "float32")})
    assert np.isnan(out).tolist() == [True, False]


def test_parameters_are_numbers_beside_bands():
    values = bands("N", "R")
    assert np.array_equal(evaluate("(1.0+L)*(N-R)/(N+R+L)", {**values, "L": 0.5}), evaluate("(1.0+0.5)*(N-R)/(N+R+0.5)", values))


def test_bands_the_formula_does_not_name_are_ignored():
    values = bands("N", "R")
    assert np.array_equal(evaluate(NDVI, {**values, "G": np.zeros(3)}), evaluate(NDVI, values))


def test_digital_numbers_are_not_wrapped():
    out = evaluate(NDVI, {"N": np.array([1000], "uint16"), "R": np.array([3000], "uint16")})
    assert out.tolist() == [-0.5]


def test_formulas_without_bands_are_numbers():
    assert evaluate("1 + 0.5", {}).item() == 1.5
    assert evaluate("N - 1", {"N": 3.0}).shape == ()


def test_a_window_gives_the_bits_of_the_whole():
    values = bands("N", "R", "B", shape=(2, 40, 50))
    for formula in ("2.5*(N-R)/(N+6.0*R-7.5*B+1)", "(N/B)*(R/B)**1.16", "B**(1/2.71828)"):
        whole = evaluate(formula, values)[:, 7:30:2, 3:44]
        part = evaluate(formula, {k: v[:, 7:30:2, 3:44] for k, v in values.items()})
        assert np.ascontiguousarray(part).tobytes() == np.ascontiguousarray(whole).tobytes()


@pytest.mark.parametrize("shape", [(0,), (0, 3), (1, 1)])
def test_shapes_are_kept(shape):
    assert evaluate(NDVI, bands("N", "R", shape=shape)).shape == shape


def test_one_date_broadcasts_to_many():
    assert evaluate("N-R", {"N": np.ones((4, 2, 3)), "R": np.ones((1, 2, 3))}).shape == (4, 2, 3)


def test_inputs_are_left_alone():
    values = bands("N", "R")
    before = {k: v.copy() for k, v in values.items()}
    out = evaluate("+N", values)
    evaluate(NDVI, values)
    assert all(np.array_equal(values[k], before[k]) for k in before)
    assert np.array_equal(out, values["N"])


def test_variables_come_in_the_order_of_writing():
    assert variables("g*(N-R)/(N+C1*R-C2*B+L)") == ("g", "N", "R", "C1", "C2", "B", "L")
    assert variables("1+2") == ()


@pytest.mark.parametrize(
    "formula",
    [
        "__import__('os').system('true')",
        "N.__class__",
        "N[0]",
        "sqrt(N)",
        "(lambda: N)()",
        "[N for N in R]",
        "N if R else G",
        "N and R",
        "N > R",
        "N @ R",
        "N // R",
        "N % R",
        "~N",
        "not N",
        "N := R",
        "N, R",
        "'N'",
        "True + N",
        "None",
        "1j*N",
        "1e400*N",
        "f'{N}'",
        "...",
        "import os",
        "N = R",
        "N +",
        "(N",
        "",
        "N\0",
        "N; R",
        "N*R" * 1000,
        "(" * 400,
        "9" * 400 + "*N",
    ],
)
def test_anything_but_arithmetic_is_refused(formula):
    values = bands("N", "R", "G")
    with pytest.raises(FormulaError, match=r"arithmetic|holds|characters") as caught:
        evaluate(formula, values)
    assert caught.value.formula == formula
    with pytest.raises(FormulaError):
        variables(formula)


@pytest.mark.parametrize(
    "formula", ["-" * (MAX_CHARACTERS - 1) + "N", "+".join("N" * (MAX_CHARACTERS // 2)), "(" * 99 + "N" + ")" * 99]
)
def test_the_deepest_formulas_are_computed(formula):
    assert evaluate(formula, {"N": np.ones(1, "float32")}).item() in {-1, MAX_CHARACTERS // 2, 1}


def test_a_missing_band_is_named_with_what_there_is():
    with pytest.raises(UnknownNameError, match=r"'R'.*'B', 'N'") as caught:
        evaluate(NDVI, bands("N", "B"))
    assert caught.value.name == "R"


def test_bands_that_do_not_fit_are_refused():
    with pytest.raises(GridError, match=r"N \(2, 3\), R \(3, 2\)"):
        evaluate(NDVI, {"N": np.ones((2, 3)), "R": np.ones((3, 2))})


def test_the_error_travels_between_processes():
    error = pickle.loads(pickle.dumps(FormulaError("N @ R", "it holds 'N @ R'")))
    assert issubclass(FormulaError, EocubeError)
    assert issubclass(FormulaError, ValueError)
    assert (error.formula, error.reason) == ("N @ R", "it holds 'N @ R'")
