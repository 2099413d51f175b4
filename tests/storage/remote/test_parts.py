"""Growing files in parts: nothing is lost, and what was stored once stays as it is."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from metabench.storage.remote import mirror as parts

LINES = st.lists(st.integers(0, 60).map(lambda n: b"x" * n + b"\n"), max_size=40)


@settings(max_examples=200)
@given(lines=LINES)
def test_parts_joined_are_the_file_and_end_at_ends_of_lines(lines: list[bytes]) -> None:
    data = b"".join(lines)
    pieces = parts.split(data, size=100)
    assert b"".join(pieces) == data
    assert all(part.endswith(b"\n") for part in pieces[:-1])
    assert all(100 <= len(part) <= 161 for part in pieces[:-1])


@settings(max_examples=200)
@given(lines=LINES, more=LINES)
def test_appending_changes_no_part_but_the_last(lines: list[bytes], more: list[bytes]) -> None:
    before = parts.split(b"".join(lines), size=100)
    after = parts.split(b"".join(lines + more), size=100)
    assert after[: len(before) - 1] == before[:-1]
    assert after[len(before) - 1].startswith(before[-1])


def test_names_of_parts_lead_back_to_the_file() -> None:
    assert parts.part_name("a/journal.jsonl", 0) == "a/journal.jsonl"
    for number in (0, 1, 12, 12345):
        assert parts.whole_name(parts.part_name("a/journal.jsonl", number)) == "a/journal.jsonl"
    assert parts.whole_name("tb/events.out.tfevents.1234.0") == "tb/events.out.tfevents.1234.0"
