"""Files of records, as they come out of spreadsheets and till systems."""

import json

import pytest

from tillsync_service.foundation import limits
from tillsync_service.operator.record_files import (
    BadLine,
    Line,
    RecordFile,
    RecordFileError,
    format_of,
)


@pytest.fixture
def read(tmp_path):
    """Reads a file of these contents to its end."""

    def read(contents, name="records.jsonl", **options):
        path = tmp_path / name
        path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
        with RecordFile(path, format_of(path, None), **options) as file:
            lines = list(file.lines())
            assert file.read_bytes == file.size
            return lines

    return read


def good(lines):
    """(line, id, fields) of the records."""
    return [
        (line.number, line.record_id, json.loads(line.body))
        for line in lines
        if isinstance(line, Line)
    ]


def bad(lines):
    """Why, by line."""
    return {line.number: line.why for line in lines if isinstance(line, BadLine)}


def test_json_lines_are_records(read):
    """Each line is a product; its number may be a number, and blank lines are nothing."""
    lines = read('\ufeff{"id":"a","n":1.5}\r\n\n  {"id":7,"name":"é\\u00e9"}  \n{"id":"c"}')

    assert good(lines) == [
        (1, "a", {"id": "a", "n": 1.5}),
        (3, "7", {"id": 7, "name": "éé"}),
        (4, "c", {"id": "c"}),
    ]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("rubbish", "Not JSON: Expecting value at character 1."),
        ('{"id":"x"', "Not JSON: "),
        ("[1]", "Not a JSON object on one line."),
        ("{}", 'No "id" (--id-field)'),
        ('{"id":true}', 'No "id" (--id-field)'),
        ('{"id":1.5}', 'No "id" (--id-field)'),
        ('{"id":null}', 'No "id" (--id-field)'),
        ('{"id":""}', 'No "id" (--id-field)'),
        ('{"id":"\\ud800"}', "half a character"),
        ('{"id":"x","a":"\\udfff"}', "half a character"),
        ('{"id":"x","a":' + "9" * 5_000 + "}", "Not JSON: "),
        ('{"id":"x","a":' + "[" * 9_000 + "]" * 9_000 + "}", "Not JSON: "),
        ('{"id":"x","a":"' + "x" * limits.MAX_RECORD_BYTES + '"}', "Over 65,536 bytes."),
    ],
)
def test_a_bad_line_is_told_with_its_number(read, line, why):
    """One broken line is named, and the others are records."""
    lines = read(f'{{"id":1}}\n{line}\n{{"id":2}}\n')

    assert [number for number, _, _ in good(lines)] == [1, 3]
    assert list(bad(lines)) == [2]
    assert why in bad(lines)[2]


def test_a_csv_has_a_header_and_columns(read):
    """A spreadsheet's rows are products: texts, and numbers where they are asked for."""
    lines = read(
        'id, name ,price,vat\r\n1,"Tea, ""green""",250,A\r\n\r\n2,"two\nlines",,B\r\n',
        "prices.csv",
        integers=("price",),
    )

    assert good(lines) == [
        (2, "1", {"id": "1", "name": 'Tea, "green"', "price": 250, "vat": "A"}),
        (4, "2", {"id": "2", "name": "two\nlines", "vat": "B"}),
    ]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_spreadsheet_of_another_country_is_read_too(read, delimiter):
    """Where the comma is for decimals, spreadsheets put semicolons or tabs between columns."""
    row = delimiter.join

    lines = read(f"{row(['gtin', 'price'])}\n{row(['4711', '2,50'])}\n", "P.CSV", id_field="gtin")

    assert good(lines) == [(2, "4711", {"gtin": "4711", "price": "2,50"})]


def test_bad_rows_of_a_csv_are_told_with_their_numbers(read):
    """A slip in a spreadsheet costs its own row, and is named."""
    lines = read(
        'id,n\n1,1\n2\n3,3,3\n4,x\n,5\n6,"6"6\n7,7\n8,"eight\n9,9\n', "a.csv", integers=("n",)
    )

    assert [number for number, _, _ in good(lines)] == [2, 8]
    assert bad(lines) == {
        3: "1 columns, and the header has 2.",
        4: "3 columns, and the header has 2.",
        5: "\"n\" is no whole number: 'x'.",
        6: 'No "id" (--id-field) that is a text or a number.',
        7: "Not CSV: ',' expected after '\"'.",
        9: "Not CSV: unexpected end of data (to line 10).",
    }


@pytest.mark.parametrize(
    ("name", "contents", "words"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.csv", b"\xef\xbb\xbf \r\n\n", "is empty"),
        ("a.csv", b"PK\x03\x04\x14\0", "ZIP or Excel"),
        ("a.jsonl", b"\x1f\x8b\x08", "compressed"),
        ("a.csv", "id,n\n1,2\n".encode("utf-16"), "UTF-16"),
        ("a.jsonl", b"<!DOCTYPE html><html>", "HTML"),
        ("a.csv", b"\xef\xbb\xbf\n <html>", "HTML"),
        ("a.csv", b"id,n\n1,\0\n", "is no text"),
        ("a.csv", "id,n\n1,1\n2,2 €\n".encode("cp1252"), "not in UTF-8 in line 3"),
        ("a.jsonl", '{"id":1}\n{"id":2,"n":"Käse"}'.encode("cp1252"), "not in UTF-8 in line 2"),
        ("a.csv", b"ID,name\n1,a\n", 'no column "id" (--id-field)'),
        ("a.csv", b'{"id":1}\n{"id":2}\n', "is JSON and not CSV"),
        ("a.csv", b"id,n\n", "has no records"),
        ("a.csv", b"id,,n\n1,2,3\n", "a column without a name"),
        ("a.csv", b"id,n,n\n1,2,3\n", "two of the same name"),
        ("a.csv", b"id,m\n1,2\n", 'no column "n" (--integer)'),
        ("a.json", b'[\n{"id":1},\n{"id":2}\n]', "is one JSON array"),
        ("a.jsonl", b"id,n\n1,2\n", "begins with no record. Line 1: Not JSON: "),
        ("a.jsonl", b"id,n\n1,2\n", "Is it of another kind (--format)? Nothing"),
        ("a.csv", b"id,n\n1,x\n", "no record. Line 2: \"n\" is no whole number: 'x'. Nothing"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(read, name, contents, words):
    """The wrong file was picked: one line says what it is, and nothing of it goes in."""
    with pytest.raises(RecordFileError) as refusal:
        read(contents, name, integers=("n",))

    assert words in str(refusal.value)
    assert str(refusal.value).endswith("Nothing was taken in.")
    assert "\n" not in str(refusal.value)


def test_the_format_is_what_the_name_says_unless_it_is_chosen(tmp_path):
    """A file called after nothing in particular is read as the operator says."""
    assert format_of(tmp_path / "a.NDJSON", None) == "jsonl"
    assert format_of(tmp_path / "a.csv", "jsonl") == "jsonl"
    with pytest.raises(RecordFileError, match="--format"):
        format_of(tmp_path / "a.txt", None)
