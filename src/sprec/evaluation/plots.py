"""Drawing figures: numbers in, one SVG and one PNG out, the same bytes every time.

The colours are those of Okabe and Ito (2008), which can be told apart with any colour vision; lines also differ in
markers and bars in hatching, for print without colour. Needs the ``report`` extra.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sprec.evaluation import with_arrow
from sprec.system.errors import UserError

try:
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    raise UserError("drawing figures needs matplotlib: pip install 'sprec[report]'") from error

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "----", "++++", "oooo")
STYLE = {
    "svg.hashsalt": "sprec",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.4,
    "legend.edgecolor": "none",
    "legend.framealpha": 1.0,
    "savefig.dpi": 200,
}


@dataclass(frozen=True)
class Series:
    """A line: ``x`` and ``y`` of equal length, and the bounds ``low`` and ``high`` of an interval, if any."""

    x: ArrayLike
    y: ArrayLike
    low: ArrayLike | None = None
    high: ArrayLike | None = None


@dataclass(frozen=True)
class Point:
    """A point (``x``, ``y``) in the plane of two metrics; ``x_ends`` and ``y_ends`` are the ends of its intervals."""

    x: float
    y: float
    x_ends: tuple[float, float]
    y_ends: tuple[float, float]


def genre_bars(
    genres: Sequence[str],
    unfairness: Mapping[str, ArrayLike],
    stem: Path,
    title: str = "",
    bounds: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
) -> list[Path]:
    """Figure 3: |GU(g)| of every genre, one bar per method.

    Args:
        genres: names of the selected genres.
        unfairness: method to GU of every genre; absolute values are drawn.
        stem: path of the files without suffix.
        title: above the figure.
        bounds: method to the lower and upper ends of an interval around each bar; NaN ends are not drawn.

    Returns:
        The files written.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(5.0, 1.0 + 0.9 * len(genres)), 3.2), layout="constrained")
        axes = figure.add_subplot()
        width = 0.84 / len(unfairness)
        for number, (method, values) in enumerate(unfairness.items()):
            places = np.arange(len(genres)) - 0.42 + width * (number + 0.5)
            bars = axes.bar(places, np.abs(np.asarray(values, float)), width, label=method, linewidth=0.3)
            if bounds and method in bounds:
                low, high = (np.asarray(end, float) for end in bounds[method])
                axes.vlines(places, low, high, color="#333333", linewidth=0.8)
            for patch in bars:
                patch.set(facecolor=_pick(COLORS, number), hatch=_pick(HATCHES, number), edgecolor="white")
        axes.set_xticks(np.arange(len(genres)), [_wrapped(genre) for genre in genres])
        axes.grid(visible=False, axis="x")
        axes.set_ylabel("|GU(g)| at top 1, lower is fairer")
        axes.set_title(title)
        _legend_below(figure)
        return _save(figure, stem)


def curves(
    panels: Mapping[str, Mapping[str, Series]], x_label: str, stem: Path, title: str = "", columns: int = 4
) -> list[Path]:
    """Figures 4 to 6: one panel per metric, one line per method over iterations, ratios or counts.

    Args:
        panels: metric to method to line. A line with bounds gets a shaded interval.
        x_label: what x is.
        stem: path of the files without suffix.
        title: above the figure.
        columns: panels in a row.

    Returns:
        The files written.
    """
    methods = list(dict.fromkeys(method for lines in panels.values() for method in lines))
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.5 * columns + 0.4, 2.1 * rows + 0.5), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, (metric, lines) in zip(grid, panels.items(), strict=False):
            for method, line in lines.items():
                _draw_line(axes, line, method, methods.index(method))
            _label_panel(axes, metric, x_label, lines)
        for unused in grid[len(panels) :]:
            unused.remove()
        if title:
            figure.suptitle(title, fontsize=10)
        _legend_below(figure)
        return _save(figure, stem)


def trade_offs(
    panels: Mapping[str, Mapping[tuple[str, ...], Point]], metrics: tuple[str, str], stem: Path, columns: int = 2
) -> list[Path]:
    """Two metrics against each other: a panel per dataset, a colour per method, a marker per way to recommend.

    The axes fit the points; intervals may extend beyond them.

    Args:
        panels: dataset to (method, way to recommend) to its point; further parts of a key tell points apart that share
            a colour and a marker.
        metrics: of x and y.
        stem: path of the files without suffix.
        columns: panels in a row.

    Returns:
        The files written.
    """
    keys = [key for points in panels.values() for key in points]
    methods, ways = ({name: n for n, name in enumerate(dict.fromkeys(key[part] for key in keys))} for part in (0, 1))
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.8 * columns, 3.0 * rows + 0.6), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, (title, points) in zip(grid, panels.items(), strict=False):
            for (method, way, *_), point in points.items():
                _draw_point(axes, point, _pick(COLORS, methods[method]), _pick(MARKERS, ways[way]))
            _fit(axes, list(points.values()))
            axes.set_title(title)
            axes.set_xlabel(with_arrow(metrics[0]))
            axes.set_ylabel(with_arrow(metrics[1]))
        for unused in grid[len(panels) :]:
            unused.remove()
        for method, number in methods.items():
            grid[0].plot([], [], color=_pick(COLORS, number), linewidth=5, label=method)
        for way, number in ways.items():
            grid[0].plot([], [], _pick(MARKERS, number), color="none", markeredgecolor="#333333", label=way)
        _legend_below(figure)
        return _save(figure, stem)


