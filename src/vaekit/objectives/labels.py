"""Labels that are missing are latents too: the bound of Kingma et al. (2014) for data of which few have a label."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vaekit.errors import ConfigError
from vaekit.objectives.base import Bound, Objective, bound_of, rate
from vaekit.types import Columns, Trace

MOST_COMBINATIONS = 256
"""The most combinations of categories that are enumerated."""


class SemiSupervised(Objective):
    """The model M2: log p(x, y) is bounded where the label y is known, and log p(x) where it is not.

        L(x, y) = E_q(z|x,y) [ log p(x|z, y) + log p(z) - log q(z|x, y) ] + log p(y)          <= log p(x, y)
        U(x)    = sum_y q(y|x) L(x, y) + H(q(y|x))                                            <= log p(x)
        loss    = mean over examples of  - L(x, y) - alpha log q(y|x)   where y is known,  - U(x)   where it is not

    q(y|x) is the model's `classifier`, p(y) is uniform. The sum over y is exact: each example is seen under every category. A
    model of C categories so costs C times as much a step. Several categorical columns are enumerated together, q(y|x) being
    their product, and an example of which some are known is a sum over the others; columns that the classifier does not have
    stay as they are. log q, p and H of one example are those of the columns that the example lacks.

    Use it where few examples have a label and many have none: the classifier learns from all of them. Where all have one, the
    conditional model under the plain `ELBO` is the same, and costs less.

    Kingma, Mohamed, Rezende, Welling, "Semi-supervised learning with deep generative models" (2014), equations 6 to 9. The
    paper's alpha, 0.1 N times a mean over the labelled examples, is `alpha` = 0.1 N / (number of labelled ones) here.
    Departure: `unknown` weighs a further term, the plain bound given the columns as they came, missing ones unknown and some
    made so; it teaches the model what it makes of an example without its label, as `encode` and `score` see it. 0 is the paper.

    Args:
        alpha: weight of -log q(y|x) of a labelled example, >= 0.
        unknown: weight of the plain bound, >= 0.

    Raises:
        ConfigError: for a weight that is negative or not finite; when called, for a model without a classifier, or one of more
            than 256 combinations of categories.

    Example:
        >>> from vaekit import VAE, likelihoods, networks, posteriors, priors
        >>> _ = torch.manual_seed(0)
        >>> label = networks.ConditionEncoder({"label": 3}, features=4)
        >>> vae = VAE(
        ...     priors.StandardNormal(2),
        ...     posteriors.DiagonalNormal(networks.MLP(5, [8], condition_features=4), 2),
        ...     likelihoods.Bernoulli(networks.MLP(2, [8], condition_features=4), [5]),
        ...     label,
        ...     posteriors.Classifier(networks.MLP(5, [8]), label.categories),
        ... )
        >>> trace = vae(torch.ones(4, 5), condition={"label": torch.tensor([0, -1, 2, -1])})
        >>> sorted(SemiSupervised(alpha=5.0)(trace).terms)
        ['classification', 'joint_elbo']
    """

    def __init__(self, alpha: float = 1.0, unknown: float = 0.1) -> None:
        super().__init__()
        for name, value in (("alpha", alpha), ("unknown", unknown)):
            if not 0 <= value < math.inf:
                raise ConfigError(f"`{name}` must be finite and >= 0, got {value}. Use 0 to leave its term out.")
        self.alpha, self.unknown = alpha, unknown

    def forward(self, trace: Trace, step: int | None = None) -> Bound:
        """The loss above; `joint_elbo` is the mean of L and U, `classification` that of -log q(y|x) where y is known."""
        columns = trace.columns
        if columns is None or columns.read is None:
            raise ConfigError(
                "SemiSupervised must be given a model with a condition and a classifier, got one without. Make it with "
                "`VAE(..., classifier=posteriors.Classifier(network, condition.categories))`."
            )
        inferred = _Inferred.of(columns)
        again = columns.infer(inferred.told(columns))
        elbo = (again.log_likelihood.mean(0) - rate(again)).view(inferred.weights.shape)
        joint = ((inferred.weights * elbo).sum(0) + inferred.log_prior + inferred.entropy).mean()
        classification = inferred.surprise.mean()
        rates = rate(trace)
        plain = rates.mean() - trace.log_likelihood.mean()
        loss = -joint + self.alpha * classification + self.unknown * plain
        return bound_of(trace, loss, rates, joint_elbo=joint, classification=classification)


@dataclass(frozen=True)
class _Inferred:
    """All combinations of the categories of J columns, and what q says of them.

    Attributes:
        names: of the columns.
        combinations: (M, J) codes.
        weights: (M, B), q of each combination; 1 or 0 where the columns are known.
        entropy: (B,), of the columns that are not known.
        surprise: (B,), -log q of those that are.
        log_prior: of any combination.
    """

    names: tuple[str, ...]
    combinations: Tensor
    weights: Tensor
    entropy: Tensor
    surprise: Tensor
    log_prior: float

    @classmethod
    def of(cls, columns: Columns) -> _Inferred:
        """Those of a classifier."""
        assert columns.read is not None
        log_q = columns.read()
        sizes = [values.shape[-1] for values in log_q.values()]
        if math.prod(sizes) > MOST_COMBINATIONS:
            raise ConfigError(
                f"SemiSupervised must have at most {MOST_COMBINATIONS} combinations of categories, got {math.prod(sizes)}. "
                "Give the classifier fewer columns."
            )
        device = next(iter(log_q.values())).device
        grid = torch.cartesian_prod(*(torch.arange(size, device=device) for size in sizes)).view(-1, len(sizes))
        weights, entropy, surprise = [], [], []
        for place, (name, values) in enumerate(log_q.items()):
            codes = columns.given[name].long()
            known, own = codes >= 0, F.one_hot(codes.clamp_min(0), sizes[place]).to(values.dtype)
            q = torch.where(known[:, None], own, values.exp())
            weights.append(q[:, grid[:, place]].T)
            entropy.append(torch.where(known, 0.0, -(values.exp() * values).sum(-1)))
            surprise.append(torch.where(known, -(own * values).sum(-1), 0.0))
        joint = torch.stack(weights).prod(0)
        log_prior = -math.fsum(math.log(size) for size in sizes)
        return cls(tuple(log_q), grid, joint, torch.stack(entropy).sum(0), torch.stack(surprise).sum(0), log_prior)

    def told(self, columns: Columns) -> dict[str, Tensor]:
        """Each column (M B,): the batch once for every combination, one after another."""
        times, size = self.weights.shape
        others = {name: values.repeat(times) for name, values in columns.given.items() if name not in self.names}
        return others | {name: self.combinations[:, j].repeat_interleave(size) for j, name in enumerate(self.names)}
