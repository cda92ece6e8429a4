"""CUDA graphs of work whose shapes come again: one launch in place of thousands."""

import logging

import torch

logger = logging.getLogger(__name__)

# Calls as they are before one is recorded: libraries choose their algorithms in them.
WARM_UP = 2


def record(function, tensors):
    """Record the kernels of a function that was called ``WARM_UP`` times.

    Parameters
    ----------
    function : callable
        Does no work that depends on values.
    tensors : sequence of torch.Tensor or None
        Its arguments, for their shapes.

    Returns
    -------
    callable or None
        Takes other tensors of these shapes and gives what the function gave, where the recording
        writes it: valid until the next call. None where the function cannot be recorded.
    """
    # Made in inference mode they could not be written to outside it.
    with torch.inference_mode(False), torch.no_grad():
        inputs = [None if t is None else t.clone() for t in tensors]
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            outputs = function(*inputs)
    except RuntimeError as error:
        logger.warning("No CUDA graph for this: %s", str(error).splitlines()[0])
        return None

    def replay(*given):
        for static, fresh in zip(inputs, given, strict=True):
            if static is not None:
                static.copy_(fresh)
        graph.replay()
        return outputs

    return replay


class GraphCache:
    """Records a function's kernels at a shape's third call and replays them from then on.

    Where recording fails the function simply runs. At most ``size`` shapes are kept, since each
    holds its own working memory; further ones run as they are.

    Parameters
    ----------
    size : int
    """

    def __init__(self, size=8):
        self._size, self._calls, self._recorded = size, {}, {}

    def run(self, name, function, *tensors):
        """``function(*tensors)``, a list of tensors (or None).

        Parameters
        ----------
        name : hashable
            What the function does besides the tensors it is given.
        function : callable
            Gives a list of tensors, and does no work that depends on values.
        *tensors : torch.Tensor or None
        """
        if any(t is not None and t.requires_grad for t in tensors):
            return function(*tensors)
        key = (name, *(None if t is None else tuple(t.shape) for t in tensors))
        if key not in self._recorded:
            calls = self._calls[key] = self._calls.get(key, 0) + 1
            if calls <= WARM_UP or len(self._recorded) >= self._size:
                return function(*tensors)
            self._recorded[key] = record(function, tensors)
        replay = self._recorded[key]
        if replay is None:
            return function(*tensors)
        return [None if t is None else t.clone() for t in replay(*tensors)]
