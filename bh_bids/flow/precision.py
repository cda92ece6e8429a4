"""Reduced precision where it is harmless: in the convolutions, never in the splines."""

from contextlib import contextmanager

import torch
from nflows.nn.nets import ConvResidualNet

PRECISIONS = ("float32", "tf32", "bf16")


def reduce_precision(flow, precision, device):
    """Let a flow's convolutions be computed with fewer digits; weights stay float32.

    Parameters
    ----------
    flow : TargetFlow
        With "bf16", its conditioners' convolutional networks are computed in bfloat16, and only
        they: splines, log-determinants and 1x1 convolutions stay in float32.
    precision : str
        One of ``PRECISIONS``. "tf32" lets CUDA round the inputs of convolutions and matrix
        products to 10 bits of mantissa, for the whole process; it changes nothing on a CPU.
    device : str
        torch device.
    """
    torch.backends.cudnn.allow_tf32 = precision != "float32"
    torch.backends.cuda.matmul.allow_tf32 = precision != "float32"
    if precision == "bf16":
        for module in flow.modules():
            if isinstance(module, ConvResidualNet):
                module.forward = _in_bfloat16(module.forward, torch.device(device).type)


@contextmanager
def repeatable_convolutions(tf32):
    """Let CUDA's convolutions give the same bytes in every run, until the end of the block.

    A pass backward is one of its own: what held for the pass forward does not hold for it.

    Parameters
    ----------
    tf32 : bool
        Let them round their factors to TF32 (10 bits).
    """
    # No trials for the fastest algorithm, and none that adds in any order.
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=tf32
    ):
        yield


def _in_bfloat16(forward, device_type):
    def rounded(*inputs):
        with torch.autocast(device_type, torch.bfloat16):
            outputs = forward(*inputs)
        return outputs.float()

    return rounded
