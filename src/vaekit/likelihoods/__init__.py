"""p(x|z, c): what the data is, given the latent.

A likelihood is a network and a family. Called with latents (K, B, *Z) it returns a distribution over data with batch
shape (K, B) and the event shape of one example, so `log_prob(x)` is one number an example.

Which one: binary data, `Bernoulli`; pixels or other whole levels, `DiscretizedLogisticMixture`; few levels without an
order, `Categorical`; real numbers, `Normal`; intensities in [0, 1] that are not levels, `ContinuousBernoulli`.
"""

from vaekit.likelihoods.base import Likelihood
from vaekit.likelihoods.binary import Bernoulli, ContinuousBernoulli
from vaekit.likelihoods.levels import Categorical, CategoricalLevels, DiscretizedLogisticMixture
from vaekit.likelihoods.real import Normal

__all__ = [
    "Bernoulli",
    "Categorical",
    "CategoricalLevels",
    "ContinuousBernoulli",
    "DiscretizedLogisticMixture",
    "Likelihood",
    "Normal",
]
