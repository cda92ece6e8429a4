"""Parts on threads of their own: in order, one torch thread each, the same results."""

import threading

import numpy as np
import pytest
import torch

from bh_bids.evaluation.harm import local_ncc_map
from bh_bids.harmonization.structure import structure_figures
from bh_bids.mapping.intensity import brain_quantiles
from bh_bids.mapping.texture import texture_profile
from bh_bids.threads import filters, results, workers


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_from_threads_of_one_torch_thread(two_threads):
    meeting, seen = threading.Barrier(2, timeout=20), []

    def square(k):
        if k < 2:
            meeting.wait()  # nobody passes who is alone
        seen.append((threading.get_ident(), torch.get_num_threads()))
        return k * k

    assert list(results(square, range(7), 2)) == [k * k for k in range(7)]
    assert len({thread for thread, _ in seen}) == 2 and {count for _, count in seen} == {1}
    assert torch.get_num_threads() == 2


def test_what_fails_in_a_thread_fails_here(two_threads):
    def fail(k):
        raise ValueError(f"part {k}")

    with pytest.raises(ValueError, match="part 0"):
        list(results(fail, range(3), 2))
    assert torch.get_num_threads() == 2


def test_one_part_stays_in_its_thread(two_threads):
    assert list(results(lambda _: threading.get_ident(), [0], 2)) == [threading.get_ident()]
    assert workers(torch.device("cpu")) == 2
    assert workers(torch.device("cuda")) == 1


def test_no_more_filters_at_once_than_memory_bears(two_threads):
    assert filters() == 2
    torch.set_num_threads(32)
    assert filters() == 4


def test_figures_are_the_same_on_any_number_of_threads(two_threads):
    rng = np.random.default_rng(0)
    mask = np.zeros((40, 44, 36), bool)
    mask[4:-4, 4:-4, 4:-4] = True
    volume = np.where(mask, rng.uniform(0.2, 1.0, mask.shape), 0).astype(np.float32)
    other = np.where(mask, volume**0.9 + 0.01 * rng.random(mask.shape), 0).astype(np.float32)

    def measured():
        profile, sharpness = texture_profile(volume, mask, brain_quantiles(volume[mask]))
        near = local_ncc_map(volume, other, mask)
        return profile.tobytes(), sharpness, near.tobytes(), structure_figures(volume, other, mask)

    together = measured()
    torch.set_num_threads(1)
    assert measured() == together
