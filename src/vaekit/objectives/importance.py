"""Bounds of several weighted samples."""

from __future__ import annotations

from vaekit.objectives.base import Bound, Objective, bound_of, log_mean_weight, rate
from vaekit.types import Trace


class IWAE(Objective):
    """loss = -log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x), the K-sample bound; K is the trace's number of samples.

    Tighter than the ELBO and rising with K to log p(x).
    Burda, Grosse, Salakhutdinov, "Importance weighted autoencoders" (2016), equation 8.

    Example:
        >>> IWAE().spec()
        {'type': 'objectives.IWAE'}
    """

    def forward(self, trace: Trace, step: int | None = None) -> Bound:
        """The negative K-sample bound; its gradient by automatic differentiation through the samples."""
        bound = log_mean_weight(trace).mean()
        return bound_of(trace, -bound, rate(trace), k_sample_bound=bound)
