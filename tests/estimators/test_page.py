"""The page of the estimators runs as it stands: its Python blocks, in order, in one process."""

from __future__ import annotations

import pytest

from test_docs import blocks, run


@pytest.mark.slow
def test_the_page_runs(tmp_path):
    code = "\n".join(code for language, code in blocks("docs/estimators.md") if language == "python")
    said = run("python", code, tmp_path)
    assert "vaetransformer0  vaetransformer1" in said
    assert "[ 1 -1]" in said
