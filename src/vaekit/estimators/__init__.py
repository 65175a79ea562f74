"""scikit-learn estimators: a VAE that fits into pipelines, grid searches and data frames.

They need the extra `sklearn`.
"""

from __future__ import annotations

from vaekit.errors import require

require("sklearn", "sklearn", "The estimators")

from vaekit.estimators.density import VAEDensity  # noqa: E402
from vaekit.estimators.imputer import VAEImputer  # noqa: E402
from vaekit.estimators.outlier import VAEOutlier  # noqa: E402
from vaekit.estimators.transformer import VAETransformer  # noqa: E402

__all__ = ["VAEDensity", "VAEImputer", "VAEOutlier", "VAETransformer"]
