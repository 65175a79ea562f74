"""Every error that vaekit raises on purpose.

    VaekitError
      ConfigError(ValueError)        an argument that cannot be
      DataError(ValueError)          data that cannot be read, or does not fit
      ModelFormatError(ValueError)   a model folder that is not one
      ArchiveError(ValueError)       an archive that is damaged, or of another model
      MissingExtraError(ImportError) a package that is not installed; names the pip command
      TrainingError(RuntimeError)    a run that cannot go on

A message has three parts: what must hold, what was found, what to do.
"""

from __future__ import annotations

import importlib
from types import ModuleType


class VaekitError(Exception):
    """The root of the tree: catching it catches everything that a user can mend."""


class ConfigError(VaekitError, ValueError):
    """An argument that cannot be."""


class DataError(VaekitError, ValueError):
    """Data that cannot be read, or that does not fit the model."""


class ModelFormatError(VaekitError, ValueError):
    """A model folder that is damaged, foreign, or of a later format."""


class ArchiveError(VaekitError, ValueError):
    """A compressed archive that is damaged, or that belongs to another model."""


class MissingExtraError(VaekitError, ImportError):
    """A package of an optional extra that is not installed."""


class TrainingError(VaekitError, RuntimeError):
    """A run that cannot go on: it diverged, or its folder cannot be written."""


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Imports `module`, or names the extra that brings it.

    Args:
        module: dotted name of the module, as in `PIL.Image`.
        extra: the extra of vaekit that installs it, as in `image`.
        purpose: what needs it, as the start of a sentence: "Reading images".

    Raises:
        MissingExtraError: if the module is not installed.

    Example:
        >>> require("json", "image", "Reading images").__name__
        'json'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} needs the package `{module.split('.')[0]}`, which is not installed. "
            f"Install it with `pip install 'vaekit[{extra}]'`."
        ) from error
