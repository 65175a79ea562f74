"""A data set in memory, or mapped from disk: the stored array, the columns beside it, and its schema."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.data.schema import Schema
from vaekit.data.text.packing import encode_texts
from vaekit.data.text.tokens import tokenizer_of
from vaekit.data.values import FLOAT_MAX, Values, check_array, chunks, codes_of, from_levels, store
from vaekit.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from vaekit.types import Batch

_FINGERPRINT_ROWS = 1000


@dataclass(frozen=True, eq=False)
class Dataset:
    """N examples as they are stored.

    A selection shares the stored array and says which of its rows it has, so that dividing data copies nothing. Read the
    values by `batch`, `stored`, `observed` and `raw`, which know the rows; `x` and `mask` may hold more examples.

    Attributes:
        schema: what the data are.
        x: (M, *S) level codes (uint8, uint16), float32, the float64 cells of a table, or the codes of text (uint16, int32); may
            be mapped from disk.
        columns: name -> (N,) int64 codes, -1 where unknown.
        mask: (M, *S) bool, True where observed; None where everything is, and for tables, whose cells are NaN where they
            are missing.
        names: the relative file names of images, N of them.
        splits: `train`, `test`, ... -> (n,) indices, where the source gives a split.
        notes: sentences that a person should read.
        rows: (N,) which rows of `x` and `mask` the examples are, in their order; None where they are all M of them.
        groups: (N,) numbers, the same for examples that are parts of one, such as a long text, and are held out together;
            None where each stands alone.

    Example:
        >>> from vaekit.data.loading import open
        >>> data = open(np.arange(12, dtype="uint8").reshape(3, 2, 2))
        >>> len(data), data.schema.kind, data.schema.levels, data.batch([2, 0]).x.shape
        (3, 'images', 256, torch.Size([2, 1, 2, 2]))
    """

    schema: Schema
    x: np.ndarray
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    mask: np.ndarray | None = None
    names: Sequence[str] | None = None
    splits: Mapping[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    rows: np.ndarray | None = None
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.x) if self.rows is None else len(self.rows)

    def select(self, indices: np.ndarray | Sequence[int]) -> Dataset:
        """The examples at `indices`, in that order. The stored values are shared, not copied.

        Raises:
            IndexError: if an index is not in the data.
        """
        chosen = np.asarray(indices)
        chosen = chosen if chosen.dtype.kind in "iu" else chosen.astype(np.int64)
        places = np.arange(len(self), dtype=index_dtype(len(self)))[chosen]
        rows = places if self.rows is None else self.rows[places]
        run = _as_slice(rows)  # a run of neighbours is a view, and needs no rows
        return replace(
            self,
            schema=self.schema.model_copy(update={"num_examples": len(places)}),
            x=self.x if run is None else self.x[run],
            columns={name: codes[places] for name, codes in self.columns.items()},
            mask=self.mask if self.mask is None or run is None else self.mask[run],
            names=None if self.names is None else [self.names[i] for i in places],
            splits={},
            rows=rows if run is None else None,
            groups=None if self.groups is None else self.groups[places],
        )

    def stored(self, indices: np.ndarray | Sequence[int] | None = None) -> np.ndarray:
        """The stored values (n, *S) of the examples at `indices`, or of all: those are a view where no rows are chosen."""
        return self._of(self.x, indices)

    def observed(self, indices: np.ndarray | Sequence[int] | None = None) -> np.ndarray | None:
        """The mask (n, *S) of the examples at `indices`, or of all; None where everything is observed."""
        if self.schema.kind == "table" and self.schema.missing:
            return ~np.isnan(self._of(self.x, indices))
        return None if self.mask is None else self._of(self.mask, indices)

    def _of(self, array: np.ndarray, indices: np.ndarray | Sequence[int] | None) -> np.ndarray:
        if indices is None:
            return array if self.rows is None else array[self.rows]
        places = np.asarray(indices, dtype=np.int64)
        return array[places if self.rows is None else self.rows[places]]

    def split(self, name: str) -> Dataset:
        """The examples of one split.

        Raises:
            DataError: if the data have no split of that name.
        """
        if name not in self.splits:
            found = ", ".join(f"`{split}`" for split in self.splits) or "no splits"
            remedy = "Choose one of them, or `all`." if self.splits else "Use `all`, or leave it out."
            raise DataError(f"The data must have a split `{name}`; found {found}. {remedy}")
        return self.select(self.splits[name])

    def batch(self, indices: Tensor | np.ndarray | Sequence[int]) -> Batch:
        """The examples at `indices` as tensors, in one gather.

        Args:
            indices: (B,) integers.
        """
        import torch

        from vaekit.types import Batch

        index = torch.as_tensor(indices, dtype=torch.int64, device="cpu")
        condition = {name: torch.from_numpy(codes)[index] for name, codes in self.columns.items()}
        row = index if self.rows is None else torch.from_numpy(self.rows)[index]
        x = _gather(self.x, row)
        if self.schema.kind == "table" and self.schema.missing:
            return Batch(x, ~x.isnan(), condition or None)
        return Batch(x, None if self.mask is None else _gather(self.mask, row), condition or None)

    def raw(self, x: np.ndarray | Tensor | None = None) -> np.ndarray:
        """Values in the source's layout, dtype and scale.

        Args:
            x: (B, *S) level codes or values, as a model gives them; None for the data's own, NaN where missing.
        """
        out = to_source(self.stored() if x is None else x, self.schema)
        mask = self.observed() if x is None else None
        if mask is not None and out.dtype.kind == "f":
            out[_to_layout(~mask, self.schema.source.layout)] = np.nan
        return out


def index_dtype(num: int) -> type[np.signedinteger]:
    """The dtype of indices of `num` examples: of tens of millions, 64 bits would be hundreds of megabytes."""
    return np.int32 if num < 2**31 else np.int64


def spaced(num: int, most: int) -> np.ndarray:
    """At most `most` indices of `num` examples, evenly spaced, the first and the last among them.

    Example:
        >>> spaced(10, 4), spaced(3, 4)
        (array([0, 3, 6, 9]), array([0, 1, 2]))
    """
    return np.arange(num) if num <= most else np.arange(most) * (num - 1) // max(1, most - 1)


def fingerprint(dataset: Dataset) -> str:
    """A hash by which data are known again: of the schema without its source, and of a thousand examples.

    The same examples give the same fingerprint as a file, as an array or as a selection of other data.
    """
    rows = spaced(len(dataset), _FINGERPRINT_ROWS)
    unsaid = {"source"} if dataset.schema.text is not None else {"source", "text"}
    digest = hashlib.sha256(dataset.schema.model_dump_json(exclude=unsaid).encode())
    digest.update(np.ascontiguousarray(dataset.stored(rows)).tobytes())
    mask = dataset.observed(rows)
    if mask is not None:
        digest.update(b"mask" + mask.tobytes())
    for name in sorted(dataset.columns):
        digest.update(name.encode() + dataset.columns[name][rows].tobytes())
    return digest.hexdigest()


def to_source(values: np.ndarray | Tensor, schema: Schema) -> np.ndarray:
    """Level codes, or continuous values, in the source's layout, dtype and scale.

        source value = offset + step * clip(round(level), 0, V - 1)

    Args:
        values: (B, *S); floats in level units are rounded and clipped to the grid.
        schema: of the source.

    Returns:
        An array (B, ...) in the source's layout; of text, (B,) objects that are strings.

    Raises:
        DataError: if the examples do not have the schema's shape.
    """
    array = as_numpy(values)
    if schema.text is not None:
        return _texts_of(array, schema)
    if array.shape[1:] != schema.shape:
        raise DataError(
            f"Each example must have the shape {schema.shape}, found {array.shape[1:]}. Give values as the model makes them."
        )
    if schema.kind == "table":
        return array.astype(np.float64)
    dtype = np.dtype(schema.source.dtype)
    array = _to_layout(array, schema.source.layout)
    if schema.levels is None:
        return _cast(array, dtype)
    if array.dtype.kind == "f" or (array.size and (array.min() < 0 or array.max() >= schema.levels)):
        array = np.clip(np.rint(array), 0, schema.levels - 1)
    if dtype.kind in "iu" and schema.offset == 0.0 and schema.step == 1.0:
        return array.astype(dtype)
    return _cast(from_levels(array, schema.offset, schema.step), dtype)


def from_source(array: np.ndarray, schema: Schema, *, missing: bool | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Values in the source's layout and scale as the schema stores them: the inverse of `to_source`.

    Args:
        array: (N, ...) in the source's layout, or in the stored one; of text, (N,) strings.
        schema: that the array must fit.
        missing: whether NaN stands for a missing element; as the schema has it if None.

    Returns:
        x (N, *S) in the storage dtype, and the mask of what is observed (None where everything is).

    Raises:
        DataError: if the shape differs, a value is not on the grid, or on NaN and infinities.
    """
    if schema.text is not None:
        return _codes_of(array, schema), None
    check_array(array)
    array = _to_stored(array, schema)
    missing = schema.missing if missing is None else missing
    mask = _observed(array, missing)
    values = values_of(schema, missing=mask is not None)
    if values.levels is not None:
        _check_grid(array, values)
    return store([array], values), mask


