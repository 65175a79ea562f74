"""Networks: features and heads, no losses."""

from vaekit.networks.cells import CellEmbedding
from vaekit.networks.columns import ColumnDecoder, ColumnEncoder
from vaekit.networks.condition import ConditionEncoder
from vaekit.networks.conv import ConvDecoder, ConvEncoder
from vaekit.networks.grid import GridDecoder, GridEncoder, SumOfLayers
from vaekit.networks.hierarchy import Ladder, Tail
from vaekit.networks.hierarchy_conv import ConvLadder
from vaekit.networks.hierarchy_dense import DenseLadder
from vaekit.networks.logs import LogInput
from vaekit.networks.mlp import MLP
from vaekit.networks.part import Part
from vaekit.networks.recurrent import LSTMDecoder, LSTMEncoder
from vaekit.networks.residual import ResidualMLP
from vaekit.networks.sequence import SequenceEncoder, SequenceNetwork
from vaekit.networks.spectral import Spectral
from vaekit.networks.transformer import TransformerDecoder, TransformerEncoder

__all__ = [
    "MLP",
    "CellEmbedding",
    "ColumnDecoder",
    "ColumnEncoder",
    "ConditionEncoder",
    "ConvDecoder",
    "ConvEncoder",
    "ConvLadder",
    "DenseLadder",
    "GridDecoder",
    "GridEncoder",
    "LSTMDecoder",
    "LSTMEncoder",
    "Ladder",
    "LogInput",
    "Part",
    "ResidualMLP",
    "SequenceEncoder",
    "SequenceNetwork",
    "Spectral",
    "SumOfLayers",
    "Tail",
    "TransformerDecoder",
    "TransformerEncoder",
]
