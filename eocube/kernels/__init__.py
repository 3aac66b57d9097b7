"""Pure functions on blocks of pixels: NumPy in, NumPy out, no names of files, bands or Dask."""
