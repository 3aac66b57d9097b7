"""Bands by their STAC common names, and what is known of the sensors' own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Band:
    """One entry of a cube's band axis."""

    name: str
    """STAC EO v2 ``common_name`` (``red``, ``nir08``, ``rededge071``), or the source's own where there is none."""

    eo_name: str | None = None
    """The sensor's own name, ``B04``."""

    wavelength_um: float | None = None
    """Centre wavelength in micrometres."""


def _s2(name: str, eo_name: str, wavelength_um: float) -> Band:
    return Band(name=name, eo_name=eo_name, wavelength_um=wavelength_um)


SENTINEL2_BANDS: dict[str, Band] = {
    b.eo_name or b.name: b
    for b in (
        _s2("coastal", "B01", 0.4427),
        _s2("blue", "B02", 0.4924),
        _s2("green", "B03", 0.5598),
        _s2("red", "B04", 0.6646),
        _s2("rededge071", "B05", 0.7041),
        _s2("rededge075", "B06", 0.7405),
        _s2("rededge078", "B07", 0.7828),
        _s2("nir", "B08", 0.8328),
        _s2("nir08", "B8A", 0.8647),
        _s2("nir09", "B09", 0.9451),
        _s2("cirrus", "B10", 1.3735),
        _s2("swir16", "B11", 1.6137),
        _s2("swir22", "B12", 2.2024),
    )
}
"""Sentinel-2 bands by ESA name. Wavelengths are S2A's (Sentinel-2 User Handbook, spectral bands table); common names are
those of the STAC EO extension v2.0."""

SCL_CLASSES: tuple[tuple[int, str], ...] = (
    (0, "no_data"),
    (1, "saturated_or_defective"),
    (2, "dark_area"),
    (3, "cloud_shadow"),
    (4, "vegetation"),
    (5, "not_vegetated"),
    (6, "water"),
    (7, "unclassified"),
    (8, "cloud_medium_probability"),
    (9, "cloud_high_probability"),
    (10, "thin_cirrus"),
    (11, "snow_or_ice"),
)
"""Sentinel-2 L2A scene classification (Level-2A Algorithm Theoretical Basis Document, scene classification module)."""

SCL_CLEAR: tuple[int, ...] = (4, 5, 6, 7, 11)
"""SCL classes counted as clear ground: vegetation, bare, water, unclassified, snow."""
