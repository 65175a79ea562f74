"""What `torch.distributions` lacks: masks, discretised logistic mixtures, and KL pairs.

A distribution over data has full event dimensions, so `log_prob(x)` is one number an example. It also takes
`log_prob(x, mask)`: the log-density of the observed elements, the others integrated out.
"""

from vaekit.distributions.affine import Affine, tempered
from vaekit.distributions.beta import Beta, BetaBinomial
from vaekit.distributions.cells import CellLayout, Cells
from vaekit.distributions.chain import Chain
from vaekit.distributions.codes import (
    CodeDistribution,
    CodeLayout,
    CodeSequence,
    IndependentCodes,
    Quantized,
    Quantizer,
    RelaxedCodes,
    UniformCodes,
)
from vaekit.distributions.continuous_bernoulli import ContinuousBernoulli
from vaekit.distributions.counts import NegativeBinomial, Poisson, ZeroInflated
from vaekit.distributions.divergence import centre, closed_form_kl, measures, stopped, unit_kl
from vaekit.distributions.flow import FLOW_KINDS, FlowDistribution, make_flow
from vaekit.distributions.guidance import guided
from vaekit.distributions.heavy import HyperbolicSecant, Logistic, LogNormal, StudentT
from vaekit.distributions.hyperbolic import WrappedNormal, mobius_add
from vaekit.distributions.joint import Joint
from vaekit.distributions.logistic import (
    DiscretizedLogisticMixture,
    discretized_logistic_log_prob,
    discretized_logistic_mean,
    log1mexp,
)
from vaekit.distributions.low_rank import LowRankNormal
from vaekit.distributions.products import Independent, MaskableDistribution, diagonal_normal, mixture_of_normals
from vaekit.distributions.scales import SOFTPLUS_ONE, full_float, positive
from vaekit.distributions.sequence import Decoding, TokenSequence
from vaekit.distributions.sphere import UniformSphere, VonMisesFisher

__all__ = [
    "FLOW_KINDS",
    "SOFTPLUS_ONE",
    "Affine",
    "Beta",
    "BetaBinomial",
    "CellLayout",
    "Cells",
    "Chain",
    "CodeDistribution",
    "CodeLayout",
    "CodeSequence",
    "ContinuousBernoulli",
    "Decoding",
    "DiscretizedLogisticMixture",
    "FlowDistribution",
    "HyperbolicSecant",
    "Independent",
    "IndependentCodes",
    "Joint",
    "LogNormal",
    "Logistic",
    "LowRankNormal",
    "MaskableDistribution",
    "NegativeBinomial",
    "Poisson",
    "Quantized",
    "Quantizer",
    "RelaxedCodes",
    "StudentT",
    "TokenSequence",
    "UniformCodes",
    "UniformSphere",
    "VonMisesFisher",
    "WrappedNormal",
    "ZeroInflated",
    "centre",
    "closed_form_kl",
    "diagonal_normal",
    "discretized_logistic_log_prob",
    "discretized_logistic_mean",
    "full_float",
    "guided",
    "log1mexp",
    "make_flow",
    "measures",
    "mixture_of_normals",
    "mobius_add",
    "positive",
    "stopped",
    "tempered",
    "unit_kl",
]
