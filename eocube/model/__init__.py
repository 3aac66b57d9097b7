"""Values that every room shares: bands, frames, windows, recipes, store layouts. No pixels, no I/O."""