def _texts_of(codes: np.ndarray, schema: Schema) -> np.ndarray:
    """Codes (N, T) as an array (N,) of texts; floats are rounded and clipped."""
    assert schema.text is not None
    if codes.ndim != 2:
        raise DataError(f"Texts must be codes of the shape (N, T), found {codes.shape}. Give codes as the model makes them.")
    codes = codes if codes.dtype.kind in "iu" else np.rint(codes).clip(0, schema.text.num_tokens - 1).astype(np.int64)
    texts = np.empty(len(codes), dtype=object)
    texts[:] = tokenizer_of(schema.text).decode(codes)
    return texts


def _codes_of(texts: np.ndarray, schema: Schema) -> np.ndarray:
    """Texts (N,) as codes (N, T), each cut to what fits; codes (N, T) as they are."""
    assert schema.text is not None
    if texts.ndim == 2 and texts.dtype.kind in "iu" and texts.shape[1:] == schema.shape:
        return texts.astype(schema.dtype)
    return encode_texts(texts.tolist(), tokenizer_of(schema.text), schema.shape[0], schema.dtype)


def values_of(schema: Schema, missing: bool = False) -> Values:
    """The grid of a schema; a table has none."""
    assert schema.values not in ("cells", "tokens")
    assert schema.dtype not in ("int32", "float64")
    return Values(schema.values, schema.levels, schema.offset, schema.step, schema.low, schema.high, schema.dtype, missing)


