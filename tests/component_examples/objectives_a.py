"""The objectives that are weighted bounds, decompositions of the rate, moments and discrepancies."""

from __future__ import annotations

from collections.abc import Callable

from vaekit.component import Component
from vaekit.objectives import CIWAE, DIP, MIWAE, PIWAE, WAE, DReG, InfoVAE, StickingTheLanding, TotalCorrelation

EXAMPLES: dict[str, list[Callable[[], Component]]] = {
    "objectives.CIWAE": [lambda: CIWAE(), lambda: CIWAE(beta=0.05)],
    "objectives.DIP": [lambda: DIP(), lambda: DIP(2.0, 3.0, kind="ii")],
    "objectives.DReG": [lambda: DReG()],
    "objectives.InfoVAE": [lambda: InfoVAE(), lambda: InfoVAE(0.5, 10.0, kernel="inverse_multiquadratic", scales=[1.0, 2.0])],
    "objectives.MIWAE": [lambda: MIWAE(1), lambda: MIWAE(num_groups=2)],
    "objectives.PIWAE": [lambda: PIWAE(num_groups=2)],
    "objectives.StickingTheLanding": [lambda: StickingTheLanding()],
    "objectives.TotalCorrelation": [
        lambda: TotalCorrelation(num_data=100),
        lambda: TotalCorrelation(2.0, 3.0, 4.0, estimator="mws", num_data=100),
    ],
    "objectives.WAE": [lambda: WAE(), lambda: WAE(5.0, kernel="rbf", scales=[0.5])],
}
