"""Between stored digital numbers and reflectance."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from eocube.errors import RadiometryError
from eocube.kernels.arrays import AnyArray, Float32Array, nodata_of
from eocube.kernels.jit import compiled


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
    reflectance = np.empty(dn.shape, np.float32)
    markers = _markers(nodata, dn.dtype)
    _decode(np.ascontiguousarray(dn).reshape(-1), np.float32(scale), np.float32(offset), markers, reflectance.reshape(-1))
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
        Integer dtype of at most 32 bits to store in, such as ``uint16``.
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
        If data are out of range (with ``"raise"``), would become ``nodata``, or ``dtype`` is no such dtype.
    """
    _check_scale(scale, offset)
    target = np.dtype(dtype)
    if target.kind not in "iu" or target.itemsize > 4:
        raise RadiometryError(
            f"Digital numbers of dtype {dtype!r} were asked for; pass an integer dtype of at most 32 bits, such as 'uint16'."
        )
    fill = nodata_of(nodata, target)
    lowest, highest = _data_range(target, int(fill))
    dn = np.empty(reflectance.shape, target)
    values = np.ascontiguousarray(reflectance).reshape(-1)
    outside, worst, hits = _encode(values, (float(scale), float(offset)), (float(lowest), float(highest)), fill, dn.reshape(-1))
    if outside and out_of_range == "raise":
        raise RadiometryError(
            f"{outside} pixels, one of them {worst}, do not fit {target} digital numbers {lowest} to {highest} "
            f"with scale {scale} and offset {offset}. Choose another scale and offset, or pass out_of_range='clip'."
        )
    if hits:
        raise RadiometryError(
            f"{hits} pixels with data would be stored as {fill}, which means no data. "
            f"Choose a nodata value at the end of {target}."
        )
    return dn


def shift_dn(dn: AnyArray, *, shift: int, nodata: int | None) -> AnyArray:
    """Add a whole number to every digital number with data.

    Parameters
    ----------
    dn
        Integers of at most 32 bits, any shape.
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
    if dn.dtype.kind not in "iu" or dn.itemsize > 4:
        raise RadiometryError(
            f"A shift of {shift} was asked for {dn.dtype} pixels; only whole numbers of at most 32 bits are shifted."
        )
    markers = _markers(nodata, dn.dtype)
    bounds = np.iinfo(dn.dtype)
    step = np.array(shift % (1 << 8 * dn.itemsize), f"u{dn.itemsize}").view(dn.dtype)[()]
    shifted = np.empty(dn.shape, dn.dtype)
    lowest, highest, hits = _shift(np.ascontiguousarray(dn).reshape(-1), step, markers, shifted.reshape(-1))
    # Without data lowest and highest are the wrong way round.
    if lowest <= highest and not bounds.min <= lowest + shift <= highest + shift <= bounds.max:
        found, limit = (highest, bounds.max - shift) if highest + shift > bounds.max else (lowest, bounds.min - shift)
        raise RadiometryError(
            f"Digital number {found} was found where {dn.dtype} leaves room only as far as {limit} for a shift of {shift}. "
            "Leave this asset out, or store it in a wider dtype."
        )
    if hits:
        raise RadiometryError(
            f"{hits} pixels with data would become {nodata}, which means no data, by a shift of {shift}. "
            "Leave this asset out, or choose another nodata value."
        )
    return shifted


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


def _markers(nodata: float | None, dtype: np.dtype[Any]) -> AnyArray:
    """Nodata in ``dtype`` as an array of one value, or of none where there is no nodata: what the kernels take."""
    return np.array([] if nodata is None else [nodata_of(nodata, dtype)], dtype)


@compiled
def _decode(dn: AnyArray, scale: Any, offset: Any, markers: AnyArray, out: Float32Array) -> None:
    """Write dn × scale + offset in float32, NaN for a marker; without fastmath the two roundings stay two."""
    marked = markers.size > 0
    marker = markers[0] if marked else dn.dtype.type(0)
    for i in range(dn.size):
        value = dn[i]
        reflectance = np.float32(value) * scale + offset
        out[i] = np.float32(np.nan) if marked & (value == marker) else reflectance


@compiled
def _encode(
    reflectance: AnyArray, coding: tuple[float, float], span: tuple[float, float], fill: Any, out: AnyArray
) -> tuple[int, float, int]:
    """Write the nearest number in ``span``, ``fill`` for NaN; count the pixels outside it (with one of them) and on ``fill``."""
    scale, offset = coding
    lowest, highest = span
    outside, worst, hits = 0, 0.0, 0
    for i in range(reflectance.size):
        value = np.float64(reflectance[i])
        absent = np.isnan(value)
        number = np.rint((value - offset) / scale)
        if number < lowest or number > highest:
            outside += 1
            worst = value
        number = lowest if absent else min(max(number, lowest), highest)  # lowest is never fill
        hits += number == fill
        out[i] = fill if absent else out.dtype.type(number)
    return outside, worst, hits


@compiled
def _shift(dn: AnyArray, step: Any, markers: AnyArray, out: AnyArray) -> tuple[int, int, int]:
    """Write dn + step, wrapping in the dtype, and markers as they are; find the lowest and highest number of the data.

    Counts the data that land on the marker.
    """
    marked = markers.size > 0
    marker = markers[0] if marked else dn.dtype.type(0)
    lowest = dn.dtype.type(np.iinfo(dn.dtype).max)
    highest = dn.dtype.type(np.iinfo(dn.dtype).min)
    top, bottom = lowest, highest
    hits = 0
    for i in range(dn.size):
        value = dn[i]
        keep = marked & (value == marker)
        shifted = dn.dtype.type(value + step)
        out[i] = value if keep else shifted
        lowest = min(lowest, top if keep else value)
        highest = max(highest, bottom if keep else value)
        hits += marked & (not keep) & (shifted == marker)
    return int(lowest), int(highest), hits