def as_numpy(values: Any) -> np.ndarray:
    """An array of an array, a tensor, or nested lists of numbers. Tensors come to the CPU; bfloat16 becomes float32.

    Raises:
        DataError: if it is ragged, a sparse matrix, or no array at all.
    """
    if hasattr(values, "toarray"):
        raise DataError(f"The data must be a dense array, found a sparse {type(values).__name__}. Use its `.toarray()`.")
    if hasattr(values, "detach"):
        tensor = values.detach().cpu()
        return (tensor.float() if "bfloat16" in str(tensor.dtype) else tensor).numpy()
    try:
        return np.asarray(values)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"The data must be an array of numbers with rows of equal length, but: {error}. Bring the rows to one length."
        ) from error


def to_chw(array: np.ndarray, layout: str) -> np.ndarray:
    """An array (N, ...) in a source layout as (N, *S): a view.

    Example:
        >>> to_chw(np.zeros((5, 8, 6, 3)), "HWC").shape
        (5, 3, 8, 6)
    """
    if layout == "HW":
        return array[:, None]
    if layout == "HWC":
        return np.moveaxis(array, -1, 1)
    return array.reshape(len(array), -1) if layout == "flat" else array


def _to_layout(array: np.ndarray, layout: str) -> np.ndarray:
    if layout == "HW":
        return array[:, 0]
    return np.moveaxis(array, 1, -1) if layout == "HWC" else array


