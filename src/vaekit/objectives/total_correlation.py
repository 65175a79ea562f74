"""The rate in three parts, and an objective that presses on one of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from vaekit.errors import ConfigError
from vaekit.objectives.base import Bound, Objective, bound_of, one_level, rate
from vaekit.types import Latent, Trace

_ESTIMATORS = ("mss", "mws")


class TotalCorrelation(Objective):
    """loss = distortion + alpha I(z; n) + beta TC(z) + gamma sum_d KL(q(z_d) || p(z_d)), the beta-TCVAE.

        I(z; n) = E[log q(z|x_n) - log q(z)]                 what the latent knows of which example it is
        TC(z)   = E[log q(z) - sum_d log q(z_d)]             how far its units are from independent
        sum_d KL(q(z_d) || p(z_d)) = E[sum_d log q(z_d) - log p(z_d)]

    With all three weights at 1 they are the rate, so this is the ELBO. A large `beta` presses the units apart at a lower cost
    of distortion than `ELBO(beta=...)` does. The aggregate q(z) = 1/N sum_n q(z|x_n) is estimated from a batch of B examples,
    for a sample z of example i:

        mws    1 / (N B) sum_j q(z|x_j)                                    weighted: too small, by a factor of up to N
        mss    1/N q(z|x_i) + (N - 1) / (N (B - 1)) sum_(j != i) q(z|x_j)  stratified: right in expectation

    and likewise q(z_d). The logarithm of an estimate is low in expectation even so, and each of the three parts has a bias;
    that of `mss` falls as B grows. Their sum has none. Compare values of one batch size only. A step works on K B^2 D numbers.

    Chen, Li, Grosse, Duvenaud, "Isolating sources of disentanglement in variational autoencoders" (2018), section 3, and the
    appendix for the estimators. Departure: in the paper's stratified estimator one other example, the last of the batch,
    stands for all that the batch lacks; here each takes that place in turn and the mean is used. The expectation is the same,
    the variance lower, the order of the batch of no matter, and a batch of the whole data set gives q(z) exactly.

    Args:
        alpha: weight of the mutual information, >= 0.
        beta: weight of the total correlation, >= 0.
        gamma: weight of the dimension-wise KL, >= 0.
        estimator: `mss` or `mws`.
        num_data: N, where the trace does not know it; training and validation tell it.

    Raises:
        ConfigError: for a negative weight, an unknown estimator or fewer than one example; when called, where N is not known,
            for several levels, or where q or p is no product over units.

    Example:
        >>> TotalCorrelation(beta=4.0).spec()["estimator"]
        'mss'
    """

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 6.0,
        gamma: float = 1.0,
        estimator: str = "mss",
        num_data: int | None = None,
    ) -> None:
        super().__init__()
        if not all(0 <= weight < math.inf for weight in (alpha, beta, gamma)):
            raise ConfigError(
                f"`alpha`, `beta` and `gamma` must be finite and >= 0, got {alpha}, {beta} and {gamma}. Use 1 for the ELBO's."
            )
        if estimator not in _ESTIMATORS:
            raise ConfigError(f"`estimator` must be mss or mws, got {estimator!r}. Use `mss`, which has the lower bias.")
        if num_data is not None and num_data < 1:
            raise ConfigError(f"`num_data` must be at least 1 or None, got {num_data}. Give the size of the data set.")
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.estimator, self.num_data = estimator, num_data

    def forward(self, trace: Trace, step: int | None = None) -> Bound:
        """The distortion and the weighted parts of the rate, each of them a term."""
        latent = one_level(trace, "TotalCorrelation", "Use `objectives.ELBO` for a ladder.")
        log_joint, log_marginals = self.log_aggregate(latent, self._num_data(trace))
        information = (latent.log_q - log_joint).mean()
        correlation = (log_joint - log_marginals).mean()
        dimension_wise = (log_marginals - latent.log_p).mean()
        loss = -trace.log_likelihood.mean() + self.alpha * information + self.beta * correlation + self.gamma * dimension_wise
        return bound_of(
            trace,
            loss,
            rate(trace),
            mutual_information=information,
            total_correlation=correlation,
            dimension_wise_kl=dimension_wise,
        )

    def log_aggregate(self, latent: Latent, num_data: int) -> tuple[Tensor, Tensor]:
        """Estimates of log q(z) and of sum_d log q(z_d) at the samples, each (K, B).

        Args:
            latent: its posterior and its prior are products over units, of batch shapes (B,) and ().
            num_data: N.
        """
        posterior = _check_product(latent.posterior, "posterior", latent.z.shape[1:2])
        _check_product(latent.prior, "prior", torch.Size())
        pairs = posterior.base_dist.log_prob(latent.z.unsqueeze(2)).flatten(3)  # (K, B, B, D): log q(z_i,d | x_j)
        log_weights = self._log_weights(pairs, num_data)
        log_joint = torch.logsumexp(pairs.sum(-1) + log_weights, dim=2)
        log_marginals = torch.logsumexp(pairs + log_weights.unsqueeze(-1), dim=2).sum(-1)
        return log_joint, log_marginals

    def _log_weights(self, pairs: Tensor, num_data: int) -> Tensor:
        """(B, B): the logarithm of what q(z_i|x_j) counts in the estimate at z_i. A batch of one has its own alone."""
        batch = pairs.shape[1]
        own, other = -math.log(num_data), -math.inf
        if self.estimator == "mws":
            own = other = -math.log(num_data * batch)
        elif batch > 1 and num_data > 1:
            other = math.log(num_data - 1) - math.log(num_data * (batch - 1))
        return pairs.new_full((batch, batch), other).fill_diagonal_(own)

    def _num_data(self, trace: Trace) -> int:
        num_data = self.num_data if trace.num_data is None else trace.num_data
        if num_data is None:
            raise ConfigError(
                "TotalCorrelation must know the number of examples in the data set, found none in the trace. "
                "Give it as `num_data`."
            )
        return num_data


def _check_product(distribution: Distribution, name: str, batch_shape: torch.Size) -> Independent:
    """The same distribution, if it is a product over single numbers of this batch shape."""
    if (
        not isinstance(distribution, Independent)
        or distribution.base_dist.event_shape
        or distribution.batch_shape != batch_shape
    ):
        raise ConfigError(
            f"TotalCorrelation must be given a {name} that is a product over units with batch shape {tuple(batch_shape)}, got "
            f"{type(distribution).__name__} with batch shape {tuple(distribution.batch_shape)}. Use "
            "`posteriors.DiagonalNormal` and `priors.StandardNormal`."
        )
    return distribution
