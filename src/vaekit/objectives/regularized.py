"""Autoencoders without noise, whose decoder is held smooth in other ways."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaekit.errors import ConfigError
from vaekit.objectives.base import Bound, Objective, bound_of, rate
from vaekit.types import Trace


class RAE(Objective):
    """loss = distortion + beta/2 E|z|^2 + gradient_penalty E|J(z)|^2, the regularised autoencoder.

    The noise of a VAE makes its decoder smooth around each code; here a regulariser does. J is the Jacobian of the mean of
    p(x|z) and |J|^2 the sum of its squares. Use it with `posteriors.Deterministic`. Its members are

        RAE-GP   RAE(gradient_penalty=...)
        RAE-L2   RAE() and the optimiser's `weight_decay`
        RAE-SN   RAE() and `networks.Spectral` around the decoder's network

    Samples need a density of the codes: fit a mixture or a flow to them after training. Terms: `half_square`, 1/2 E|z|^2, and,
    if it is charged, `gradient_penalty`, E|J|^2, which reaches the decoder only.

    Ghosh et al., "From variational to deterministic autoencoders" (2020), section 3. Departures: |J|^2 is estimated by
    one random projection a code, |J^T v|^2 with v ~ N(0, I), whose mean it is. Weight decay is decoupled from Adam and acts on
    the encoder too.

    Args:
        beta: weight of the codes' square, >= 0.
        gradient_penalty: weight of the decoder's Jacobian, >= 0; 0 for none.

    Raises:
        ConfigError: for a negative argument; when called with a gradient penalty, for a trace without `decode`.

    Example:
        >>> RAE(beta=1e-2, gradient_penalty=1e-4).spec()
        {'type': 'objectives.RAE', 'beta': 0.01, 'gradient_penalty': 0.0001}
    """

    def __init__(self, beta: float = 1e-2, gradient_penalty: float = 0.0) -> None:
        super().__init__()
        for name, value in (("beta", beta), ("gradient_penalty", gradient_penalty)):
            if not 0 <= value < math.inf:
                raise ConfigError(f"`{name}` must be >= 0, got {value}. Use `{name}=0` to drop its term.")
        self.beta, self.gradient_penalty = beta, gradient_penalty

    def forward(self, trace: Trace, step: int | None = None) -> Bound:
        """The distortion and the regularisers."""
        half_square = 0.5 * torch.stack([latent.z.flatten(2).square().sum(-1).mean() for latent in trace.latents]).sum()
        terms = {"half_square": half_square}
        loss = self.beta * half_square - trace.log_likelihood.mean()
        if self.gradient_penalty > 0:
            terms["gradient_penalty"] = squared_jacobian(trace).mean()
            loss = loss + self.gradient_penalty * terms["gradient_penalty"]
        return bound_of(trace, loss, rate(trace), **terms)


def squared_jacobian(trace: Trace) -> Tensor:
    """(K, B): an unbiased estimate of |dm/dz|^2, the sum of squares of the Jacobian of the mean m of p(x|z) at the trace's z.

        E_v |J^T v|^2 = tr(J J^T) = |J|^2        v ~ N(0, I), one draw a code

    Its gradient reaches what decodes, and not z. It works where gradients are switched off, as in validation.

    Raises:
        ConfigError: for a trace without `decode`.
    """
    if trace.decode is None:
        raise ConfigError("A gradient penalty must be given a trace with `decode`, found none. Call the model to make one.")
    differentiated_again = torch.is_grad_enabled()
    with torch.enable_grad():
        leaves = [latent.z.detach().requires_grad_() for latent in trace.latents]
        mean = trace.decode(*leaves).mean
        slopes = torch.autograd.grad(mean, leaves, torch.randn_like(mean), create_graph=differentiated_again)
    return torch.stack([slope.flatten(2).square().sum(-1) for slope in slopes]).sum(0)
