"""q(z|x, c): what the latent may have been, given the data.

A posterior is a network and a family. Called with data (B, *S) it returns a distribution over latents with batch shape
(B,). Missing elements are told to the network by the mask; what stands at them is not read.
"""

from vaekit.posteriors.base import Posterior
from vaekit.posteriors.hyperbolic import WrappedNormal
from vaekit.posteriors.joint import Joint
from vaekit.posteriors.normal import DiagonalNormal, FullNormal
from vaekit.posteriors.positive import Gamma

__all__ = ["DiagonalNormal", "FullNormal", "Gamma", "Joint", "Posterior", "WrappedNormal"]
