"""q(z|x, c): what the latent may have been, given the data.

A posterior is a network and a family. Called with data (B, *S) it returns a distribution over latents with batch shape
(B,). Missing elements are told to the network by the mask; what stands at them is not read.
"""

from vaekit.posteriors.base import Posterior
from vaekit.posteriors.chain import Chain
from vaekit.posteriors.classifier import Classifier
from vaekit.posteriors.codes import FiniteScalar, GumbelSoftmax, ResidualQuantized, VectorQuantized
from vaekit.posteriors.committed import BatchNormNormal, DeltaNormal
from vaekit.posteriors.deterministic import Deterministic
from vaekit.posteriors.flow import Flow
from vaekit.posteriors.hamiltonian import Hamiltonian
from vaekit.posteriors.hyperbolic import WrappedNormal
from vaekit.posteriors.joint import Joint
from vaekit.posteriors.normal import DiagonalNormal, FullNormal, LowRankNormal
from vaekit.posteriors.positive import Gamma
from vaekit.posteriors.refined import SemiAmortized
from vaekit.posteriors.sphere import VonMisesFisher

__all__ = [
    "BatchNormNormal",
    "Chain",
    "Classifier",
    "DeltaNormal",
    "Deterministic",
    "DiagonalNormal",
    "FiniteScalar",
    "Flow",
    "FullNormal",
    "Gamma",
    "GumbelSoftmax",
    "Hamiltonian",
    "Joint",
    "LowRankNormal",
    "Posterior",
    "ResidualQuantized",
    "SemiAmortized",
    "VectorQuantized",
    "VonMisesFisher",
    "WrappedNormal",
]
