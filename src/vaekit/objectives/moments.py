"""Objectives that ask for moments of the aggregate posterior."""

from __future__ import annotations

import torch
from torch import Tensor

from vaekit.distributions import centre
from vaekit.errors import ConfigError
from vaekit.objectives.base import Bound, Objective, bound_of, one_level, rate
from vaekit.types import Latent, Trace

_KINDS = ("i", "ii")


class DIP(Objective):
    """loss = distortion + rate + lambda_off sum_(i != j) C_ij^2 + lambda_diag sum_i (C_ii - 1)^2, the DIP-VAE.

    C is a covariance (D, D) of the aggregate posterior over the batch, pressed towards that of the standard normal, so that
    units are uncorrelated without a larger weight on the rate:

        i     C = Cov_x[mean(x)], of the posterior means
        ii    C = E_x[Cov_q(z|x)] + Cov_x[mean(x)], of the samples

    Where q has no closed moments, the mean is what `distributions.centre` gives, and the covariance of the samples is taken
    over the K B samples themselves. Of codes, samples are the one-hot ones. Covariances are means over the batch of products of
    deviations, without the correction for small batches. Kumar, Sattigeri, Balakrishnan, "Variational inference of
    disentangled latent concepts from unlabeled observations" (2018). Published comparisons set lambda_diag = 10 lambda_off for
    `i`, and both equal for `ii`.

    Args:
        lambda_off: weight of the covariances, >= 0.
        lambda_diag: weight of the variances' distances from 1, >= 0.
        kind: `i` or `ii`.

    Raises:
        ConfigError: for a negative weight or an unknown kind; when called, for several levels.

    Example:
        >>> DIP(lambda_off=5.0, lambda_diag=5.0, kind="ii").spec()
        {'type': 'objectives.DIP', 'lambda_off': 5.0, 'lambda_diag': 5.0, 'kind': 'ii'}
    """

    def __init__(self, lambda_off: float = 10.0, lambda_diag: float = 100.0, kind: str = "i") -> None:
        super().__init__()
        if not (lambda_off >= 0 and lambda_diag >= 0):
            raise ConfigError(
                f"`lambda_off` and `lambda_diag` must be >= 0, got {lambda_off} and {lambda_diag}. Use 0 to drop a part."
            )
        if kind not in _KINDS:
            raise ConfigError(f"`kind` must be i or ii, got {kind!r}. Use `i` for the covariance of the means.")
        self.lambda_off, self.lambda_diag, self.kind = lambda_off, lambda_diag, kind

    def forward(self, trace: Trace, step: int | None = None) -> Bound:
        """The negative ELBO and the penalty, whose two parts are terms without their weights."""
        latent, rates = one_level(trace, "DIP", "Use `objectives.ELBO` for a ladder."), rate(trace)
        covariance = self.covariance(latent)
        diagonal = (covariance.diagonal() - 1).square().sum()
        off_diagonal = (covariance - torch.diag(covariance.diagonal())).square().sum()
        loss = -trace.log_likelihood.mean() + rates.mean()
        loss = loss + self.lambda_off * off_diagonal + self.lambda_diag * diagonal
        return bound_of(trace, loss, rates, covariance_off=off_diagonal, covariance_diag=diagonal)

    def covariance(self, latent: Latent) -> Tensor:
        """(D, D): the covariance that is penalised."""
        posterior = latent.posterior
        if self.kind == "i":
            return _covariance(centre(posterior)[0].flatten(1))
        if hasattr(posterior, "centre"):
            return _covariance(latent.z.flatten(0, 1).flatten(1))
        full = getattr(posterior, "covariance_matrix", None)
        within = torch.diag(posterior.variance.flatten(1).mean(0)) if full is None else full.mean(0)
        return within + _covariance(posterior.mean.flatten(1))


def _covariance(values: Tensor) -> Tensor:
    """(D, D): the covariance of the rows of (B, D), never in reduced precision."""
    with torch.autocast(values.device.type, enabled=False):
        deviations = values - values.mean(0)
        return deviations.T @ deviations / values.shape[0]
