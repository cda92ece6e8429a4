"""Does a model's flow work: is its inverse the inverse, on the target domain's own mean volume?"""

import torch

from ..errors import ModelError
from .context import slice_context
from .engine import FlowEngine

# float32 alone leaves about 1e-3 at single voxels, and 1e-6 on average.
TOLERANCE = 1e-4
N_SLICES = 3


def roundtrip_error(model):
    """Send slices of the mean volume through the flow and back.

    Parameters
    ----------
    model : TargetModel

    Returns
    -------
    float
        Mean absolute difference, target units.

    Raises
    ------
    ModelError
        If it is beyond 1e-4, or the latents or log-determinants are not finite.
    """
    depth = model.mean.shape[2]
    chosen = [depth * (k + 1) // (N_SLICES + 1) for k in range(N_SLICES)]
    engine = FlowEngine.from_flow(model.flow)
    mean = torch.from_numpy(model.mean).permute(2, 0, 1).to(engine.device, engine.dtype)
    context = slice_context(model.config, mean, chosen, mask=mean > 0, mean=mean)
    slices = mean[chosen][:, None]
    with torch.inference_mode():
        latents, logabsdet = engine(slices, context)
        if not (torch.isfinite(latents).all() and torch.isfinite(logabsdet).all()):
            raise ModelError("The model's flow gives no finite latents: train the model again.")
        returned = engine.inverse(latents, slices.shape[2:], context)
    error = float((returned - slices).abs().mean())
    if not error <= TOLERANCE:
        raise ModelError(
            f"The model's flow is not invertible: the mean volume comes back {error:.1e} away "
            f"(at most {TOLERANCE:g} is allowed)."
        )
    return error
