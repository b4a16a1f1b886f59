"""Training that is cut off goes on where it was, and the dense model of the quick profile learns its letters."""

import copy

import pytest
import torch
from conftest import quick

from ovit_core import training
from ovit_core.ablations.transfer.parameters import Transfer
from ovit_core.data.batches import Batches, InMemoryImages, batches
from ovit_core.study import dense


def test_training_resumes_at_the_epoch_it_was_cut_off(tiny, tmp_path):
    g = torch.Generator().manual_seed(0)
    split = InMemoryImages(
        torch.randint(0, 256, (64, 3, 32, 32), generator=g, dtype=torch.uint8), torch.randint(10, (64,), generator=g)
    )
    whole, cut = copy.deepcopy(tiny), copy.deepcopy(tiny)
    training.train(whole, batches(split, 16, seed=1), epochs=4, lr=1e-3)

    class Cut(Batches):
        def __iter__(self):
            if self.epoch == 2:
                raise KeyboardInterrupt
            return super().__iter__()

    path = tmp_path / "resume.pt"
    with pytest.raises(KeyboardInterrupt):
        training.train(cut, Cut(split, 16, seed=1), epochs=4, lr=1e-3, checkpoint=path)
    resumed = training.train(copy.deepcopy(tiny), batches(split, 16, seed=1), epochs=4, lr=1e-3, checkpoint=path)
    assert not path.exists()
    for a, b in zip(whole.parameters(), resumed.parameters()):
        torch.testing.assert_close(a, b)


@pytest.mark.slow
def test_the_quick_dense_model_reads_letters_of_unseen_families(tmp_path, monkeypatch):
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    up = dense.upstream(quick(Transfer), seed=0)
    assert training.evaluate(up.model, batches(up.data.test, 500))[0].mean() >= 0.90
