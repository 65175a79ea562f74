"""p(z|c): where latents come from before any data is seen.

A prior is a module whose call returns a distribution over latents of event shape *Z. Its batch shape is () where it does
not depend on the condition, else (B,). `temperature` multiplies the scales: below 1, samples are more typical and less varied.
"""

from vaekit.priors.autoregressive import Autoregressive
from vaekit.priors.base import Prior
from vaekit.priors.chain import Chain
from vaekit.priors.codes import AutoregressiveCodes, CategoricalCodes, UniformCodes
from vaekit.priors.exemplar import Exemplar
from vaekit.priors.flow import Flow
from vaekit.priors.hyperbolic import WrappedNormal
from vaekit.priors.joint import Joint
from vaekit.priors.matching import FlowMatching
from vaekit.priors.normal import MixtureOfNormals, StandardNormal
from vaekit.priors.positive import Gamma
from vaekit.priors.second_stage import SecondStage
from vaekit.priors.sphere import UniformSphere
from vaekit.priors.standardized import Standardized
from vaekit.priors.vamp import Vamp

__all__ = [
    "Autoregressive",
    "AutoregressiveCodes",
    "CategoricalCodes",
    "Chain",
    "Exemplar",
    "Flow",
    "FlowMatching",
    "Gamma",
    "Joint",
    "MixtureOfNormals",
    "Prior",
    "SecondStage",
    "StandardNormal",
    "Standardized",
    "UniformCodes",
    "UniformSphere",
    "Vamp",
    "WrappedNormal",
]
