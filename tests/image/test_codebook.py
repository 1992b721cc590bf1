"""Code books that follow their vectors. Alone: pytest tests/image/test_codebook.py"""

import pytest
import torch

from hypergen.image import codebook
from hypergen.image.codebook import BOOK_DECAY, CodeBook, nearest, to_maps, to_vectors


def test_nearest_is_the_nearest():
    generator = torch.Generator().manual_seed(0)
    points, book = torch.rand(50, 3, generator=generator), torch.rand(7, 3, generator=generator)
    assert nearest(points, book).equal(torch.cdist(points, book).argmin(1))


def test_nearest_does_not_depend_on_how_many_are_compared_at_once(monkeypatch):
    points, book = torch.rand(50, 3), torch.rand(7, 3)
    expected = nearest(points, book)
    monkeypatch.setattr(codebook, "ROWS_AT_ONCE", 8)
    assert nearest(points, book).equal(expected)


def clusters(count=200):
    """Four clusters far from each other, and their centres."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    return centres.repeat(count // 4, 1) + 0.1 * torch.randn(count, 2, generator=generator), centres


def test_k_means_finds_the_clusters():
    latents, centres = clusters()
    book = CodeBook(torch.zeros(12, 2))
    book.start(latents, 20, torch.Generator().manual_seed(1))
    assert float((latents - book.vectors[nearest(latents, book.vectors)]).norm(dim=1).max()) < 1
    assert set(nearest(book.vectors, centres).tolist()) == {0, 1, 2, 3}


def test_averages_start_as_those_of_one_step():
    latents, _ = clusters()
    book = CodeBook(torch.zeros(4, 2))
    book.start(latents, 20, torch.Generator().manual_seed(1))
    counts = torch.bincount(nearest(latents, book.vectors), minlength=4)
    torch.testing.assert_close(book.counts, counts * 20 / 200)
    torch.testing.assert_close(book.sums / book.counts[:, None], book.vectors)


def test_codes_follow_as_a_moving_average_by_hand():
    book = CodeBook(torch.tensor([[0.0], [8.0]]))
    book.follow(torch.tensor([[1.0], [3.0]]), torch.tensor([0, 0]))
    count, total = BOOK_DECAY + (1 - BOOK_DECAY) * 2, (1 - BOOK_DECAY) * 4
    assert book.vectors[0].item() == pytest.approx(total / count, rel=1e-4)
    assert book.vectors[1].item() == pytest.approx(8.0)
    assert book.counts.tolist() == pytest.approx([count, BOOK_DECAY])


def test_revived_codes_are_drawn_vectors_and_the_others_stay():
    latents = torch.arange(20.0)[:, None]
    book = CodeBook(torch.full((4, 1), -1.0))
    book.counts.mul_(0.5)
    book.revive(torch.tensor([True, False, True, False]), latents, torch.Generator().manual_seed(0))
    assert book.vectors[[1, 3]].tolist() == [[-1.0], [-1.0]] and set(book.vectors[[0, 2], 0].tolist()) <= set(range(20))
    assert book.counts.tolist() == [1.0, 0.5, 1.0, 0.5] and book.sums[[0, 2]].equal(book.vectors[[0, 2]])


def test_the_code_book_is_updated_in_place():
    weight = torch.nn.Embedding(4, 2).weight.requires_grad_(False)
    book = CodeBook(weight)
    book.start(clusters()[0], 20, torch.Generator().manual_seed(1))
    assert book.vectors is weight and bool((weight > -2).all())


def test_maps_and_vectors():
    maps = torch.randn(3, 5, 2, 4)
    vectors = to_vectors(maps)
    assert vectors[4 + 2].equal(maps[0, :, 1, 2]) and vectors[2 * 8].equal(maps[2, :, 0, 0])
    assert to_maps(vectors, (2, 4)).equal(maps)
