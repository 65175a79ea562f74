"""p(x|z, c): what the data is, given the latent.

A likelihood is a network and a family. Called with latents (K, B, *Z) it returns a distribution over data with batch
shape (K, B) and the event shape of one example, so `log_prob(x)` is one number an example.

Which one:

    binary data                          Bernoulli
    pixels or other whole levels         DiscretizedLogisticMixture; BetaBinomial has two parameters an element
    few levels without an order          Categorical
    counts                               Poisson; NegativeBinomial where they vary more; ZeroInflated... with more zeros
    real numbers                         Normal; with outliers Laplace, Logistic, HyperbolicSecant, StudentT (longest tails)
    positive numbers                     LogNormal
    intensities in [0, 1], no levels     ContinuousBernoulli; Beta where they never reach the ends
    rows of a table                      Cells
    text                                 Tokens
"""

from vaekit.likelihoods.base import Likelihood
from vaekit.likelihoods.binary import Bernoulli, ContinuousBernoulli
from vaekit.likelihoods.cells import Cells
from vaekit.likelihoods.counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial, ZeroInflatedPoisson
from vaekit.likelihoods.heavy import HyperbolicSecant, Laplace, Logistic, LogNormal, StudentT
from vaekit.likelihoods.levels import Categorical, CategoricalLevels, DiscretizedLogisticMixture
from vaekit.likelihoods.real import Normal
from vaekit.likelihoods.shares import Beta, BetaBinomial
from vaekit.likelihoods.tokens import Tokens

__all__ = [
    "Bernoulli",
    "Beta",
    "BetaBinomial",
    "Categorical",
    "CategoricalLevels",
    "Cells",
    "ContinuousBernoulli",
    "DiscretizedLogisticMixture",
    "HyperbolicSecant",
    "Laplace",
    "Likelihood",
    "LogNormal",
    "Logistic",
    "NegativeBinomial",
    "Normal",
    "Poisson",
    "StudentT",
    "Tokens",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
]
