"""Lazy cubes: ordinary Dask-backed xarray objects, and the steps that users chain on them."""
