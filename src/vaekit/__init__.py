"""vaekit: a variational autoencoder from your own data, and every job that it is for.

    import vaekit

    model = vaekit.train("photos/", latent=32, minutes=10)
    model.generate(16)

Names are imported when they are first used: `import vaekit` itself loads no torch.
"""

# pyright: reportUnsupportedDunderAll=false
import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "train": "model",
    "load": "model",
    "Model": "model",
    "VAE": "vae",
    "HierarchicalVAE": "vae",
    "ELBO": "objectives",
    "IWAE": "objectives",
    "DReG": "objectives",
    "VaekitError": "errors",
    "ConfigError": "errors",
    "DataError": "errors",
    "ModelFormatError": "errors",
    "ArchiveError": "errors",
    "MissingExtraError": "errors",
    "TrainingError": "errors",
}
_MODULES = (
    "component",
    "data",
    "distributions",
    "errors",
    "likelihoods",
    "networks",
    "objectives",
    "posteriors",
    "priors",
    "types",
)

__all__ = [
    "ELBO",
    "IWAE",
    "VAE",
    "ArchiveError",
    "ConfigError",
    "DReG",
    "DataError",
    "HierarchicalVAE",
    "MissingExtraError",
    "Model",
    "ModelFormatError",
    "TrainingError",
    "VaekitError",
    "__version__",
    "component",
    "data",
    "distributions",
    "errors",
    "likelihoods",
    "load",
    "networks",
    "objectives",
    "posteriors",
    "priors",
    "train",
    "types",
]


def __getattr__(name: str) -> Any:
    """A public name, imported at its first use (PEP 562)."""
    if name in _MODULES:
        return importlib.import_module(f"vaekit.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(f"vaekit.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'vaekit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
