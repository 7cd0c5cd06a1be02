from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import pytest

from cgcl_fast.report.charts import HEIGHT, LEFT, RIGHT, WIDTH, Line, chart, described, labels, number, thinned, ticks


def test_few_points_stay_as_they_are() -> None:
    points = [(step, step * 0.5) for step in range(5)]
    assert thinned(points, 5) == points


def test_many_points_become_means_of_neighbours() -> None:
    points = [(step, float(step % 2)) for step in range(10_002)]
    few = thinned(points, 102)
    assert len(few) == 102
    assert few[0] == points[0] and few[-1] == points[-1]
    assert all(value == 0.5 for _, value in few[1:-1])
    assert [step for step, _ in few] == sorted({step for step, _ in few})


def test_a_loss_that_breaks_is_seen_to_break() -> None:
    points = [(step, math.nan if step > 5000 else 1.0) for step in range(10_000)]
    assert any(math.isnan(value) for _, value in thinned(points, 100))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0, 0.5, 1]),
        (0.0, 4.1, [0, 2, 4]),
        (-1.0, 1.0, [-1, -0.5, 0, 0.5, 1]),
        (2.0, 2.0, [2]),
        (1.3e-7, 1.7e-7, [1.3e-7, 1.4e-7, 1.5e-7, 1.6e-7, 1.7e-7]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_labels_have_as_many_digits_as_tell_them_apart() -> None:
    assert labels([6.6, 6.8, 7.0]) == ["6.6", "6.8", "7.0"]
    assert labels([0, 5000, 10_000]) == ["0", "5,000", "10,000"]
    assert labels([-0.00042, -0.0004]) == ["-4.2e-4", "-4.0e-4"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (12345, "12,345"), (0.012345, "0.0123"), (12.345, "12.3"), (1.2e-7, "1.2e-07"), (math.nan, "nan")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


def coordinates(svg: str, tag: str = "polyline") -> list[list[tuple[float, float]]]:
    return [
        [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
        for line in ET.fromstring(svg).iter(tag)
    ]


def test_a_line_runs_from_edge_to_edge_and_larger_values_are_higher() -> None:
    (way,) = coordinates(chart("loss", [Line("loss", [(0, 1.0), (50, 3.0), (100, 2.0)])]))
    assert [x for x, _ in way] == pytest.approx([LEFT, (LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT], abs=0.1)
    (_, first), (_, highest), (_, last) = way
    assert 0 < highest < last < first < HEIGHT
    assert first - last == pytest.approx(last - highest, abs=0.2)


def test_values_that_are_not_finite_are_gaps() -> None:
    svg = chart(
        "loss", [Line("loss", [(0, 1.0), (1, 2.0), (2, math.nan), (3, 1.0), (4, math.inf), (5, 1.0), (6, 2.0)])]
    )
    assert [len(way) for way in coordinates(svg)] == [2, 2]
    assert len(list(ET.fromstring(svg).iter("circle"))) == 1


def test_one_point_is_a_dot_and_none_is_no_chart() -> None:
    assert len(list(ET.fromstring(chart("loss", [Line("loss", [(1, 2.0)])])).iter("circle"))) == 1
    assert chart("loss", [Line("loss", [(1, math.nan)])]) == ""


def test_what_is_drawn_is_said_in_words_and_cannot_break_out() -> None:
    lines = [Line("after", [(0, 1.0), (10, 2.0)]), Line('<b>"', [(10, 5.0)])]
    assert described("PSNR", lines) == 'PSNR: after from 1 at step 0 to 2 at step 10; <b>" 5 at step 10'
    root = ET.fromstring(chart("PSNR", lines))
    assert root.attrib["aria-label"] == described("PSNR", lines)
    assert root.find("b") is None
