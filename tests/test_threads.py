"""Parts on threads of their own: in order, one torch thread each, the same results."""

import threading

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from bh_bids import threads
from bh_bids.threads import at_once, in_parts, one_blas_thread, results, use_threads, workers


@pytest.fixture
def two_threads(set_threads):
    set_threads(2)


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


def test_parts_are_neighbours():
    assert in_parts(list(range(5)), 2) == [[0, 1], [2, 3], [4]] and in_parts([], 2) == []


def test_functions_run_at_once_and_return_in_order(two_threads):
    meeting = threading.Barrier(2, timeout=20)

    def meet(name):
        meeting.wait()  # nobody passes who is alone
        return name

    assert at_once([lambda: meet("first"), lambda: meet("second")]) == ["first", "second"]
    torch.set_num_threads(1)
    assert at_once([threading.get_ident, lambda: 2]) == [threading.get_ident(), 2]


def test_matrix_products_take_one_thread_for_a_while():
    def counts():
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    with threadpool_limits(2, user_api="blas"):
        before = counts()
        with one_blas_thread():
            assert counts() == {1}
        assert counts() == before == {2}


def test_torch_takes_no_more_threads_than_a_container_gives(set_threads, monkeypatch):
    for own, given, asked, expected in (
        (8, 2, None, 2),
        (2, 8, None, 2),
        (2, 1, 5, 5),
        (2, 2, 0, 1),
    ):
        set_threads(own)
        monkeypatch.setattr(threads, "available_cpus", lambda given=given: given)
        use_threads(asked)
        assert torch.get_num_threads() == expected
