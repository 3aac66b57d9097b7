"""GeoZarr conventions and CF grid mapping: attribute names in one place, because the conventions are proposals and may move."""

from __future__ import annotations

from typing import Any

from odc.geo.geobox import GeoBox

from eocube.model.frame import crs_code

_CONVENTIONS: list[dict[str, str]] = [
    {
        "uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f",
        "name": "proj:",
        "schema_url": "https://raw.githubusercontent.com/zarr-experimental/geo-proj/refs/tags/v1/schema.json",
        "spec_url": "https://github.com/zarr-experimental/geo-proj/blob/v1/README.md",
        "description": "Coordinate reference system of the group's arrays",
    },
    {
        "uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
        "name": "spatial:",
        "schema_url": "https://raw.githubusercontent.com/zarr-conventions/spatial/refs/tags/v1/schema.json",
        "spec_url": "https://github.com/zarr-conventions/spatial/blob/v1/README.md",
        "description": "Affine transform and extent of the group's arrays",
    },
]


def spatial_attrs(geobox: GeoBox, *, dims: tuple[str, str] = ("y", "x")) -> dict[str, Any]:
    """``spatial:`` attributes of a grid (rasterio order of the transform, pixel corner at the top left)."""
    ny, nx = geobox.shape
    box = geobox.boundingbox
    return {
        "spatial:dimensions": list(dims),
        "spatial:shape": [int(ny), int(nx)],
        "spatial:transform": [float(v) for v in list(geobox.affine)[:6]],
        "spatial:bbox": [float(v) for v in (box.left, box.bottom, box.right, box.top)],
        "spatial:registration": "pixel",
    }


def proj_attrs(geobox: GeoBox) -> dict[str, Any]:
    """``proj:code`` where an authority has a code for exactly this CRS, else ``proj:wkt2``."""
    if geobox.crs is None:
        return {}
    code = crs_code(str(geobox.crs))
    return {"proj:wkt2": geobox.crs.proj.to_wkt()} if code is None else {"proj:code": code}


def group_attrs(geobox: GeoBox) -> dict[str, Any]:
    """Everything a cube's group says of its grid by the GeoZarr conventions."""
    return {"zarr_conventions": _CONVENTIONS, **proj_attrs(geobox), **spatial_attrs(geobox)}


def spatial_ref_attrs(geobox: GeoBox) -> dict[str, Any]:
    """Attributes of CF's grid-mapping variable ``spatial_ref``, with GDAL's ``GeoTransform``."""
    if geobox.crs is None:
        return {}
    cf = {k: _plain(v) for k, v in geobox.crs.proj.to_cf().items()}
    transform = geobox.affine.to_gdal()
    return {**cf, "spatial_ref": cf["crs_wkt"], "GeoTransform": " ".join(repr(float(v)) for v in transform)}


def _plain(value: Any) -> Any:
    return [float(v) for v in value] if isinstance(value, list | tuple) else value
