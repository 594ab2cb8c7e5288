"""Text for the cluster: well-formed and bounded in bytes; and documents with values that Python cannot read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from triarch._values import json_reader
from triarch.text import shortened, tail, well_formed


class Liar(str):
    def __str__(self) -> str:
        return "lies"

    def __len__(self) -> int:
        return 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("plain", "plain"),
        ("語", "語"),
        ("file \udcff", "file \ufffd"),
        ("\ud800", "\ufffd"),
        ("\ud83d\ude00", "😀"),
        ("\udcff\ud800語", "\ufffd\ufffd語"),
        (Liar("\udcff truth"), "\ufffd truth"),
    ],
)
def test_lone_surrogates_are_replaced(text: str, expected: str) -> None:
    found = well_formed(text)
    assert (found, type(found)) == (expected, str)


@pytest.mark.parametrize("text", ["語" * 2000, "x" * 5000, "\udcff" * 3000, "é😀" * 900, "\x00" * 1001, Liar("語" * 2000)])
@pytest.mark.parametrize("bytes_max", [0, 1, 3, 6, 7, 999, 1000])
def test_text_is_cut_by_bytes_and_between_characters(text: str, bytes_max: int) -> None:
    for found in (shortened(text, bytes_max), tail(text, bytes_max)):
        assert len(found.encode()) <= bytes_max
        assert type(found) is str
    if bytes_max >= 999:
        found = shortened(text, bytes_max)
        assert " … " in found
        assert len(found.encode()) > bytes_max - 8


def test_text_that_fits_is_not_cut() -> None:
    assert shortened("語" * 333, 999) == "語" * 333
    assert tail("abc", 3) == "abc"


# --- documents ---


def test_a_number_that_python_cannot_read_spoils_what_contains_it_and_nothing_else() -> None:
    digits = "-" + "9" * 5000
    text = '{"tasks":[{"id":"a","payload":{"args":[{"x":[BAD]}]}},{"id":"b","payload":[1,[2]]}],"n":GOOD}'
    text = text.replace("BAD", digits).replace("GOOD", "7" * 4000)
    for data in (text, text.encode()):
        document: Any = json_reader.loads(data)
        bad, good = document["tasks"]
        assert json_reader.unreadable(bad["payload"], "payload") is not None
        assert "payload['args'][0]['x'][0]" in str(json_reader.unreadable(bad["payload"], "payload"))
        assert "5,000 digits" in str(json_reader.unreadable(bad["payload"]))
        assert json_reader.unreadable(bad["id"]) is None
        assert json_reader.unreadable(good) is None
        assert document["n"] == int("7" * 4000)
        # Nothing of it is lost.
        assert bad["payload"]["args"][0]["x"] == [digits]


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'{"a":}', b"[1,2", b"x" * 100, b"[" * 100_000])
def test_what_is_no_document_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        json_reader.loads(data)


def test_other_documents_are_as_json_reads_them() -> None:
    text = '{"a":[1,1.5,null,true,"\\ud800"],"b":{"c":1e999}}'
    assert json_reader.loads(text) == json.loads(text)
    assert type(json_reader.loads(text)) is dict
