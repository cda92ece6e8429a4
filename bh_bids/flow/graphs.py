"""CUDA graphs of passes whose shapes come again: one launch in place of thousands."""

import logging

import torch

logger = logging.getLogger(__name__)

# Eager passes before a shape is recorded: libraries choose their algorithms in them.
WARM_UP = 2


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
            self._recorded[key] = _record(function, tensors)
        recorded = self._recorded[key]
        return function(*tensors) if recorded is None else recorded(tensors)


def _record(function, tensors):
    """A replayable recording, or None where the function cannot be recorded."""
    # Made in inference mode they could not be written to outside it.
    with torch.inference_mode(False), torch.no_grad():
        inputs = [None if t is None else t.clone() for t in tensors]
    graph = torch.cuda.CUDAGraph()
    try:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            function(*inputs)
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            outputs = function(*inputs)
    except RuntimeError as error:
        logger.warning("No CUDA graph for this pass: %s", str(error).splitlines()[0])
        return None

    def replay(given):
        for static, fresh in zip(inputs, given, strict=True):
            if static is not None:
                static.copy_(fresh)
        graph.replay()
        # The graph writes where it always does: the caller keeps copies.
        return [None if t is None else t.clone() for t in outputs]

    return replay
