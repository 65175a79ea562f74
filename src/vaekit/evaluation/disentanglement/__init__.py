"""How disentangled codes are: whether each latent unit stands for one true factor, and each factor for one unit."""

from vaekit.evaluation.disentanglement.fixed import BetaVaeScore, FactorVaeScore, beta_vae_score, factor_vae_score
from vaekit.evaluation.disentanglement.importance import Dci, ImportanceSpread, dci, dci_from_importance
from vaekit.evaluation.disentanglement.information import (
    Mig,
    Modularity,
    mig,
    mig_from_information,
    modularity,
    modularity_from_information,
)
from vaekit.evaluation.disentanglement.ranking import Udr, udr, udr_from_similarity, unit_kl
from vaekit.evaluation.disentanglement.report import DisentanglementReport, evaluate_disentanglement
from vaekit.evaluation.disentanglement.robustness import Irs, irs, irs_from_robustness
from vaekit.evaluation.disentanglement.separability import Sap, sap, sap_from_scores, threshold_accuracy

__all__ = [
    "BetaVaeScore",
    "Dci",
    "DisentanglementReport",
    "FactorVaeScore",
    "ImportanceSpread",
    "Irs",
    "Mig",
    "Modularity",
    "Sap",
    "Udr",
    "beta_vae_score",
    "dci",
    "dci_from_importance",
    "evaluate_disentanglement",
    "factor_vae_score",
    "irs",
    "irs_from_robustness",
    "mig",
    "mig_from_information",
    "modularity",
    "modularity_from_information",
    "sap",
    "sap_from_scores",
    "threshold_accuracy",
    "udr",
    "udr_from_similarity",
    "unit_kl",
]
