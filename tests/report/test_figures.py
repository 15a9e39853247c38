"""Figures: what is drawn, that nothing is lost, and the same bytes every time."""

import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from sprec.evaluation.plots import (
    COLORS,
    HATCHES,
    MARKERS,
    Point,
    Series,
    _fit,
    _legend_columns,
    _pick,
    curves,
    genre_bars,
    sharpening_and_self_play,
    trade_offs,
)
from sprec.system.errors import UserError

Draw = Callable[[Path], list[Path]]


def bars(stem: Path) -> list[Path]:
    return genre_bars(["fiction", "history, biography"], {"bigrec": [0.1, -0.2], "sprec": [0.05, 0.1]}, stem, "Books")


def lines(stem: Path) -> list[Path]:
    x = np.arange(4)
    panels = {
        "HR@5": {"sprec": Series(x, [0.1, 0.2, 0.3, 0.4], [0, 0.1, 0.2, 0.3], [0.2, 0.3, 0.4, 0.5])},
        "ORRatio@1": {"sprec": Series(x, x / 10), "sprec-rn": Series(x, x / 5)},
    }
    return curves(panels, "iteration", stem, columns=1)


def theory(stem: Path) -> list[Path]:
    p = np.array([0.6, 0.3, 0.1])
    return sharpening_and_self_play(p, {"beta = 1": p**2 / (p**2).sum()}, {"iteration 1": p}, stem)


def plane(stem: Path) -> list[Path]:
    low, high = Point(0.1, 0.01, (0.0, 0.9), (0.0, 0.02)), Point(0.3, 0.02, (0.2, 0.4), (0.01, 0.03))
    books: dict[tuple[str, ...], Point] = {
        ("bigrec", "greedy"): low,
        ("sprec", "greedy"): high,
        ("sprec", "votes"): high,
    }
    games: dict[tuple[str, ...], Point] = {("bigrec", "greedy"): low}
    return trade_offs({"Books": books, "Games": games}, ("DivRatio@1", "NDCG@5"), stem)


def texts(svg: Path) -> set[str]:
    """Labels of a figure: matplotlib draws text as shapes and leaves the words as comments."""
    return set(re.findall(r"<!-- (.*?) -->", svg.read_text("utf-8")))


@pytest.mark.parametrize("draw", [bars, lines, theory, plane])
def test_files_are_complete_and_byte_for_byte_the_same(draw: Draw, tmp_path: Path) -> None:
    first, second = draw(tmp_path / "a" / "fig.v1"), draw(tmp_path / "b" / "fig.v1")
    assert [file.name for file in first] == ["fig.v1.svg", "fig.v1.png"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    svg, png = first[0].read_text("utf-8"), first[1].read_bytes()
    assert "<dc:date>" not in svg
    assert svg.rstrip().endswith("</svg>")
    width, height = struct.unpack(">II", png[16:24])
    assert width >= 580
    assert height >= 500


def test_bars_name_genres_and_methods(tmp_path: Path) -> None:
    found = texts(bars(tmp_path / "f")[0])
    assert {"fiction", "bigrec", "sprec", "Books"} <= found


def test_curves_have_a_panel_per_metric_and_all_methods_in_the_legend(tmp_path: Path) -> None:
    found = texts(lines(tmp_path / "f")[0])
    assert {"HR@5 ↑", "ORRatio@1 ↓", "iteration", "sprec", "sprec-rn"} <= found


def test_theory_has_two_panels(tmp_path: Path) -> None:
    found = texts(theory(tmp_path / "f")[0])
    assert {"(a) DPO with uniform negatives", "(b) self-play", "data p", "beta = 1", "iteration 1"} <= found


def test_a_plane_has_a_panel_per_dataset_and_names_methods_and_ways(tmp_path: Path) -> None:
    found = texts(plane(tmp_path / "f")[0])
    assert {"Books", "Games", "DivRatio@1 ↑", "NDCG@5 ↑", "bigrec", "sprec", "greedy", "votes"} <= found


def test_the_axes_fit_the_points_and_not_their_intervals() -> None:
    axes = Figure().add_subplot()
    _fit(axes, [Point(0.1, 2.0, (0.0, 0.9), (0, 9)), Point(0.3, 2.0, (0.2, 0.4), (0, 9))])
    assert axes.get_xlim() == pytest.approx((0.08, 0.32))
    assert axes.get_ylim() == pytest.approx((1.9, 2.1)), "one value alone gets room, too"


def test_an_interval_is_drawn_only_where_it_is_given(tmp_path: Path) -> None:
    x = [0.0, 1.0]
    plain = curves({"HR@5": {"m": Series(x, x)}}, "r", tmp_path / "plain")[0].read_text()
    shaded = curves({"HR@5": {"m": Series(x, x, [0, 0.9], [0.1, 1])}}, "r", tmp_path / "shaded")[0].read_text()
    assert "FillBetween" not in plain
    assert "FillBetween" in shaded


def test_bars_have_an_interval_where_it_is_given(tmp_path: Path) -> None:
    def drawn(name: str, bounds: dict[str, tuple[list[float], list[float]]] | None) -> int:
        files = genre_bars(["a", "b"], {"m": [0.1, 0.2], "n": [0.3, 0.4]}, tmp_path / name, bounds=bounds)
        return files[0].read_text().count("LineCollection")

    assert drawn("plain", None) == 0
    assert drawn("one", {"m": ([0.0, 0.1], [0.2, 0.3])}) == 1


def test_a_legend_gets_as_many_columns_as_fit() -> None:
    """A column takes .65 inches and .075 for each letter of its longest name."""
    assert _legend_columns(["a" * 10] * 4, 4 * 1.4) == 4
    assert _legend_columns(["a" * 10] * 4, 4 * 1.4 - 0.1) == 3
    assert _legend_columns(["a" * 10, "b", "c", "d"], 3) == 3, "columns of 10, 1 and 1 letters: 2.85 inches"
    assert _legend_columns(["a" * 10] * 4, 2 * 1.4 - 0.1) == 1
    assert _legend_columns(["a"] * 20, 100) == 8


def test_nine_methods_still_have_a_look_each(tmp_path: Path) -> None:
    series = {f"m{i}": Series([0, 1], [i, i]) for i in range(9)}
    assert {f"m{i}" for i in range(9)} <= texts(curves({"HR@5": series}, "r", tmp_path / "f")[0])


def test_no_two_of_fifty_lines_look_alike() -> None:
    looks = [(_pick(COLORS, number), _pick(MARKERS, number)) for number in range(50)]
    assert len(set(looks)) == 50
    assert len({(_pick(COLORS, number), _pick(HATCHES, number)) for number in range(14)}) == 14


def test_a_folder_that_is_a_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write figures to .*file: File exists"):
        bars(tmp_path / "file" / "fig")