def sharpening_and_self_play(
    data: ArrayLike, sharpened: Mapping[str, ArrayLike], rounds: Mapping[str, ArrayLike], stem: Path
) -> list[Path]:
    """Figure 2: (a) DPO with uniform negatives sharpens the data's distribution, (b) self-play returns to it.

    Args:
        data: p, shape (n,).
        sharpened: label to policy for panel (a).
        rounds: label to policy for panel (b), in the order of the iterations.
        stem: path of the files without suffix.

    Returns:
        The files written.
    """
    titles = ("(a) DPO with uniform negatives", "(b) self-play")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 3.0), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, policies, title in ((left, sharpened, titles[0]), (right, rounds, titles[1])):
            ranks = np.arange(1, np.size(data) + 1)
            axes.bar(ranks, data, 0.8, color="#D0D0D0", label="data p")
            for number, (label, policy) in enumerate(policies.items()):
                _draw_line(axes, Series(ranks, policy), label, number)
            axes.set_title(title)
            axes.set_xlabel("item, by popularity in the data")
            axes.set_xticks([1, *range(5, len(ranks) + 1, 5)])
            axes.grid(visible=False, axis="x")
            axes.legend()
        left.set_yscale("log")  # for both panels: sharpening takes from the tail
        left.set_ylim(float(np.min(data)) / 30, 1.0)
        left.set_ylabel("probability (log scale)")
        return _save(figure, stem)


def _draw_line(axes: Axes, line: Series, label: str, number: int) -> None:
    color, marker = _pick(COLORS, number), _pick(MARKERS, number)
    axes.plot(line.x, line.y, color=color, marker=marker, markersize=4, linewidth=1.4, label=label)
    if line.low is not None and line.high is not None:
        axes.fill_between(line.x, line.low, line.high, color=color, alpha=0.15, linewidth=0)


def _draw_point(axes: Axes, point: Point, color: str, marker: str) -> None:
    thin: dict[str, Any] = {"color": color, "linewidth": 0.8, "alpha": 0.25, "zorder": 1}
    axes.plot(point.x_ends, (point.y, point.y), **thin)
    axes.plot((point.x, point.x), point.y_ends, **thin)
    axes.plot(point.x, point.y, marker, color=color, markersize=6, markeredgecolor="white", markeredgewidth=0.6)


def _fit(axes: Axes, points: Sequence[Point]) -> None:
    """Limits that leave a tenth around the points."""
    for limit, values in ((axes.set_xlim, [p.x for p in points]), (axes.set_ylim, [p.y for p in points])):
        edge = 0.1 * (max(values) - min(values) or 1.0)
        limit(min(values) - edge, max(values) + edge)


def _label_panel(axes: Axes, metric: str, x_label: str, lines: Mapping[str, Series]) -> None:
    axes.set_title(with_arrow(metric), fontsize=9)
    axes.set_xlabel(x_label)
    points = np.unique(np.concatenate([np.asarray(line.x, float) for line in lines.values()]))
    if len(points) <= 8:
        axes.set_xticks(points, [f"{point:g}" for point in points])
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _legend_below(figure: Figure) -> None:
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    columns = _legend_columns(list(handles), figure.get_figwidth())
    where = {"loc": "outside lower center", "columnspacing": 1.2, "handletextpad": 0.5}
    figure.legend(handles.values(), handles.keys(), ncols=columns, **where)


def _legend_columns(labels: Sequence[str], width: float) -> int:
    """The largest number of columns, up to eight, in which the labels fit into a width in inches."""
    for columns in range(min(len(labels), 8), 1, -1):
        longest = [part.max() for part in np.array_split([len(label) for label in labels], columns)]
        if sum(0.65 + 0.075 * letters for letters in longest) <= width:  # handle and spacing, and 9 pt letters
            return columns
    return 1


def _pick(values: Sequence[str], number: int) -> str:
    """A value by number; the cycles of colours, markers and hatches are offset, so that no two lines look alike."""
    shift = 0 if values is COLORS else number // len(COLORS)
    return values[(number + shift) % len(values)]


def _wrapped(genre: str) -> str:
    return genre.replace(", ", ",\n").replace(" & ", " &\n")


def _save(figure: Figure, stem: Path) -> list[Path]:
    metadata: dict[str, dict[str, Any]] = {"svg": {"Date": None, "Creator": "sprec"}, "png": {"Software": "sprec"}}
    files = [stem.with_name(f"{stem.name}.{suffix}") for suffix in metadata]
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        for file, about in zip(files, metadata.values(), strict=True):
            figure.savefig(file, metadata=about)
    except OSError as error:
        raise UserError(f"cannot write figures to {stem.parent}: {error.strerror or error}") from error
    return files
