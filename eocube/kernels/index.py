"""Arithmetic of spectral indices: a formula as text, evaluated on bands in float32."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping

import numpy as np

from eocube.errors import FormulaError, GridError, UnknownNameError
from eocube.kernels.arrays import AnyArray, Float32Array

MAX_CHARACTERS = 500
"""Longest formula: a limit on nesting too. The longest of the spyndex catalogue has 179 characters."""

_LARGEST = 10**38
"""Numbers in a formula stay below: float32 ends soon after."""

_MAX_POWER = 16
"""Whole powers up to this are products."""


def variables(formula: str) -> tuple[str, ...]:
    """Names in a formula, in the order in which they are first written.

    Parameters
    ----------
    formula
        As in :func:`evaluate`.

    Raises
    ------
    FormulaError
        If it is not such a formula.
    """
    names = [node for node in ast.walk(_parse(formula)) if isinstance(node, ast.Name)]
    return tuple(dict.fromkeys(name.id for name in sorted(names, key=lambda name: (name.lineno, name.col_offset))))


def evaluate(formula: str, values: Mapping[str, AnyArray | float]) -> Float32Array:
    """Compute a spectral index.

    Parameters
    ----------
    formula
        Numbers, names, parentheses and ``+ - * / **``, such as ``"(N-R)/(N+R)"``; nothing else, so that a formula from a
        recipe or a catalogue can do nothing but arithmetic.
    values
        Bands (arrays of one shape or shapes that broadcast, unitless reflectance, NaN without data) and parameters
        (numbers) by name. More than the formula names is fine.

    Returns
    -------
    float32 of the common shape, NaN where a band is NaN, where a divisor is zero, and where a root of a negative number is
    asked for. Every operation is rounded to float32: nothing is computed in float64 but powers that are neither whole numbers
    up to 16 nor 0.5, so that blocks give the bits of the whole.

    Raises
    ------
    FormulaError
        If the formula holds anything else or is longer than ``MAX_CHARACTERS``.
    UnknownNameError
        If ``values`` lacks a name.
    GridError
        If shapes do not fit.
    """
    tree = _parse(formula)
    arrays = {name: _value(name, values, formula) for name in variables(formula)}
    try:
        np.broadcast_shapes(*(array.shape for array in arrays.values()))
    except ValueError:
        found = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise GridError(f"Bands of formula {formula!r} have shapes that do not fit: {found}. Bring them onto one grid.") from None
    with np.errstate(all="ignore"):
        return np.asarray(_compute(tree, arrays), np.float32)


def _parse(formula: str) -> ast.expr:
    """The formula as a tree of nothing but arithmetic."""
    if len(formula) > MAX_CHARACTERS:
        raise FormulaError(formula, f"it has {len(formula)} characters, more than {MAX_CHARACTERS}")
    try:
        tree = ast.parse(formula.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise FormulaError(formula, f"it is not arithmetic ({error})") from None
    _check(tree, formula)
    return tree


def _check(node: ast.expr, formula: str) -> None:
    """Refuse every node that :func:`_compute` does not know."""
    match node:
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            _check(left, formula)
            _check(right, formula)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            _check(operand, formula)
        case ast.Name():
            pass
        case ast.Constant(value=int() | float() as number) if type(number) is not bool and abs(number) < _LARGEST:
            pass
        case _:
            raise FormulaError(formula, f"it holds {ast.unparse(node)!r}")


def _value(name: str, values: Mapping[str, AnyArray | float], formula: str) -> Float32Array:
    """A band or parameter in float32."""
    if name not in values:
        raise UnknownNameError("band or parameter", name, sorted(values), f"formula {formula!r}")
    return np.asarray(values[name], np.float32)


def _compute(node: ast.expr, arrays: Mapping[str, Float32Array]) -> Float32Array:
    """Value of a checked node."""
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            return _BINARY[type(op)](_compute(left, arrays), _compute(right, arrays))
        case ast.UnaryOp(op=op, operand=operand):
            value = _compute(operand, arrays)
            return np.negative(value) if isinstance(op, ast.USub) else value
        case ast.Name(id=name):
            return arrays[name]
        case ast.Constant(value=number):
            return np.asarray(number, np.float32)
        case _:
            raise AssertionError(node)


def _divide(a: Float32Array, b: Float32Array) -> Float32Array:
    """Quotient, NaN where ``b`` is zero."""
    return np.where(b == 0, np.float32(np.nan), np.divide(a, b))


def _power(base: Float32Array, exponent: Float32Array) -> Float32Array:
    """Power, NaN where the base is, where it is negative and the exponent not whole, or zero and the exponent negative."""
    if exponent.ndim == 0 and exponent == 0.5:
        return np.sqrt(base)
    if exponent.ndim == 0 and float(exponent).is_integer() and abs(exponent) <= _MAX_POWER:
        product = np.where(np.isnan(base), base, np.float32(1))
        for _ in range(abs(int(exponent))):
            product = np.multiply(product, base)
        return product if exponent >= 0 else _divide(np.ones_like(product), product)
    # Rounded once from float64 the result does not hang on whose power function runs; NumPy's own in float32 was one bit off in
    # a sixth of random inputs.
    power = np.power(base.astype(np.float64), exponent.astype(np.float64)).astype(np.float32)
    undefined = np.isnan(base) | np.isnan(exponent) | ((base == 0) & (exponent < 0))
    return np.where(undefined, np.float32(np.nan), power)


_BINARY: Mapping[type[ast.operator], Callable[[Float32Array, Float32Array], Float32Array]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: _divide,
    ast.Pow: _power,
}