def _cast(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "b":
        return array > 0.5
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        # The greatest 64-bit integers are not floats: a clip to the float below them keeps the cast in range.
        high = info.max if info.bits < 64 else int(np.nextafter(float(info.max), 0.0))
        return np.clip(np.rint(array.astype(np.float64)), info.min, high).astype(dtype)
    return array.astype(dtype)


def _to_stored(array: np.ndarray, schema: Schema) -> np.ndarray:
    """(N, *S), from the source's layout, or else from any layout that gives the schema's shape."""
    ndim = {"CHW": 4, "HWC": 4, "HW": 3}
    if schema.kind == "vectors" and math.prod(array.shape[1:]) == schema.num_dimensions:
        return array.reshape(len(array), *schema.shape)
    if schema.kind == "images":
        for layout in dict.fromkeys((schema.source.layout, "CHW", "HWC", "HW")):
            if array.ndim == ndim.get(layout) and to_chw(array[:1], layout).shape[1:] == schema.shape:
                return to_chw(array, layout)
    expected = _to_layout(np.empty((1, *schema.shape), bool), schema.source.layout).shape[1:]
    fix = "Bring the data to that shape."
    if array.shape in (expected, schema.shape):
        fix = "For a single example, add the axis of examples: `x[None]`."
    raise DataError(
        f"Each example must have the shape {expected} ({schema.source.layout}), found {array.shape[1:]} "
        f"in an array of the shape {array.shape}. {fix}"
    )


def _observed(array: np.ndarray, missing: bool) -> np.ndarray | None:
    """The mask of an array (N, *S), or None where nothing is missing."""
    if array.dtype.kind != "f":
        return None
    mask = np.empty(array.shape, bool)
    for start, rows in chunks(array):
        mask[start : start + len(rows)] = ~np.isnan(rows)
        if np.isinf(rows).any() or (rows.itemsize > 4 and (np.abs(rows) > FLOAT_MAX).any()):
            raise DataError("The data must be finite 32-bit floats, found infinities or larger values. Remove or replace them.")
    if mask.all():
        return None
    if not missing:
        rows = int((~mask).reshape(len(mask), -1).any(axis=1).sum())
        raise DataError(
            f"The data must have no NaN, found some in {rows} of {len(mask)} rows. "
            "Use `missing='nan'` (`--missing nan`) to take NaN as missing values, or fill them in."
        )
    return mask


def _check_grid(array: np.ndarray, values: Values) -> None:
    assert values.levels is not None
    for _, rows in chunks(array):
        if rows.dtype.kind == "u" and values.offset == 0.0 and values.step == 1.0 and rows.max() < values.levels:
            continue
        off = codes_of(rows, values)[1]
        if rows.dtype.kind == "f":
            off &= ~np.isnan(rows)
        if off.any():
            last = values.offset + values.step * (values.levels - 1)
            between = f"{values.offset:g} or {last:g}" if values.levels == 2 else f"{values.offset:g}, "
            between += "" if values.levels == 2 else f"{values.offset + values.step:g}, ..., {last:g}"
            raise DataError(
                f"Each value must be one of {between}, as in the data that the model was trained on; "
                f"found {rows[off][0].item():g} ({int(off.sum())} such values at least). Bring the data to the same scale."
            )


def _as_slice(indices: np.ndarray) -> slice | None:
    """The slice that gives indices of neighbours in their order; None where they are none."""
    if len(indices) and indices[-1] - indices[0] == len(indices) - 1 and bool(np.all(indices[1:] - indices[:-1] == 1)):
        return slice(int(indices[0]), int(indices[-1]) + 1)
    return None


def _gather(array: np.ndarray, index: Tensor) -> Tensor:
    import torch

    if isinstance(array, np.memmap) or not array.flags.writeable or min(array.strides) < 0:  # of which torch takes none
        # Sorted, so that the disk is read forwards; fancy indexing, for `np.take` would copy a permuted map whole.
        order = np.argsort(index.numpy(), kind="stable")
        rows = array[index.numpy()[order]]
        return torch.from_numpy(np.ascontiguousarray(rows[np.argsort(order)]))
    if array.dtype == np.uint16:  # torch has few operations on uint16; a gather does not care for the sign
        return torch.from_numpy(array.view(np.int16)).index_select(0, index).view(torch.uint16)
    return torch.from_numpy(array).index_select(0, index)
