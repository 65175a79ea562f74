"""Networks: features and heads, no losses."""

from vaekit.networks.condition import ConditionEncoder
from vaekit.networks.conv import ConvDecoder, ConvEncoder
from vaekit.networks.mlp import MLP

__all__ = ["MLP", "ConditionEncoder", "ConvDecoder", "ConvEncoder"]
