"""The public names with their types, for editors and type checkers; `__init__.py` finds them when they are used."""

from vaekit import component as component
from vaekit import data as data
from vaekit import distributions as distributions
from vaekit import errors as errors
from vaekit import likelihoods as likelihoods
from vaekit import networks as networks
from vaekit import objectives as objectives
from vaekit import posteriors as posteriors
from vaekit import priors as priors
from vaekit import types as types
from vaekit.errors import ArchiveError as ArchiveError
from vaekit.errors import ConfigError as ConfigError
from vaekit.errors import DataError as DataError
from vaekit.errors import MissingExtraError as MissingExtraError
from vaekit.errors import ModelFormatError as ModelFormatError
from vaekit.errors import TrainingError as TrainingError
from vaekit.errors import VaekitError as VaekitError
from vaekit.model import Model as Model
from vaekit.model import load as load
from vaekit.model import train as train
from vaekit.objectives import ELBO as ELBO
from vaekit.objectives import IWAE as IWAE
from vaekit.objectives import DReG as DReG
from vaekit.vae import VAE as VAE
from vaekit.vae import HierarchicalVAE as HierarchicalVAE

__version__: str
