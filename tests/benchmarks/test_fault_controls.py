"""The controls that faults are put into. Alone: pytest tests/benchmarks/test_fault_controls.py"""

from benchmarks import fault_controls


def test_model_and_sequences_are_the_same_each_time():
    one, other = fault_controls.model().state_dict(), fault_controls.model().state_dict()
    assert all(one[name].equal(other[name]) for name in one)
    assert fault_controls.sequences().equal(fault_controls.sequences())
    assert fault_controls.sequences().shape[0] == fault_controls.ROWS_OF_DATA


def test_a_loop_around_accelerate_counts_on_from_its_checkpoint(tmp_path):
    whole = []
    trained, _ = fault_controls.train_with_accelerate(tmp_path / "whole", 2, whole.append)
    fault_controls.train_with_accelerate(tmp_path / "parts", 1, lambda step: None)
    steps = []
    resumed, _ = fault_controls.train_with_accelerate(tmp_path / "parts", 2, steps.append)
    assert whole == [1, 2, 3, 4, 5, 6] and steps == [4, 5, 6]
    assert all(one.equal(other) for one, other in zip(trained.parameters(), resumed.parameters(), strict=True))
