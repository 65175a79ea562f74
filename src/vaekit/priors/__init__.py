"""p(z|c): where latents come from before any data is seen.

A prior is a module whose call returns a distribution over latents of event shape *Z. Its batch shape is () where it does
not depend on the condition, else (B,). `temperature` multiplies the scales: below 1, samples are more typical and less varied.
"""

from vaekit.priors.base import Prior
from vaekit.priors.hyperbolic import WrappedNormal
from vaekit.priors.joint import Joint
from vaekit.priors.normal import MixtureOfNormals, StandardNormal
from vaekit.priors.positive import Gamma

__all__ = ["Gamma", "Joint", "MixtureOfNormals", "Prior", "StandardNormal", "WrappedNormal"]
