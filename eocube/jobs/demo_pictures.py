"""The demo's pictures. Each says on it where its pixels come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eocube.errors import MissingDependencyError

Float32Image = npt.NDArray[np.float32]

_INK, _MUTED, _CLEAR, _CLOUDY = "#1b1f24", "#6a737d", "#1a7f5a", "#c3c9d0"


def clear_timeline(path: Path, dates: npt.NDArray[np.datetime64], share: npt.NDArray[np.float64], *, credit: str) -> None:
    """Share of clear pixels of each date, one stem a date; dates at least 90 % clear stand out."""
    figure = _figure(10.0, 3.2)
    axes = figure.add_subplot()
    days = dates.astype("M8[D]").astype(object)
    good = share >= 0.9
    for chosen, colour, label in ((~good, _CLOUDY, "less than 90 % clear"), (good, _CLEAR, "at least 90 % clear")):
        axes.vlines(
            [d for d, c in zip(days, chosen, strict=True) if c], 0, 100 * share[chosen], color=colour, linewidth=2.2, label=label
        )
    axes.set_ylim(0, 104)
    axes.set_ylabel("clear pixels, %", color=_INK)
    axes.set_title(
        f"{int(good.sum())} of {len(share)} dates are at least 90 % clear (scene classification)", loc="left", color=_INK
    )
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False, fontsize=8)
    _quiet(axes)
    _save(figure, path, credit)


def cloudy_and_composite(
    path: Path, cloudy: Float32Image, composite: Float32Image, *, captions: tuple[str, str], credit: str
) -> None:
    """One cloudy date beside the composite of its month; (y, x, 3) reflectance, one stretch for both, from the composite."""
    figure = _figure(7.2, 4.0)
    low, high = np.nanpercentile(composite, [1, 99], axis=(0, 1))
    for i, (image, caption) in enumerate(((cloudy, captions[0]), (composite, captions[1]))):
        axes = figure.add_subplot(1, 2, i + 1)
        axes.imshow(np.clip(np.nan_to_num((image - low) / (high - low)), 0, 1), interpolation="nearest")
        _picture(axes, caption)
    _save(figure, path, credit)


def superres_panels(
    path: Path, panels: Mapping[str, Float32Image], *, zoom: tuple[slice, slice], title: str, credit: str
) -> None:
    """The same place at each resolution, whole above and zoomed below; (y, x) reflectance of one band.

    ``zoom`` is in pixels of the last panel, whose size the others divide. One stretch a row, from the last panel.
    """
    figure = _figure(10.4, 5.7)
    reference = list(panels.values())[-1]
    stretches = [np.nanpercentile(shown, [1, 99]) for shown in (reference, reference[zoom])]
    for i, (name, image) in enumerate(panels.items()):
        ratio = reference.shape[0] // image.shape[0]
        part = image[tuple(slice(s.start // ratio, s.stop // ratio) for s in zoom)]
        for row, shown in enumerate((image, part)):
            axes = figure.add_subplot(2, len(panels), row * len(panels) + i + 1)
            axes.imshow(shown, cmap="gray", vmin=stretches[row][0], vmax=stretches[row][1], interpolation="nearest")
            _picture(axes, name if row == 0 else "")
        _frame_zoom(figure.axes[-2], zoom, ratio)
    figure.suptitle(title, x=0.02, ha="left", color=_INK, fontsize=11)
    _save(figure, path, credit)


def _frame_zoom(axes: Any, zoom: tuple[slice, slice], ratio: int) -> None:
    from matplotlib.patches import Rectangle

    y, x = (slice(s.start // ratio, s.stop // ratio) for s in zoom)
    axes.add_patch(
        Rectangle(
            (x.start - 0.5, y.start - 0.5), x.stop - x.start, y.stop - y.start, fill=False, edgecolor="#ffcf33", linewidth=1.4
        )
    )


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as e:
        raise MissingDependencyError("Drawing the demo's pictures", "matplotlib", "plot") from e
    layout = ConstrainedLayoutEngine(h_pad=0.07, w_pad=0.05)
    return Figure(figsize=(width, height), dpi=140, layout=layout, facecolor="white")


def _quiet(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=_MUTED, labelsize=8)


def _picture(axes: Any, caption: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(caption, fontsize=9, color=_INK)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _save(figure: Any, path: Path, credit: str) -> None:
    figure.supxlabel(credit, x=0.99, ha="right", fontsize=6.5, color=_MUTED)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
