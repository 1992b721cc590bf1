"""Kills, fills and corrupts runs on purpose: matrix A, B, C and E of the reliability contract.

`pytest tests/faults` runs a part of each row, `pytest -m "faults or not faults" tests/faults` every case. A test is
named after its row; one parameter is one case. `benchmarks/faults.py` counts them and runs the same faults on others.
"""
