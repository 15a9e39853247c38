"""Charts as inline SVG without scripts; their colours are the page's, for its light and dark theme.

All text is escaped. Each chart has a label for screen readers; the page also shows its numbers in a table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_WIDTH, _ROW, _LABEL = 760, 30, 270
_LETTERS = 32
"""Maximum characters of a label of bars; the table has the whole names."""


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: in the legend.
        color: class of its colour: ``c0`` for the data, ``c1`` before, ``c2`` after.
        x: ascending, (n,).
        y: (n,).
    """

    name: str
    color: str
    x: Sequence[float]
    y: Sequence[float]


def lines(
    series: Sequence[Line],
    label: str,
    axes: tuple[str, str],
    *,
    size: tuple[int, int] = (_WIDTH, 340),
    percent: bool = False,
    dots: bool = False,
) -> Markup:
    """A line chart.

    Args:
        series: at least one line of at least one point.
        label: a description for screen readers.
        axes: names of x and y.
        size: width and height.
        percent: whether x and y are shares, from 0 to their largest.
        dots: whether each point is marked.
    """
    width, height = size
    left, right, top, bottom = 56, width - 24, 28, height - 44
    xs, ys = [x for line in series for x in line.x], [y for line in series for y in line.y]
    low_x, high_x = (0.0 if percent else min(xs)), max(xs)
    low_y, high_y = (0.0, max(ys)) if percent else _padded(min(ys), max(ys))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - low_x) / ((high_x - low_x) or 1)
        up = (y - low_y) / ((high_y - low_y) or 1)
        return left + across * (right - left), bottom - up * (bottom - top)

    parts = [_open(width, height, label)]
    for y in _ticks(low_y, high_y, 5 if height > 200 else 3):
        at = place(low_x, y)[1]
        parts.append(f'<path class="grid" d="M{left} {at:.1f}H{right}"/>')
        parts.append(_text(left - 8, at + 4, _number(y, percent), "end"))
    for x in _ticks(low_x, high_x, 5 if width > 400 else 3):
        parts.append(_text(place(x, low_y)[0], bottom + 18, _number(x, percent), "middle"))
    parts.append(_text((left + right) / 2, height - 6, axes[0], "middle"))
    parts.append(_text(left, 13, axes[1], "start") if axes[1] else "")
    for line in series:
        points = [place(x, y) for x, y in zip(line.x, line.y, strict=True)]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path class="line {escape(line.color)}" d="M{path}"/>')
        if dots:
            parts += [f'<circle class="{escape(line.color)}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in points]
    return Markup("".join([*map(str, parts), "</svg>"]))


def bars(rows: Sequence[tuple[str, Mapping[str, float]]], label: str) -> Markup:
    """Bars side by side: a row per name, a bar per series.

    Args:
        rows: names, and shares by the class of their colour; all rows have the same classes.
        label: a description for screen readers.
    """
    high = max((value for _, values in rows for value in values.values()), default=0.0) or 1.0
    kinds = list(rows[0][1]) if rows else []
    each = 11 if len(kinds) > 1 else 16
    step = max(_ROW, each * len(kinds) + 10)
    room = _WIDTH - _LABEL - 64
    parts = [_open(_WIDTH, step * len(rows) + 6, label)]
    for number, (name, values) in enumerate(rows):
        top = number * step + (step - each * len(kinds)) / 2
        parts.append(_text(_LABEL - 10, number * step + step / 2 + 4, _short(name), "end"))
        for place, kind in enumerate(kinds):
            length = values[kind] / high * room
            y = top + place * each
            parts.append(
                f'<rect class="{escape(kind)}" x="{_LABEL}" y="{y:.1f}" width="{length:.1f}" height="{each - 2}"/>'
            )
            parts.append(_text(_LABEL + length + 6, y + each - 3, _number(values[kind], True), "start", "small"))
    return Markup("".join([*map(str, parts), "</svg>"]))


def _open(width: int, height: int, label: str) -> str:
    return f'<svg viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img" aria-label="{escape(label)}">'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    name = f' class="{kind}"' if kind else ""
    return f'<text{name} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _short(name: str) -> str:
    return name if len(name) <= _LETTERS else name[: _LETTERS - 1].rstrip() + "…"


def _number(value: float, percent: bool) -> str:
    if percent:
        return f"{value:.1%}" if 0 < value < 0.1 else f"{value:.0%}"
    return f"{value:,.0f}" if value == int(value) else f"{value:.3g}"


def _padded(low: float, high: float) -> tuple[float, float]:
    room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return low - room, high + room


def _ticks(low: float, high: float, most: int) -> list[float]:
    """At most ``most`` round numbers between two bounds."""
    span = (high - low) or 1.0
    unit = 10.0 ** _exponent(span / most)
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if span / (unit * factor) <= most)
    first = -(-low // step)
    count = int((high + step * 1e-9 - first * step) // step) + 1
    return [round((first + number) * step, 12) for number in range(max(count, 1))]


def _exponent(value: float) -> int:
    exponent = 0
    while value >= 10:
        value, exponent = value / 10, exponent + 1
    while value < 1:
        value, exponent = value * 10, exponent - 1
    return exponent
