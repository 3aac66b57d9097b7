"""Bytes: object stores and URLs, raster readers, shards, cube templates, the index, markers."""
