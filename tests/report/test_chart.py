"""Line charts as SVG: valid, inside their box, with round ticks. Alone: pytest tests/report/test_chart.py"""

from itertools import pairwise
from xml.etree import ElementTree

import pytest

from hypergen.report.chart import line_chart, ticks


@pytest.mark.parametrize(
    "points",
    [
        [(0, 3.2), (1, 0.05)],
        [(1, 2.0)],
        [(0, 0.0), (1, 0.0)],
        [(0, -5.0), (10, 5.0)],
        [(0, 1e299), (1e17, -1e299)],
        [(0, 5e-324), (0.3, 0.0)],
    ],
)
def test_a_chart_is_valid_and_stays_inside_its_box(points):
    svg = ElementTree.fromstring(line_chart("a < b & \"c\" 'd'", points))
    width, height = map(float, svg.get("viewBox").split()[2:])
    assert svg.find("title").text == "a < b & \"c\" 'd'" and svg.get("role") == "img"
    line = [tuple(map(float, pair.split(","))) for pair in svg.find("polyline").get("points").split()]
    assert len(line) == len(points)
    assert all(0 <= x <= width and 0 <= y <= height for x, y in line)
    assert svg.find("text").text is not None


@pytest.mark.parametrize(("low", "high"), [(0, 20), (1, 3), (0, 0.05), (-2, 5), (0, 1e-6), (0, 123456), (3, 3)])
def test_ticks_are_few_even_and_round(low, high):
    inside, around = ticks(low, high), ticks(low, high, reach=True)
    assert 1 <= len(inside) <= 6 and len(around) <= 7
    assert low - 1e-9 <= inside[0] and inside[-1] <= high * (1 + 1e-9)
    assert around[0] <= low and around[-1] >= high * (1 - 1e-9)
    steps = [after - before for before, after in pairwise(inside)]
    assert all(step == pytest.approx(steps[0]) for step in steps)


def test_whole_epochs_have_whole_ticks():
    assert ticks(1, 3, least_step=1.0) == [1, 2, 3]
