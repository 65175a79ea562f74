"""A new prior for a trained model: a density of its latents, fitted after the fact, with encoder and decoder as they are."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from vaekit.component import device_of
from vaekit.data.dataset import Dataset, fingerprint
from vaekit.data.transforms import Levels
from vaekit.distributions import Quantizer
from vaekit.errors import ConfigError
from vaekit.inference import Progress, prepare, seeded
from vaekit.likelihoods import Normal
from vaekit.networks import MLP
from vaekit.objectives import ELBO, PriorFit
from vaekit.posteriors import DiagonalNormal
from vaekit.priors import (
    Autoregressive,
    AutoregressiveCodes,
    Flow,
    FlowMatching,
    Prior,
    SecondStage,
    Standardized,
    StandardNormal,
)
from vaekit.priors.codes import CodePrior
from vaekit.storage import HELD_OUT, PRIOR_FIT, PRIVACY, REFERENCE, Bundle
from vaekit.training.callbacks import Callback
from vaekit.training.config import BUDGETS, TrainConfig
from vaekit.training.latents import LatentsOnly, as_data, bounded, check_latents, latents_of
from vaekit.training.loop import Trainer
from vaekit.training.mixtures import Told, fit_mixture
from vaekit.training.run import make_fabric, split
from vaekit.training.validation import validate
from vaekit.types import Json
from vaekit.vae import VAE

if TYPE_CHECKING:
    from vaekit.training.loop import Progress as RunProgress
    from vaekit.training.schedules import Budget

MIXTURES = {"mixture": "diagonal", "mixture-full": "full"}
KINDS = (*MIXTURES, "flow", "flow-matching", "vae", "autoregressive", "codes")
"""What `refit_prior` fits by name."""

KEPT = "the model that was refitted"
"""What a note calls the model as it was."""

_COMPONENTS, _MOST_COMPONENTS = 10, 1000
_DEFAULTS: Json = {"batch_size": 256, "learning_rate": 2e-3, "precision": "float32"}
_STEPS = 5000
_CODE_WIDTHS, _CODE_STEPS, _CODE_TOKENS = (128, 128), 2000, 4096


def refit_prior(
    bundle: Bundle,
    data: Dataset,
    kind: str | Prior = "mixture",
    *,
    components: int | None = None,
    hidden: Sequence[int] | None = None,
    draws: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    **settings: Any,
) -> Bundle:
    """The model with a prior that is fitted to its latents, all else unchanged.

        p_new = argmax_p  sum_x E_q(z|x,c) [ log p(z) ]

    Of the bound, that is what depends on the prior, so the bound on the training data rises with the fit. What a model
    generates gets better where the latents of data are not distributed as its prior was, as with small beta or a
    deterministic encoder. Latents are samples of the posterior; those of a deterministic encoder are its points.
    Ghosh, Sajjadi, Vergari, Black, Scholkopf, "From variational to deterministic autoencoders" (2020), section 4: `mixture`.
    Dai, Wipf, "Diagnosing and enhancing VAE models" (2019), section 4: `vae`.

    | kind | prior | fitted by |
    |---|---|---|
    | `mixture`, `mixture-full` | `MixtureOfNormals` with diagonal or full covariance | expectation maximisation |
    | `flow` | `Flow`, a neural spline flow | gradient |
    | `flow-matching` | `FlowMatching` | gradient, without its density |
    | `vae` | `SecondStage` | gradient of its bound |
    | `autoregressive` | `Autoregressive` | gradient |
    | `codes` | `AutoregressiveCodes`, of a posterior over codes | gradient |

    Posteriors over codes, such as `VectorQuantized`, have a mass and no density: for them it is `codes`, or a prior over codes
    of one's own. `codes` is a transformer of two layers of 128 that takes 2,000 steps of about 4,096 tokens: minutes on a
    processor with a few cores. `AutoregressiveCodes` as it is by default is much larger, and finer where a GPU trains it.

    All others are fitted in units in which the latents have mean 0 and standard deviation 1. Those fitted by gradient keep
    the weights that are best on the latents of held-out examples. A `Prior` of one's own is trained from where it stands, in
    the latents' own units unless it is a `Standardized`; one that is made of the posterior or of data is given both.
    In a conditional model the latents are encoded under the examples' conditions. A mixture is then one for each condition
    (`training.mixtures.fit_mixture`); the other priors ignore conditions.
    A new prior may be worse than the one before, as after too few steps: `notes` says so, and `improved` is False.

    Args:
        bundle: a trained `VAE`; it is left as it is.
        data: the training data. The part that is held out is that of training (`training.run.split`).
        kind: one of `KINDS`, or a prior.
        components: of a mixture, at most one for 20 latents; or of each factor of `autoregressive`. At most 1,000; if None
            about 10, and for each category as many where the mixture is conditioned on one column of them.
        hidden: widths of the networks of the other kinds; of `codes`, the width of each layer, all the same.
        draws: posterior samples an example; None for as many as make 131,072 latents, at most 16. Of points there is one.
        seed: of everything random; the global random state is left as it was.
        progress: called with (done, total) while the fit runs.
        **settings: of `TrainConfig`, for the kinds that are fitted by gradient; 5,000 steps if there is no budget, 2,000 of
            `codes`.

    Returns:
        The model. `training["prior_fit"]` says how it was fitted, and holds the bound on held-out examples before and after,
        in nats of the data as stored, as `evaluate` does; `improved`, whether it rose; and `notes`, sentences on what should
        be known. The metrics are those afterwards, in nats of the values that the model is given, as in training.

    Raises:
        ConfigError: for an argument that cannot be, or a model whose latents the prior cannot be fitted to.
        DataError: for fewer than two examples.
        MissingExtraError: if the kind needs a package that is not installed.
    """
    _check(bundle, kind, components, hidden, draws, settings)
    training, held_out = split(data)
    device = device_of(bundle.vae)
    mine = replace(bundle, vae=copy.deepcopy(bundle.vae).eval())
    vae = cast(VAE, mine.vae)
    trainable = [parameter for parameter in vae.parameters() if parameter.requires_grad]
    vae.requires_grad_(False)
    config = TrainConfig.make(**{**_defaults(kind, vae, settings), **settings, "seed": seed})
    fabric = make_fabric(str(device))
    with seeded(seed, device):
        z, z_held_out = (latents_of(mine, part, num) for part, num in ((training, draws), (held_out, 1)))
        check_latents(vae, z)
        before = validate(vae, mine.transform, ELBO(), held_out, config, fabric)
        if isinstance(kind, str) and kind in MIXTURES:
            told = Told.of(vae, bounded(training), len(z) // len(bounded(training)))
            prior, how = fit_mixture(z, components, MIXTURES[kind], seed, told, progress)
        else:
            prior = copy.deepcopy(kind) if isinstance(kind, Prior) else _make(kind, vae, components, hidden)
            _start(prior, mine, training, z)
            how = _fit_by_gradient(prior, z, z_held_out, config, fabric, progress)
        vae.prior = prior.to(device).requires_grad_(True)
        vae.eval()
        after = validate(vae, mine.transform, ELBO(), held_out, config, fabric)
    for parameter in trainable:
        parameter.requires_grad_(True)
    summary = {
        "kind": _name(kind),
        **_compared(mine, data, held_out, before, after),
        "num_latents": len(z),
        "seed": seed,
        **how,
    }
    metrics = {f"validation_{name}": value for name, value in after.items()}
    kept = {name: value for name, value in bundle.training.items() if name != REFERENCE}  # that was of the prior before
    return replace(mine, training={**kept, PRIOR_FIT: summary}, metrics=metrics)


# ------------------------------------------------------------------------------------------------------- arguments


def _name(kind: str | Prior) -> str:
    return kind if isinstance(kind, str) else kind.registered_name


def _check(
    bundle: Bundle,
    kind: str | Prior,
    components: int | None,
    hidden: Sequence[int] | None,
    draws: int | None,
    settings: Json,
) -> None:
    """The model first, then the prior for it, then the settings of that."""
    if not isinstance(bundle.vae, VAE):
        raise ConfigError(
            f"The model must be a `vae.VAE` for its prior to be fitted, got a {bundle.vae.registered_name}, whose priors are "
            "learned with the rest. Train a VAE."
        )
    _check_prior(bundle.vae, kind)
    if components is not None and kind not in (*MIXTURES, "autoregressive"):
        raise ConfigError(
            f"`components` must be of mixture, mixture-full or autoregressive, got {components} for {_name(kind)}. Leave it "
            "out."
        )
    if components is not None and not 1 <= components <= _MOST_COMPONENTS:
        raise ConfigError(f"`components` must be from 1 to {_MOST_COMPONENTS:,}, got {components}. Leave it out for about 10.")
    if kind in MIXTURES and (hidden or settings):
        given = ", ".join(["hidden"] * bool(hidden) + list(settings))
        raise ConfigError(
            f"A mixture is fitted by expectation maximisation, which takes no settings of a run, got {given}. Leave them out, "
            "or choose another prior."
        )
    if kind == "codes" and hidden is not None and (len(set(hidden)) != 1 or min(hidden) < 1):
        raise ConfigError(f"`hidden` of `codes` must be one width, once a layer, got {list(hidden)}. Use [128, 128].")
    if draws is not None and draws < 1:
        raise ConfigError(f"`draws` must be at least 1, got {draws}. Leave it out for a fitting number.")
    if bundle.training.get(PRIVACY) or settings.get("dp_epsilon") is not None:
        raise ConfigError(
            "A prior must not be fitted with a promise of privacy, which the fit does not keep, got a private model or "
            "`dp_epsilon`. Choose another prior when training."
        )


def _check_prior(vae: VAE, kind: str | Prior) -> None:
    """Whether the prior is one for the posterior of the model."""
    posterior, shape = vae.posterior, tuple(vae.prior.shape)
    has_codes, for_codes = isinstance(posterior, Quantizer), kind == "codes" or isinstance(kind, CodePrior)
    if isinstance(kind, str) and kind not in KINDS:
        use = "codes" if has_codes else "mixture"
        raise ConfigError(f"The prior must be one of {', '.join(KINDS)}, got {kind!r}. Use `{use}` when in doubt.")
    if has_codes and not for_codes and (isinstance(kind, str) or kind.spaces != posterior.spaces):
        raise ConfigError(
            f"The prior of a {posterior.registered_name} must be over codes, got {_name(kind)}. Use `codes`, or "
            "`priors.AutoregressiveCodes` of a size of your own."
        )
    if for_codes and not has_codes:
        raise ConfigError(
            f"A prior over codes must have a posterior over codes, got {_name(kind)} for a {posterior.registered_name}. Use "
            "`mixture`."
        )
    if isinstance(kind, str):
        if len(shape) != 1 and not has_codes:
            raise ConfigError(
                f"Latents must be one vector for {kind} to be fitted, got latents {shape}. Give a prior of that shape."
            )
        return
    if tuple(kind.shape) != shape:
        raise ConfigError(f"The prior must have latents {shape}, got {kind.shape}. Make it of that size.")
    if not any(parameter.requires_grad for parameter in kind.parameters()):
        use = "codes" if has_codes else "mixture"
        raise ConfigError(f"The prior must have parameters to be fitted, and {kind.registered_name} has none. Use `{use}`.")
    if not kind.made_of_posterior and kind.spaces != posterior.spaces:
        p, q = next(pair for pair in zip(kind.spaces, posterior.spaces, strict=True) if pair[0] != pair[1])
        raise ConfigError(
            f"The prior must be over the space of the posterior, got {kind.registered_name} over {p} and "
            f"{posterior.registered_name} over {q}. Choose another prior."
        )


def _defaults(kind: str | Prior, vae: VAE, settings: Json) -> Json:
    """Settings of the run that fits a prior of the kind, where there are no others."""
    defaults, steps = _DEFAULTS, _STEPS
    if kind == "codes":
        tokens = cast(Quantizer, vae.posterior).num_tokens
        defaults, steps = (
            {**_DEFAULTS, "batch_size": min(256, max(16, _CODE_TOKENS // tokens)), "learning_rate": 1e-3},
            _CODE_STEPS,
        )
    budget = {} if any(settings.get(name) is not None for name in BUDGETS) else {"steps": steps}
    return {**defaults, **budget}


def _make(kind: str, vae: VAE, components: int | None, hidden: Sequence[int] | None) -> Prior:
    """The prior of a kind that is fitted by gradient."""
    if kind == "codes":
        q, (width, *others) = cast(Quantizer, vae.posterior), _CODE_WIDTHS if hidden is None else hidden
        return AutoregressiveCodes(q.shape, q.num_codes, q.num_tokens, width, 1 + len(others), math.gcd(width, 4))
    (num_latents,) = vae.prior.shape
    widths: Json = {} if hidden is None else {"hidden": list(hidden)}
    if kind == "flow":
        return Standardized(Flow(num_latents, **widths))
    if kind == "flow-matching":
        return Standardized(FlowMatching(num_latents, **widths))
    if kind == "autoregressive":
        return Standardized(Autoregressive(num_latents, components or _COMPONENTS, **widths))
    layers = [256, 256] if hidden is None else list(hidden)
    posterior = DiagonalNormal(MLP(num_latents, layers), num_latents)
    likelihood = Normal(MLP(num_latents, layers), [num_latents])
    return Standardized(SecondStage(StandardNormal(num_latents), posterior, likelihood))


# ------------------------------------------------------------------------------------------------------------- fits


def _start(prior: Prior, bundle: Bundle, training: Dataset, z: Tensor) -> None:
    """What a prior is given before it is trained: the units of the latents, the posterior, and data."""
    vae = cast(VAE, bundle.vae)
    prior.to(device_of(vae))
    prior.bind(vae.posterior)
    rows = max(1, min(len(training), 1024, 2**24 // training.schema.num_dimensions))
    inputs = prepare(bundle, training.batch(torch.randperm(len(training))[:rows]))
    prior.initialize(inputs.x, inputs.mask)
    if isinstance(prior, Standardized):
        prior.fit(z)


def _fit_by_gradient(
    prior: Prior, z: Tensor, z_held_out: Tensor, config: TrainConfig, fabric: Any, progress: Progress | None
) -> Json:
    """Trains the prior on latents as data, by the one loop; it has the best weights afterwards."""
    if config.batch_size > len(z):
        config = config.model_copy(update={"batch_size": len(z)})
    model = LatentsOnly(prior)
    listeners = [] if progress is None else [_Listener(progress)]
    data, held_out = as_data(z), as_data(z_held_out)
    outcome = Trainer(model, Levels(), PriorFit(), config, data, held_out, fabric, None, listeners).fit()
    model.load_state_dict(outcome.weights)
    return {
        "steps": outcome.progress.step,
        "best_step": outcome.progress.best_step,
        "stopped": outcome.progress.stopped,
        "seconds": round(outcome.seconds, 3),
        "loss": outcome.progress.best_validation.get("loss"),
        "prior": prior.spec(),
        "config": config.model_dump(mode="json"),
    }


def _compared(bundle: Bundle, data: Dataset, held_out: Dataset, before: dict[str, float], after: dict[str, float]) -> Json:
    """The bounds before and after, in nats of the data as stored, and what a person should know."""
    total = 0.0
    for start in range(0, len(held_out), 512):
        batch = held_out.batch(np.arange(start, min(start + 512, len(held_out)))).to(device_of(bundle.vae))
        total += float(bundle.transform.log_abs_det(batch.x, batch.mask).sum())
    units, improved = total / len(held_out), after["elbo"] >= before["elbo"]
    notes = []
    if not _may_be_known(bundle.training, data):
        notes.append("The data are not those that the model was trained on: the new prior fits these.")
    if not improved:
        fall = before["elbo"] - after["elbo"]
        notes.append(f"The new prior is worse than before, by {fall:.2f} nats on held-out examples: keep {KEPT}.")
    return {
        "elbo_before": before["elbo"] + units,
        "rate_before": before["rate"],
        "elbo": after["elbo"] + units,
        "rate": after["rate"],
        "improved": improved,
        "notes": notes,
    }


def _may_be_known(summary: Json, data: Dataset) -> bool:
    """Whether data can be those of training, by its summary; of a part of those only the size is known."""
    sizes = summary.get("num_training_examples"), summary.get("num_validation_examples")
    whole = summary.get(HELD_OUT)
    if not isinstance(whole, dict) or len(data) in sizes:
        return True
    return whole.get("fingerprint") == fingerprint(data)


class _Listener(Callback):
    """Tells how far a run is."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_report(self, metrics: dict[str, float], progress: RunProgress, budget: Budget) -> None:
        """In thousandths of the budget."""
        self.progress(round(1000 * budget.progress(progress.step)), 1000)
