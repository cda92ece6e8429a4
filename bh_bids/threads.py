"""Work that is done in parts, one thread of torch to each part.

Slices are small: two threads that share a convolution between them wait for each other most of the
time, two that each take slices of their own do not. A part's result does not depend on the number
of threads; they are given back in the parts' order.
"""

from concurrent.futures import ThreadPoolExecutor

import torch
from threadpoolctl import threadpool_limits

from .limits import available_cpus


def use_threads(count=None):
    """Set torch's threads; by default those that it takes itself, as far as a container gives them.

    Parameters
    ----------
    count : int, optional
        Less than 1 is 1.
    """
    few = min(torch.get_num_threads(), available_cpus())
    torch.set_num_threads(few if count is None else max(1, count))


def workers(device):
    """How many parts are worth doing at once: torch's threads on a CPU, one elsewhere."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def in_parts(items, size):
    """Parts of at most ``size`` neighbours each."""
    return [items[first : first + size] for first in range(0, len(items), size)]


def results(function, parts, count):
    """Iterate over ``function(part)`` of parts, in order, at most ``count`` at once."""
    if count <= 1 or len(parts) <= 1:
        yield from map(function, parts)
        return
    threads = torch.get_num_threads()
    try:
        # In a thread of its own the setting is that thread's, and what new threads begin with.
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(function, parts)
    finally:
        torch.set_num_threads(threads)


def at_once(functions):
    """What functions without arguments return, in order; run on as many threads as torch has."""
    return list(results(lambda function: function(), functions, torch.get_num_threads()))


def one_blas_thread():
    """Context in which a matrix product of numpy's takes one thread.

    Ours are small and many. On cores that have other work, threads that share one wait for each
    other, busily, for many times as long as they compute.
    """
    return threadpool_limits(1, user_api="blas")
