"""Several processes that train one model together, as torchrun starts them."""

import os
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed, nn

from ..errors import DeviceError

# The others wait while the first process builds the store of hundreds of scans.
PATIENCE = timedelta(hours=4)


class Group:
    """The processes of a training; one alone unless torchrun started several.

    Parameters
    ----------
    device : str
        torch device of this process.
    rank, size : int
        Number of this process, from 0, and of all.

    Attributes
    ----------
    part : tuple of int
        (rank, size): this process's part of each batch.
    first : bool
        Whether this is the process that writes.
    """

    def __init__(self, device, rank=0, size=1):
        self.device = device
        self.part = (rank, size)
        self.first = rank == 0
        self.size = size

    def sums(self, *values):
        """Sum each of some numbers or tensors of no dimension over the processes; list of float."""
        if self.size == 1:
            return [float(value) for value in values]
        total = torch.stack(
            [torch.as_tensor(v, dtype=torch.float64).to(self.device) for v in values]
        )
        distributed.all_reduce(total)
        return total.tolist()

    def wait(self):
        """Return when all processes have come here."""
        if self.size > 1:
            self.sums(0)

    def share(self, module):
        """Give every process the parameters and buffers of the first."""
        if self.size == 1:
            return
        for tensor in module.state_dict().values():
            # Not all backends send truth values.
            sent = tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor.contiguous()
            distributed.broadcast(sent, 0)
            tensor.copy_(sent)

    def likelihood(self, flow):
        """Module that maps (x, context) to ``flow.log_prob``, its gradients averaged over all."""
        module = Likelihood(flow)
        if self.size == 1:
            return module
        devices = [torch.device(self.device)] if self.device.startswith("cuda") else None
        # Buffers are the first process's: of batch normalisation, too.
        return nn.parallel.DistributedDataParallel(
            module, device_ids=devices, gradient_as_bucket_view=True
        )


class Likelihood(nn.Module):
    """A flow's log density as a module's ``forward``, through which gradients are shared.

    Parameters
    ----------
    flow : TargetFlow
    """

    def __init__(self, flow):
        super().__init__()
        self.flow = flow

    def forward(self, x, context):
        """See :meth:`bh_bids.flow.network.TargetFlow.log_prob`."""
        return self.flow.log_prob(x, context)


@contextmanager
def joined(device):
    """Join the processes that torchrun started with this one, until the end of the block.

    Parameters
    ----------
    device : str
        torch device; "cuda" is the process's own GPU of its node.

    Yields
    ------
    Group

    Raises
    ------
    DeviceError
        If the node has fewer GPUs than processes, or the processes do not find each other.
    """
    if not (distributed.is_available() and distributed.is_torchelastic_launched()):
        yield Group(device)
        return
    backend = "gloo"
    if device.startswith("cuda"):
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise DeviceError(
                f"Process {local} of this node has no GPU: there are {torch.cuda.device_count()}. "
                "Give torchrun's --nproc-per-node that number."
            )
        torch.cuda.set_device(local)
        backend, device = "nccl", f"cuda:{local}"
    try:
        distributed.init_process_group(backend, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(f"The processes do not find each other: {reason}") from None
    try:
        yield Group(device, distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
