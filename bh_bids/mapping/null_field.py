"""What anatomy feigns of a field, and what more there is in a field that was found.

No brain is its blocks' histogram, so a field is found in scans that have none. What is found in the
target's own scans, each compared with the others, tells how large that is in which direction; a
prior of smooth fields, as strong as the scan makes likeliest, tells what a field is like. Of the
sum of the two that was found, the part that is a field is expected, and the evidence for there
being one is how much likelier the prior makes what was found than anatomy alone does.
"""

import numpy as np
from scipy.linalg import eigh

from .field import find_field, local_histograms, orders, standard_field

# A field's variance falls with this power of the order, as of a plate that resists bending.
SMOOTHNESS = 4
# Spread over the brain (log units) that anatomy is taken to feign at least: few scans may differ
# by less.
LEAST = 0.005
# Strengths of the prior that are asked about: standard deviations of coefficients of order one.
STRENGTHS = np.geomspace(1e-3, 2, 80)


def learn_null_field(volumes, lattice, quantiles):
    """What is found of a field in target scans, each compared with the others.

    Parameters
    ----------
    volumes : callable
        ``volumes()`` iterates over the target scans (x, y, z), target units, 0 outside the brain.
    lattice : bh_bids.mapping.field.Lattice
    quantiles : numpy.ndarray, shape (LEVELS,)
        The target's brain quantiles.

    Returns
    -------
    histograms : numpy.ndarray of float64, shape (blocks, BINS)
        Local histograms of all scans.
    null_field : numpy.ndarray of float64, shape (functions,)
        Mean of what is found at first sight, at the target's contrast.
    covariance : numpy.ndarray of float64, shape (functions, functions)
        Of what :func:`bh_bids.mapping.field.find_field` finds, less the mean of the other scans,
        by the shrinkage of Ledoit and Wolf (J. Multivar. Anal. 2004) towards fields that are as
        large in all directions over the brain; its spread there is LEAST at least.
    """
    from sklearn.covariance import ledoit_wolf

    histograms = local_histograms(volumes(), lattice)

    def others(volume):
        """The histograms without one scan's part: they are sums over scans."""
        return np.maximum(histograms - local_histograms([volume], lattice), 0)

    first = np.array(
        [standard_field(lattice(v), lattice, others(v), quantiles)[0] for v in volumes()]
    )
    found, products = [], []
    for k, volume in enumerate(volumes()):
        values = lattice(volume)
        null_field = np.delete(first, k, axis=0).mean(axis=0)
        found.append(find_field(values, lattice, others(volume), quantiles, null_field)[0])
        products.append(np.cov(lattice.basis[:, values > 0].astype(np.float64)))
    # In coordinates in which a field's spread over the brain is the coefficients' norm.
    root = np.linalg.cholesky(np.mean(products, axis=0))
    inner = ledoit_wolf(np.array(found) @ root, assume_centered=True)[0]
    functions = len(inner)
    inner += max(LEAST**2 - np.trace(inner), 0) / functions * np.eye(functions)
    back = np.linalg.inv(root)
    covariance = back.T @ inner @ back
    return histograms, first.mean(axis=0), (covariance + covariance.T) / 2


def expected_field(found, covariance):
    """The field in what was found, and the evidence that there is one.

    With ``found`` = field + null, null ~ N(0, ``covariance``) and field ~ N(0, t^2 P), P diagonal,
    its entries falling with the order, and t the likeliest of STRENGTHS, the expected field is
    t^2 P (t^2 P + covariance)^-1 found.

    Parameters
    ----------
    found : numpy.ndarray, shape (functions,)
        See :func:`bh_bids.mapping.field.find_field`.
    covariance : numpy.ndarray, shape (functions, functions)
        See :func:`learn_null_field`; positive definite.

    Returns
    -------
    expected : numpy.ndarray of float64, shape (functions,)
        Zeros where no field is likelier than any.
    evidence : float
        Logarithm of the ratio of the likelihoods, with a field and without; 0 at least.
    """
    prior = np.diag([float(sum(order)) ** -SMOOTHNESS for order in orders()])
    # In these axes the null's covariance is 1 and the prior's the variances.
    variances, axes = eigh(prior, covariance)
    seen = axes.T @ found
    ratios = STRENGTHS[:, None] ** 2 * variances
    shares = ratios / (1 + ratios)
    evidence = 0.5 * (seen**2 * shares - np.log1p(ratios)).sum(axis=1)
    best = int(np.argmax(evidence))
    if evidence[best] <= 0:
        return np.zeros(len(found)), 0.0
    return covariance @ axes @ (shares[best] * seen), float(evidence[best])
