"""How kernels are compiled: without the interpreter's lock, and kept on disk for the next process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from numba import njit

_Kernel = TypeVar("_Kernel", bound=Callable[..., object])


def compiled(kernel: _Kernel) -> _Kernel:
    """The kernel as machine code.

    Where neither the folder of the package nor the user's own cache can be written (a container's read-only root), each process
    compiles for itself; ``NUMBA_CACHE_DIR`` names a folder for it.
    """
    try:
        made = njit(nogil=True, cache=True)(kernel)
    except RuntimeError:  # numba's "no locator available"
        made = njit(nogil=True)(kernel)
    return cast("_Kernel", made)
