"""Files of records: JSON lines, or CSV with a header row, in UTF-8. Read line by line."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Self

from tillsync_service.foundation import limits
from tillsync_service.operator.client import OperatorError

FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv"}

_HEAD_BYTES = 64 * 1024
# A file in none of whose first lines there is a record is of another kind.
_HEAD_ROWS = 20
_DELIMITERS = (",", ";", "\t")
_BOM = "\N{ZERO WIDTH NO-BREAK SPACE}"
_OTHER_KINDS = (
    (b"PK\x03\x04", "is a ZIP or Excel file: save it as CSV in UTF-8"),
    (b"\x1f\x8b", "is compressed: unpack it first"),
    (b"\xff\xfe", "is in UTF-16: save it in UTF-8"),
    (b"\xfe\xff", "is in UTF-16: save it in UTF-8"),
    (b"<", "is HTML or XML"),
)

Fields = Mapping[str, Any]


class RecordFileError(OperatorError):
    """The file is not what its name says; nothing of it may go in."""


@dataclass(frozen=True, slots=True)
class Line:
    """A record. `number`: where in the file it begins, from 1."""

    number: int
    record_id: str
    body: str


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no record, and why."""

    number: int
    why: str


def format_of(path: Path, chosen: str | None) -> str:
    """The format of a file: the chosen one, or what its name says. Raises RecordFileError."""
    found = chosen or FORMATS.get(path.suffix.lower())
    if found is None:
        raise RecordFileError(
            f"{path}: its name ends with none of {' '.join(FORMATS)}: give --format."
        )
    return found


class RecordFile:
    """An open file; a context manager. Of its `size` in bytes, `read_bytes` are read."""

    def __init__(
        self, path: Path, format_name: str, *, id_field: str = "id", integers: Sequence[str] = ()
    ) -> None:
        """Raises RecordFileError when this is another kind of file."""
        self._path = path
        self._id_field = id_field
        self._integers = frozenset(integers)
        self._number = 0
        self.read_bytes = 0
        try:
            self.size = path.stat().st_size
            self._file = path.open("rb")
        except OSError as error:
            raise self._error(f"cannot be read: {error.strerror}") from None
        try:
            self._must_be(format_name)
            rows = self._csv_rows() if format_name == "csv" else self._json_rows()
            self._rows = self._that_are_records(rows)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def lines(self) -> Iterator[Line | BadLine]:
        """Its records, once. Raises RecordFileError where the file is not UTF-8 any more."""
        for number, fields in self._rows:
            try:
                yield (
                    BadLine(number, fields)
                    if isinstance(fields, str)
                    else Line(number, self._id_of(fields), _body_of(fields))
                )
            except ValueError as error:
                yield BadLine(number, str(error))

    def _must_be(self, format_name: str) -> None:
        head = self._file.read(_HEAD_BYTES)
        self._file.seek(0)
        beginning = head.removeprefix(_BOM.encode()).lstrip()
        if not beginning:
            raise self._error("is empty")
        for magic, kind in _OTHER_KINDS:
            if beginning.startswith(magic):
                raise self._error(kind)
        if b"\0" in head:
            raise self._error("is no text")
        if format_name == "csv" and beginning[:1] in (b"{", b"["):
            raise self._error("is JSON and not CSV: give --format jsonl")
        if format_name == "jsonl" and beginning[:1] == b"[":
            raise self._error("is one JSON array: put one object on each line")

    def _that_are_records(
        self, rows: Iterator[tuple[int, Fields | str]]
    ) -> Iterator[tuple[int, Fields | str]]:
        head = list(islice(rows, _HEAD_ROWS))
        if not head:
            raise self._error("has no records")
        reasons = [(number, why) for number, why in head if isinstance(why, str)]
        if len(reasons) == len(head):
            number, why = reasons[0]
            kind = " Is it of another kind (--format)?" if why.startswith("Not ") else ""
            raise self._error(f"begins with no record. Line {number}: {why}{kind}")
        return chain(head, rows)

    def _text(self) -> Iterator[str]:
        for raw in self._file:
            self._number += 1
            self.read_bytes += len(raw)
            try:
                line = raw.decode()
            except UnicodeDecodeError:
                raise self._error(f"is not in UTF-8 in line {self._number}: save it so") from None
            yield line.removeprefix(_BOM) if self._number == 1 else line

    def _json_rows(self) -> Iterator[tuple[int, Fields | str]]:
        """Each line's number, and its fields or why there are none."""
        for line in self._text():
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
            except json.JSONDecodeError as error:
                yield self._number, f"Not JSON: {error.msg} at character {error.colno}."
            except (ValueError, RecursionError) as error:
                yield self._number, f"Not JSON: {error}."
            else:
                is_record = isinstance(fields, dict)
                yield self._number, fields if is_record else "Not a JSON object on one line."

    def _csv_rows(self) -> Iterator[tuple[int, Fields | str]]:
        text = self._text()
        delimiter, names = self._header(next(text))
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        while True:
            begins = self._number + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                to = f" (to line {self._number})" if self._number > begins else ""
                yield begins, f"Not CSV: {error}{to}."
                continue
            if len(cells) == len(names):
                yield begins, self._with_integers(dict(zip(names, cells, strict=True)))
            elif cells:
                yield begins, f"{len(cells)} columns, and the header has {len(names)}."

    def _header(self, line: str) -> tuple[str, list[str]]:
        """The delimiter, and the names of the columns."""
        for delimiter in _DELIMITERS:
            names = [name.strip() for name in next(csv.reader([line], delimiter=delimiter))]
            if self._id_field in names:
                break
        else:
            raise self._error(f'has no column "{self._id_field}" (--id-field) in its first line')
        if missing := self._integers - set(names):
            raise self._error(f'has no column "{min(missing)}" (--integer) in its first line')
        if "" in names or len(set(names)) < len(names):
            raise self._error("has a column without a name, or two of the same name")
        return delimiter, names

    def _with_integers(self, cells: dict[str, str]) -> Fields | str:
        """The cells, with numbers where they shall be; an empty one of these is left out."""
        fields: dict[str, str | int] = dict(cells)
        for name in self._integers:
            cell = cells[name].strip()
            try:
                if cell:
                    fields[name] = int(cell)
                else:
                    del fields[name]
            except ValueError:
                return f'"{name}" is no whole number: {cell[:40]!r}.'
        return fields

    def _id_of(self, fields: Fields) -> str:
        """Raises ValueError that says why there is none."""
        found = fields.get(self._id_field)
        if isinstance(found, int) and not isinstance(found, bool):
            return str(found)
        if not isinstance(found, str) or not found:
            raise ValueError(f'No "{self._id_field}" (--id-field) that is a text or a number.')
        _must_be_whole(found)
        return found

    def _error(self, what: str) -> RecordFileError:
        end = "" if what.endswith((".", "?")) else "."
        return RecordFileError(f"{self._path} {what}{end} Nothing was taken in.")


def _body_of(fields: Fields) -> str:
    """Raises ValueError that says why there is none."""
    body = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    if _must_be_whole(body) > limits.MAX_RECORD_BYTES:
        raise ValueError(f"Over {limits.MAX_RECORD_BYTES:,} bytes.")
    return body


def _must_be_whole(text: str) -> int:
    """How many bytes it has. Raises ValueError when it cannot be sent."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise ValueError("A text in it is half a character (a lone surrogate).") from None
