"""Between stored digital numbers and reflectance."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from eocube.errors import RadiometryError
from eocube.kernels.arrays import AnyArray, Float32Array, nodata_of
from eocube.kernels.masking import valid_of


def dn_to_reflectance(dn: AnyArray, *, scale: float, offset: float, nodata: float | None) -> Float32Array:
    """Turn digital numbers into reflectance.

    Parameters
    ----------
    dn
        Digital numbers, any shape, integers or floats.
    scale, offset
        Reflectance = dn × scale + offset, with both rounded to float32 first, then one rounding after the product and one
        after the sum: the same bits whatever block a pixel is computed in.
    nodata
        Digital number of a pixel without data, or None.

    Returns
    -------
    float32, same shape, unitless, about 0-1, NaN where there is no data. Negative values are kept: over dark water and
    shadow they are honest noise, and clipping them would bias every mean.

    Raises
    ------
    RadiometryError
        If ``scale`` is zero, or ``scale`` or ``offset`` is not finite.

    Notes
    -----
    Sentinel-2 from processing baseline 04.00 on: scale 0.0001, offset -0.1 (``BOA_ADD_OFFSET`` -1000 over
    ``QUANTIFICATION_VALUE`` 10000; Sentinel-2 Products Specification Document, "Radiometric offset").
    """
    _check_scale(scale, offset)
    reflectance: Float32Array = dn.astype(np.float32)
    reflectance *= np.float32(scale)
    reflectance += np.float32(offset)
    reflectance[~valid_of(dn, nodata)] = np.nan
    return reflectance


def reflectance_to_dn(
    reflectance: AnyArray,
    *,
    scale: float,
    offset: float,
    dtype: str,
    nodata: int,
    out_of_range: Literal["raise", "clip"] = "raise",
) -> AnyArray:
    """Turn reflectance into the nearest digital number: the inverse of :func:`dn_to_reflectance`.

    Parameters
    ----------
    reflectance
        Unitless, NaN without data, any shape.
    scale, offset
        As in :func:`dn_to_reflectance`.
    dtype
        Integer dtype to store in, such as ``uint16``.
    nodata
        Digital number for NaN. A pixel with data never gets it: where it is the lowest or highest number of the dtype, the
        range of data ends one before it.
    out_of_range
        What to do with data outside that range: refuse, or take the nearest number in it.

    Returns
    -------
    Integers of ``dtype``, same shape, rounded half to even in float64.

    Raises
    ------
    RadiometryError
        If data are out of range (with ``"raise"``), would become ``nodata``, or ``dtype`` holds no integers.
    """
    _check_scale(scale, offset)
    target = np.dtype(dtype)
    if target.kind not in "iu":
        raise RadiometryError(
            f"Digital numbers of dtype {dtype!r} were asked for; they are whole numbers. Pass an integer dtype."
        )
    fill = nodata_of(nodata, target)
    absent = np.isnan(reflectance)
    dn = np.rint((reflectance.astype(np.float64) - offset) / scale)
    lowest, highest = _data_range(target, int(fill))
    outside = (dn < lowest) | (dn > highest)
    if out_of_range == "raise" and outside.any():
        worst = reflectance[outside].ravel()[0]
        raise RadiometryError(
            f"{int(outside.sum())} pixels, the first of them {worst}, do not fit {target} digital numbers {lowest} to {highest} "
            f"with scale {scale} and offset {offset}. Choose another scale and offset, or pass out_of_range='clip'."
        )
    dn = np.clip(dn, lowest, highest)
    if bool(np.any((dn == fill) & ~absent)):
        raise RadiometryError(
            f"Pixels with data would be stored as {fill}, which means no data. Choose a nodata value at the end of {target}."
        )
    dn[absent] = fill
    return dn.astype(target)


def shift_dn(dn: AnyArray, *, shift: int, nodata: int | None) -> AnyArray:
    """Add a whole number to every digital number with data.

    Parameters
    ----------
    dn
        Integers, any shape.
    shift
        Digital numbers to add. Sentinel-2 assets without an offset are stored with 1000 added, so that one offset of -1000
        decodes every date.
    nodata
        Digital number of a pixel without data, which stays as it is, or None.

    Returns
    -------
    A new array, same shape and dtype: nothing is lost, ``shift_dn(…, shift=-shift)`` gives the input back.

    Raises
    ------
    RadiometryError
        If a shifted value leaves the dtype (uint16 with a shift of 1000: a value above 64,535) or lands on ``nodata``.
    """
    if dn.dtype.kind not in "iu":
        raise RadiometryError(f"A shift of {shift} was asked for {dn.dtype} pixels; only whole digital numbers are shifted.")
    fill = None if nodata is None else nodata_of(nodata, dn.dtype)
    valid = valid_of(dn, fill)
    _check_shift(dn, valid, shift, fill)
    # Wraps in the dtype for values without data, which the mask then puts back.
    shifted = dn + np.array(shift % (1 << 8 * dn.itemsize), f"u{dn.itemsize}").view(dn.dtype)
    return np.where(valid, shifted, dn)


def _check_shift(dn: AnyArray, valid: AnyArray, shift: int, fill: Any) -> None:
    """Refuse a shift that would wrap round or turn data into nodata."""
    bounds = np.iinfo(dn.dtype)
    lowest = int(dn.min(initial=bounds.max, where=valid))
    highest = int(dn.max(initial=bounds.min, where=valid))
    if not valid.any():
        return
    if highest + shift > bounds.max or lowest + shift < bounds.min:
        found, limit = (highest, bounds.max - shift) if highest + shift > bounds.max else (lowest, bounds.min - shift)
        raise RadiometryError(
            f"Digital number {found} was found where {dn.dtype} leaves room only as far as {limit} for a shift of {shift}. "
            "Leave this asset out, or store it in a wider dtype."
        )
    if fill is not None and bool(np.any(valid & (dn == int(fill) - shift))):
        raise RadiometryError(
            f"Digital number {int(fill) - shift} with data would become {int(fill)}, which means no data, by a shift of {shift}. "
            "Leave this asset out, or choose another nodata value."
        )


def _check_scale(scale: float, offset: float) -> None:
    """Refuse a scale that cannot be inverted."""
    if scale == 0 or not math.isfinite(scale) or not math.isfinite(offset):
        raise RadiometryError(
            f"Scale {scale} and offset {offset} do not decode digital numbers; both must be finite, scale not 0."
        )


def _data_range(dtype: np.dtype[Any], nodata: int) -> tuple[int, int]:
    """Lowest and highest number for data, without ``nodata`` where it ends the range of the dtype."""
    bounds = np.iinfo(dtype)
    return int(bounds.min) + (nodata == bounds.min), int(bounds.max) - (nodata == bounds.max)
