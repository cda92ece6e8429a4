"""
Harmonize a volume
==================

What ``bh-bids`` does to each scan, in Python: :func:`bh_bids.harmonize` takes a brain on the
model's grid, its mask and a model, and gives a harmonized volume back with an account of what was
done.

The volume here is the MNI152 average brain, as a scanner with another contrast and a bias field
might have shown it. Scans of your own come from ``bh-bids --anat-only``, on the same grid.
"""

# %%
# A model and a brain
# -------------------
# The packaged model knows 21 adults of one 3 T scanner. Everything lives on its grid,
# 160 x 192 x 160 voxels of 1 mm in MNI space.

import matplotlib.pyplot as plt
import numpy as np

from bh_bids import harmonize, load_model
from bh_bids.anatomy.resampling import resample
from bh_bids.anatomy.templates import mni_brain
from bh_bids.simulation.gaps import gamma

model = load_model("default")
brain = resample(*mni_brain(), model.config.shape, model.config.affine)
mask = brain > 0.1 * brain.max()
print(model.target_domain["Description"])
print(brain.shape, f"{mask.sum() / 1000:.0f} ml")

# %%
# Another scanner
# ---------------
# Brighter grey matter, and a field that falls off from front to back.

scan = gamma(brain / np.percentile(brain[mask], 99), mask, exponent=0.7)
front = np.linspace(0.8, 1.2, brain.shape[1])[None, :, None]
scan = np.where(mask, 400 * scan * front, 0).astype(np.float32)

# %%
# Harmonize
# ---------
# ``flow="gaussian"`` judges the noise by a filter in place of the flow, which is then not asked of
# the contrast either: seconds instead of a minute, and enough for a brain that is no single scan.
# Leave it out for scans.

result = harmonize(scan, mask, model, flow="gaussian", seed=0)
for stage in ("Bias", "Contrast", "Noise"):
    print(stage, {name: result.decisions[stage][name] for name in ("Applied",)})
print("cautions:", result.guards or "none")

# %%
# Before, after, and the target's mean
# ------------------------------------
# One window of grey values for all three, in target units: 1 is the brain's 99th percentile.

after = result.volume / result.target_scale
pictures = {"before": result.scaled_source, "after": after, "target's mean": model.mean}
figure, axes = plt.subplots(1, 3, figsize=(9, 4), layout="constrained")
for axis, (name, volume) in zip(axes, pictures.items(), strict=True):
    axis.imshow(volume[:, :, 85].T, origin="lower", cmap="gray", vmin=0, vmax=1)
    axis.set_title(name)
    axis.set_axis_off()

# %%
# The curve of intensities
# ------------------------
# All that the method *map* did to the contrast is one monotone curve.

mapping = result.mapping.to_dict()
figure, axis = plt.subplots(figsize=(5, 4), layout="constrained")
axis.plot([0, 1.2], [0, 1.2], color="0.8")
axis.plot(mapping["Input"], mapping["Output"], color="#d9691e")
axis.set(xlabel="before (target units)", ylabel="after", xlim=(0, 1.2), ylim=(0, 1.2))
plt.show()
