"""A chart that stands alone. Alone: pytest tests/benchmarks/test_trade_off_chart.py"""

from xml.etree import ElementTree

from tests.benchmarks.scripts import load
from tests.report.test_trade_off import RECORDS

trade_off_file = load("trade_off_chart").trade_off_file


def test_a_chart_that_stands_alone_is_one_valid_file():
    svg = ElementTree.fromstring(trade_off_file("a < b", RECORDS, [(4.0, 0.2, 0), (5.0, 0.6, 4)]))
    space = "{http://www.w3.org/2000/svg}"
    assert svg.tag == f"{space}svg" and len(svg.findall(f".//{space}circle")) == 2
    texts = [one.text for one in svg.findall(f"{space}text")]
    assert texts == [
        "a < b",
        *("A base greedy", "TTR 0.200, overlap 5.00"),
        *("B hyperfitted greedy", "TTR 0.700, overlap 5.25"),
        *("C original", "TTR 0.750, overlap 4.00"),
        "dots: epochs of the training",
    ]
    assert float(svg.get("width")) <= 900 and "prefers-color-scheme: dark" in svg.find(f"{space}style").text
