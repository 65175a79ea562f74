"""The error tree, and the sentence of a missing package."""

from __future__ import annotations

import pytest

from vaekit import errors


@pytest.mark.parametrize(
    ("error", "base"),
    [
        (errors.ConfigError, ValueError),
        (errors.DataError, ValueError),
        (errors.ModelFormatError, ValueError),
        (errors.ArchiveError, ValueError),
        (errors.MissingExtraError, ImportError),
        (errors.TrainingError, RuntimeError),
    ],
)
def test_every_error_is_vaekits_and_a_builtin(error: type[Exception], base: type[Exception]) -> None:
    assert issubclass(error, errors.VaekitError)
    assert issubclass(error, base)
    assert error.__name__ in (errors.__doc__ or "")


def test_the_tree_in_the_docstring_is_complete() -> None:
    defined = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert defined == {
        line.split("(")[0].strip() for line in (errors.__doc__ or "").splitlines() if line.startswith("      ")
    } | {"VaekitError"}


def test_require_returns_the_module() -> None:
    import os.path

    assert errors.require("os.path", "image", "Reading") is os.path


def test_require_names_the_package_and_the_extra() -> None:
    with pytest.raises(
        errors.MissingExtraError, match=r"Reading Parquet needs.*`no_such_package`.*pip install 'vaekit\[table\]'"
    ):
        errors.require("no_such_package.inner", "table", "Reading Parquet")
