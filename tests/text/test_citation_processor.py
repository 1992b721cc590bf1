"""transformers' own `generate` with the citation blocker gives our ids.

Alone: pytest tests/text/test_citation_processor.py
"""

import pytest
import torch

import hypergen
from hypergen.errors import InputError
from hypergen.storage.file_names import TRAINING_TOKENS
from hypergen.storage.token_files import save_tokens
from tests.text import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A random model whose training set is what it would say, so that the blocker has much to do."""
    folder, modality = tmp_path_factory.mktemp("run") / "run", tiny.modality()
    modality.save(folder)
    prompts = tiny.tokens(6, 8)
    ids = torch.tensor(tiny.greedy_ids(modality.model, prompts, 16))
    save_tokens(folder / TRAINING_TOKENS, torch.cat([prompts, ids], 1))
    return hypergen.load(folder, device="cpu", sequence_length=24, prompt_length=4)


def theirs(run, prompts, processor, **options):
    mask = torch.ones_like(prompts)
    options = {"attention_mask": mask, "max_new_tokens": 16, "do_sample": False, "eos_token_id": None} | options
    whole = run.modality.model.causal.generate(input_ids=prompts, logits_processor=[processor], **options)
    return whole[:, prompts.shape[1] :]


@pytest.mark.parametrize("length", [2, 3, 5])
@pytest.mark.parametrize("source", ["run", "folder", "tokens"])
def test_greedy_ids_are_ours(length, source, run):
    training = {"run": run, "folder": run.folder, "tokens": run.tokens()}[source]
    prompts = tiny.tokens(6, 8)
    ours = run.generate_tokens(prompts, 16, block_citations=length, stop_at_end=False)
    assert theirs(run, prompts, hypergen.CitationProcessor(training, length)).equal(ours)
    assert not ours.equal(run.generate_tokens(prompts, 16, stop_at_end=False))


def test_beams_are_ours(run):
    prompts = tiny.tokens(6, 8)
    ours = run.generate_tokens(prompts, 8, block_citations=3, strategy="beam", num_beams=3, stop_at_end=False)
    processor = hypergen.CitationProcessor(run, 3)
    assert theirs(run, prompts, processor, num_beams=3, max_new_tokens=8, length_penalty=0.0).equal(ours)


def test_sampled_ids_hold_no_citation(run):
    prompts = tiny.tokens(6, 8)
    torch.manual_seed(0)
    ids = theirs(run, prompts, hypergen.CitationProcessor(run, 3), do_sample=True, temperature=0.1)
    known = {tuple(row[i : i + 3]) for row in run.tokens().tolist() for i in range(22)}
    whole = torch.cat([prompts[:, -2:], ids], 1).tolist()
    assert not [one for row in whole for i in range(16) if (one := tuple(row[i : i + 3])) in known]


def test_padding_on_the_left_begins_no_citation():
    training = torch.tensor([[7, 7, 1, 2, 3, 4]])
    ids, scores = torch.tensor([[7, 7], [7, 1], [1, 7]]), torch.zeros(3, 9)
    blind = hypergen.CitationProcessor(training, 3)(ids, scores)
    assert (blind == -torch.inf).nonzero().tolist() == [[0, 1], [1, 2]]
    aware = hypergen.CitationProcessor(training, 3, pad_token_id=7)(ids, scores)
    assert not (aware == -torch.inf).any()


def test_a_loss_mask_leaves_the_template_free():
    training, mask = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[False, True, True, True]])
    processor = hypergen.CitationProcessor(training, 3, loss_mask=mask)
    blocked = processor(torch.tensor([[1, 2], [2, 3]]), torch.zeros(2, 5)) == -torch.inf
    assert blocked.nonzero().tolist() == [[1, 4]]


def test_what_is_no_training_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="only a hyperfitted run has it"):
        hypergen.CitationProcessor(tmp_path, 5)
    with pytest.raises(InputError, match="citation length 1: must be 2 or more"):
        hypergen.CitationProcessor(torch.zeros(1, 4).long(), 1)
