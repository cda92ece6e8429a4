"""The gradient of a training step, as it is and recorded on a GPU."""

import copy
import math

import pytest
import torch

from bh_bids.flow import graphs
from bh_bids.flow.distributed import Group
from bh_bids.flow.gradient import Gradient


@pytest.fixture
def flow(tiny_config, make_flow):
    return make_flow(tiny_config, dtype=torch.float32).train()


def batches(n, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    return [
        (0.5 + 0.2 * torch.randn((4, 1, 16, 16), generator=generator)).to(device) for _ in range(n)
    ]


def gradients(flow):
    return torch.cat([parameter.grad.flatten() for parameter in flow.parameters()])


@pytest.mark.parametrize("clip", [1e-3, 1e6])
def test_gradient_is_the_derivative_and_no_longer_than_asked(flow, clip):
    (x,) = batches(1)
    log_prob, norm = Gradient(Group("cpu").likelihood(flow), clip)(x, None, torch.tensor(50.0))
    torch.testing.assert_close(log_prob, flow.log_prob(x).sum().detach())
    assert not log_prob.requires_grad
    found = gradients(flow)
    expected = torch.autograd.grad(-flow.log_prob(x).sum() / 50, list(flow.parameters()))
    expected = torch.cat([part.flatten() for part in expected])
    torch.testing.assert_close(norm, expected.norm())
    torch.testing.assert_close(found, expected * min(1.0, clip / float(norm)), rtol=1e-4, atol=1e-6)


def test_gradients_of_steps_do_not_add_up(flow):
    (x,) = batches(1)
    step = Gradient(Group("cpu").likelihood(flow), math.inf)
    step(x, None, torch.tensor(1.0))
    once = gradients(flow)
    step(x, None, torch.tensor(1.0))
    torch.testing.assert_close(gradients(flow), once)


@pytest.mark.gpu
def test_recorded_steps_are_the_steps(flow):
    """Weights that an optimiser moves between replays, other batches and divisors each time."""
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU that PyTorch can use")
    recorded = copy.deepcopy(flow).cuda()
    eager = copy.deepcopy(flow).cuda()
    steps = {
        f: Gradient(Group("cuda").likelihood(f), 1.0, recorded=f is recorded)
        for f in (recorded, eager)
    }
    optimizers = {f: torch.optim.Adam(f.parameters(), lr=1e-3) for f in steps}
    for k, x in enumerate(batches(graphs.WARM_UP + 4, "cuda")):
        divisor = torch.tensor(10.0 + k, device="cuda")
        found = [[float(value) for value in steps[f](x, None, divisor)] for f in steps]
        assert found[0] == pytest.approx(found[1], rel=1e-3)
        torch.testing.assert_close(gradients(recorded), gradients(eager), rtol=1e-2, atol=1e-4)
        for optimizer in optimizers.values():
            optimizer.step()
    assert steps[recorded]._replay.__name__ == "replay"
