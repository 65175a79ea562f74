"""The bound, as a function of one `Trace`.

    log p(x|c) >= E_q(z|x,c) [ log p(x|z,c) + log p(z|c) - log q(z|x,c) ] = -(distortion + rate)

An objective reads the trace and nothing else, so every objective works with every model. Sums over event dimensions are
done by the distributions; means over examples are done here, in `Bound`.
"""

from vaekit.objectives.adversarial import VAEGAN, AdversarialAE, Discriminator, FactorVAE
from vaekit.objectives.base import Bound, Objective, level_rate, log_mean_weight, rate
from vaekit.objectives.codes import Quantization
from vaekit.objectives.divergences import WAE, InfoVAE, maximum_mean_discrepancy
from vaekit.objectives.elbo import ELBO
from vaekit.objectives.features import MSSSIM, FeatureMatching
from vaekit.objectives.importance import CIWAE, IWAE, MIWAE, PIWAE, DReG, StickingTheLanding
from vaekit.objectives.labels import SemiSupervised
from vaekit.objectives.moments import DIP
from vaekit.objectives.neighbours import Neighbours
from vaekit.objectives.prior import PriorFit
from vaekit.objectives.regularized import RAE
from vaekit.objectives.sliced import SlicedWAE, sliced_wasserstein
from vaekit.objectives.total_correlation import TotalCorrelation

__all__ = [
    "CIWAE",
    "DIP",
    "ELBO",
    "IWAE",
    "MIWAE",
    "MSSSIM",
    "PIWAE",
    "RAE",
    "VAEGAN",
    "WAE",
    "AdversarialAE",
    "Bound",
    "DReG",
    "Discriminator",
    "FactorVAE",
    "FeatureMatching",
    "InfoVAE",
    "Neighbours",
    "Objective",
    "PriorFit",
    "Quantization",
    "SemiSupervised",
    "SlicedWAE",
    "StickingTheLanding",
    "TotalCorrelation",
    "level_rate",
    "log_mean_weight",
    "maximum_mean_discrepancy",
    "rate",
    "sliced_wasserstein",
]
