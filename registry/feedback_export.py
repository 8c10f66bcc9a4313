"""Feedback as a file, page by page: JSON lines, or Parquet. Each row is a record, with what replaced parts of it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, Literal, get_args

from pydantic_core import to_json

from registry.errors import BadInput
from registry.feedback import FeedbackLog
from registry.records import Feedback

Format = Literal["jsonl", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)
_LEFT_OUT = {"schema_number"}
_UNSAID = {"by", "comment"}
"""Where nothing is an empty text. Elsewhere one says something: an answer of no words, or that none would have been right."""


def export(log: FeedbackLog, adapter: str, format_: Format) -> Iterator[bytes]:
    """The pieces of the file, oldest feedback first; memory holds a thousand items. ``BadInput``, before the first piece,
    where Parquet is asked for and pyarrow is not installed."""
    return _parquet(_rows(log, adapter), _arrow()) if format_ == "parquet" else _lines(_rows(log, adapter))


def _rows(log: FeedbackLog, adapter: str) -> Iterator[list[dict[str, Any]]]:
    for page in log.pages(adapter):
        replaced = log.superseded(adapter, [feedback.id for feedback in page])
        yield [_row(feedback, by) for feedback, by in zip(page, replaced, strict=True)]


def _row(feedback: Feedback, replaced: dict[str, str]) -> dict[str, Any]:
    return feedback.model_dump(exclude=_LEFT_OUT) | {"superseded_by": replaced}


def _lines(pages: Iterator[list[dict[str, Any]]]) -> Iterator[bytes]:
    for page in pages:
        yield b"".join(to_json(_said(row)) + b"\n" for row in page)


def _said(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what it does not say."""
    return {
        name: value
        for name, value in row.items()
        if value not in (None, (), {}) and not (name in _UNSAID and value == "")
    }


def _parquet(pages: Iterator[list[dict[str, Any]]], arrow: Any) -> Iterator[bytes]:
    """A row group a page. Parquet is written from front to back, so that what is written can be sent at once."""
    from pyarrow.parquet import ParquetWriter

    schema, written = _schema(arrow), _Written()
    with ParquetWriter(written, schema, compression="zstd") as writer:
        for page in pages:
            writer.write_table(arrow.Table.from_pylist([_flat(row) for row in page], schema=schema))
            yield written.taken()
    yield written.taken()


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """What has no fixed fields as JSON."""
    return row | {name: to_json(row[name]).decode() for name in ("sampling", "superseded_by")}


def _schema(arrow: Any) -> Any:
    text, message = arrow.string(), arrow.struct([("role", arrow.string()), ("content", arrow.string())])
    return arrow.schema(
        [
            ("id", text),
            ("adapter", text),
            ("version", arrow.int64()),
            ("request_id", text),
            ("messages", arrow.list_(message)),
            ("prompt", text),
            ("answer", text),
            ("rating", arrow.float64()),
            ("thumbs", text),
            ("stars", arrow.int8()),
            ("correction", text),
            ("preferred", text),
            ("rejected", text),
            ("rater", text),
            ("by", text),
            ("comment", text),
            ("labels", arrow.list_(text)),
            ("conversation", text),
            ("sampling", text),
            ("at", arrow.timestamp("us", tz="UTC")),
            ("superseded_by", text),
        ]
    )


def _arrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise BadInput(
            "Parquet needs pyarrow where the service runs: pip install 'shoal[parquet]'; or ask for jsonl.",
            field="format",
        ) from error
    return pyarrow


class _Written(io.RawIOBase):
    """A file that only grows, and gives away what was written to it."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, piece: Any) -> int:
        self._pieces.append(bytes(piece))
        self._size += len(self._pieces[-1])
        return len(self._pieces[-1])

    def taken(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)
