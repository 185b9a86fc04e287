"""Evaluation files (Parquet), read within limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tidegate.registry.intake.rejection import rejected
from tidegate.registry.numbering.evaluation import Evaluation

ROWS_MAX: Final = 2_000_000
COLUMNS_MAX: Final = 2_000
UNPACKED_BYTES_MAX: Final = 1 << 30


def read_evaluation(path: Path, *, digest: str, slice_columns: tuple[str, ...]) -> Evaluation:
    """Return the needed columns of the Parquet file at ``path``.

    Raises:
        Rejected: It is no Parquet (EVALUATION_UNREADABLE), lacks ``label``, or unpacks to more than the limits.

    """
    try:
        with pq.ParquetFile(path) as file:
            _check_size(file.metadata)
            names = set(file.schema_arrow.names)
            wanted = [name for name in ("label", "score", "example_id", *slice_columns) if name in names]
            table = file.read(columns=list(dict.fromkeys(wanted)))
    except (pa.ArrowException, OSError) as error:
        raise rejected(
            "EVALUATION_UNREADABLE", f"the evaluation is no Parquet file: {error}", "evaluation_uri"
        ) from None
    columns = {name: _values(table[name]) for name in table.column_names}
    if "label" not in columns:
        raise rejected("EVALUATION_UNREADABLE", "the evaluation has no column label", "evaluation_uri")
    return Evaluation(
        digest=digest,
        labels=columns["label"],
        scores=columns.get("score"),
        example_ids=columns.get("example_id"),
        slices={name: columns[name] for name in slice_columns if name in columns},
    )


def _values(column: Any) -> NDArray[Any]:
    values: NDArray[Any] = column.to_numpy()
    return values.astype(str) if values.dtype.kind == "O" else values


def _check_size(metadata: Any) -> None:
    unpacked = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
    for what, size, limit in (
        ("rows", metadata.num_rows, ROWS_MAX),
        ("columns", metadata.num_columns, COLUMNS_MAX),
        ("bytes unpacked", unpacked, UNPACKED_BYTES_MAX),
    ):
        if size > limit:
            raise rejected(
                "EVALUATION_TOO_LARGE", f"the evaluation has {size} {what}, at most {limit}", "evaluation_uri"
            )
