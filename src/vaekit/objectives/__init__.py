"""The bound, as a function of one `Trace`.

    log p(x|c) >= E_q(z|x,c) [ log p(x|z,c) + log p(z|c) - log q(z|x,c) ] = -(distortion + rate)

An objective reads the trace and nothing else, so every objective works with every model. Sums over event dimensions are
done by the distributions; means over examples are done here, in `Bound`.
"""

from vaekit.objectives.base import Bound, Objective, level_rate, log_mean_weight, rate
from vaekit.objectives.elbo import ELBO
from vaekit.objectives.importance import IWAE

__all__ = ["ELBO", "IWAE", "Bound", "Objective", "level_rate", "log_mean_weight", "rate"]
