"""A bound with a term that keeps neighbours together, for maps that are looked at."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaekit.distributions.scales import full_float
from vaekit.errors import ConfigError
from vaekit.objectives.base import Bound, Objective
from vaekit.objectives.elbo import ELBO
from vaekit.types import Trace

FORMS = ("contrastive", "cross-entropy")
_SOFT = 1e-3
"""Added to squared distances in units of `reach`, where two examples repel each other: at one point they would without end."""
_DIRECT = 8
"""Units up to which distances are sums of squares, which are exact for near points; beyond, matrices are multiplied."""


class Neighbours(Objective):
    """loss = that of the base + weight * L, where L asks neighbours to be near in the latent and all others to be apart.

        s(d) = 1 / (1 + (d / reach)^(2 exponent))                 similarity at the distance d of two posterior means

        contrastive      L = mean_i a_i log(1 + sum_n s(d_in) / s(d_ij))                                        like t-SNE
        cross-entropy    L = mean_i a_i (-log s(d_ij) - repulsion mean_n log(1 - s(d_in)))                      like UMAP

    j is a neighbour of example i, drawn by the weights w_ij of UMAP's graph (`data.neighbours`) from those of i, and
    a_i = sum_j w_ij over its mean, so that a pair counts in proportion to w_ij while the bound sees every example alike. The n
    are the other examples of the batch and their neighbours. The encoder is the map: a new point has its place at once, the
    decoder says what any place holds, and the bound keeps the two inverse to each other.

    Use it to look at data in two or three dimensions, or for features in which neighbours count. `contrastive` keeps
    neighbourhoods; `cross-entropy` draws clusters together, with more room between them. The latent's unit is that of its
    prior, N(0, I), so a map is a few units wide and `reach` says how fine its detail is.

    Cross-entropy: McInnes, Healy, Melville, "UMAP" (2018), section 3.2, whose a and b are 1 / reach^(2 exponent) and exponent;
    of a network: Sainburg, McInnes, Gentner, "Parametric UMAP embeddings for representation and semisupervised learning"
    (2021), where an autoencoder's loss is added as well. Student's t for a similarity: van der Maaten, Hinton, "Visualizing
    data using t-SNE" (2008); of a network: van der Maaten, "Learning a parametric embedding by preserving local structure"
    (2009). The contrastive form, and how it lies between the two: Damrich, Böhm, Hamprecht, Kobak, "From t-SNE to UMAP with
    contrastive learning" (2023). Departures: i is drawn uniformly and its pair weighted, in place of pairs that are drawn by
    weight; negatives are those of the batch, in which a neighbour may be; 1e-3 reach^2 is added to squared distances of
    negatives in the cross-entropy.

    Args:
        base: any objective without a player of its own; the `ELBO` if None.
        weight: of the term, > 0. It is in nats an example, and so is the bound: large weights leave the encoder to the term.
        num_neighbours: k of the graph, >= 2.
        reach: distance at which the similarity is 1/2, > 0.
        exponent: how steeply it falls, > 0; 1 is Student's t.
        form: `contrastive` or `cross-entropy`.
        repulsion: of the cross-entropy, how many negatives stand against each neighbour, > 0.

    Raises:
        ConfigError: for an argument that cannot be; when called, for a trace without `partners`.

    Example:
        >>> Neighbours(ELBO(beta=0.1), weight=10.0).spec()["base"]["beta"]
        0.1
    """

    def __init__(
        self,
        base: Objective | None = None,
        weight: float = 100.0,
        num_neighbours: int = 15,
        reach: float = 0.1,
        exponent: float = 1.0,
        form: str = "contrastive",
        repulsion: float = 5.0,
    ) -> None:
        super().__init__()
        self.base = ELBO() if base is None else base
        if self.base.adversary is not None or self.base.num_neighbours:
            raise ConfigError(
                f"The `base` must have neither an adversary nor neighbours of its own, got {self.base.registered_name}. Use "
                "`objectives.ELBO`."
            )
        for name, value in (("weight", weight), ("reach", reach), ("exponent", exponent), ("repulsion", repulsion)):
            if not 0 < value < math.inf:
                raise ConfigError(f"`{name}` must be finite and > 0, got {value}. Use the bound alone to do without the term.")
        if num_neighbours < 2:
            raise ConfigError(f"`num_neighbours` must be at least 2, got {num_neighbours}. 15 is a good start.")
        if form not in FORMS:
            raise ConfigError(f"`form` must be {' or '.join(FORMS)}, got {form!r}. Use `contrastive` when in doubt.")
        self.weight, self.num_neighbours, self.form = weight, num_neighbours, form
        self.reach, self.exponent, self.repulsion = reach, exponent, repulsion

    def forward(self, trace: Trace, step: int | None = None) -> Bound:
        """The bound with the weighted term added to its loss; the term itself is logged as `neighbours`."""
        found = self.base(trace, step)
        term = self.term(trace)
        return Bound(
            found.loss + self.weight * term, found.elbo, found.rate, found.distortion, {**found.terms, "neighbours": term}
        )

    def term(self, trace: Trace) -> Tensor:
        """L, a scalar; 0 of a single example, which has nothing to be apart from."""
        partners = trace.partners
        if partners is None:
            raise ConfigError(
                "Neighbours must be given a trace with `partners`, found none. Training brings them; elsewhere use "
                "`dataclasses.replace(trace, partners=types.Partners(mean, weight))`."
            )
        with torch.autocast(trace.x.device.type, enabled=False):
            here, there = full_float(trace.posterior_mean), full_float(partners.mean)
            others = ~torch.eye(len(here), dtype=torch.bool, device=here.device).repeat(1, 2)  # (B, 2B): neither i nor its j
            apart = squared_distances(here, torch.cat([here, there])) / self.reach**2
            near = (here - there).square().sum(1) / self.reach**2
            return (full_float(partners.weight) * self._of_each(near, apart, others)).mean()

    def _of_each(self, near: Tensor, apart: Tensor, others: Tensor) -> Tensor:
        """(B,): each example's term, from squared distances in units of `reach` to its neighbour (B,) and to all (B, 2B)."""
        attraction = torch.log1p(_power(near, self.exponent))
        if self.form == "contrastive":
            similarity = -torch.log1p(_power(apart, self.exponent)).masked_fill(~others, math.inf)
            return torch.nn.functional.softplus(torch.logsumexp(similarity, 1) + attraction) if len(near) > 1 else near * 0
        repulsion = torch.log1p((apart + _SOFT).pow(-self.exponent)).masked_fill(~others, 0.0)
        return attraction + self.repulsion * repulsion.sum(1) / max(1, 2 * len(near) - 2)


def _power(square: Tensor, exponent: float) -> Tensor:
    """square^exponent, with a finite gradient at 0."""
    return square if exponent == 1 else (square + 1e-12).pow(exponent)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """(A, B): |x_a - y_b|^2 of x (A, D) and y (B, D)."""
    if x.shape[1] <= _DIRECT:
        return sum(((x[:, d : d + 1] - y[:, d]).square() for d in range(x.shape[1])), start=x.new_zeros(()))
    squares = x.square().sum(1)[:, None] + y.square().sum(1)
    return (squares - 2 * x @ y.T).clamp_min(0.0)
