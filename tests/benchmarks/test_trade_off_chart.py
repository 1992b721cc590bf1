"""A chart that stands alone. Alone: pytest tests/benchmarks/test_trade_off_chart.py"""

from xml.etree import ElementTree

from tests.benchmarks.scripts import load

trade_off_chart = load("trade_off_chart").trade_off_chart


def test_a_chart_that_stands_alone_is_one_valid_file():
    svg = ElementTree.fromstring(trade_off_chart({"a < b": [(0, 1.0), (1, 2.0)], "c": [(1, 3.0)]}))
    space = "{http://www.w3.org/2000/svg}"
    assert svg.tag == f"{space}svg" and len(svg.findall(f".//{space}polyline")) == 2
    titles = [group.find(f"{space}text").text for group in svg.findall(f"{space}g")]
    assert titles == ["a < b", "c"]
    assert float(svg.get("width")) == 2 * 360 and svg.find(f"{space}style").text
