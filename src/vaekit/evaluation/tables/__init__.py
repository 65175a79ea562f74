"""How good synthetic rows of a table are: faithful, useful, and no copies."""

from vaekit.evaluation.tables.report import TableReport, evaluate_tables
from vaekit.evaluation.tables.rows import Rows

__all__ = ["Rows", "TableReport", "evaluate_tables"]
