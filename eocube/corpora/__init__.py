"""Corpora: original files as sites, products, scenes and grids, one file each.

No pixels are opened here where it can be helped.
"""
