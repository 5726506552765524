"""Bytes in words and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autobatch.errors import UsageError
from autobatch.units import GIB, KIB, MIB, TIB, format_bytes, parse_bytes, parse_share_or_bytes


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (512 * MIB, "512 MiB"),
        (GIB - MIB, "1023 MiB"),
        (GIB, "1 GiB"),
        (1.5 * GIB, "1.5 GiB"),
        (79.9 * GIB, "79.9 GiB"),
        (123.4 * GIB, "123 GiB"),
        (3 * TIB, "3 TiB"),
        (-1.5 * GIB, "-1.5 GiB"),
    ],
)
def test_bytes_as_a_person_reads_them(count: float, words: str) -> None:
    assert format_bytes(count) == words


@pytest.mark.parametrize(
    ("words", "count"),
    [
        ("1", 1),
        ("1073741824", GIB),
        ("512MiB", 512 * MIB),
        (" 512 mib ", 512 * MIB),
        ("512MB", 512_000_000),
        ("512m", 512 * MIB),
        ("1.5GB", 1_500_000_000),
        ("1.5 GiB", GIB + 512 * MIB),
        (".5g", 512 * MIB),
        ("2.k", 2 * KIB),
        ("7kb", 7000),
        ("7b", 7),
        ("2T", 2 * TIB),
        ("1tb", 10**12),
        ("1.9", 1),
    ],
)
def test_words_as_bytes(words: str, count: int) -> None:
    assert parse_bytes(words) == count


BAD_SIZES = [
    "", "0", "0MiB", "0.4", "-1", "-5MiB", "MiB", "12 parsecs", "1e9", "1,5GB", "5%", "nan", "inf",
    "1 2", "0x10", "1.2.3", "٣MiB", "512MiBs", "9" * 400, "9" * 5000, "99999999999TiB",
]  # fmt: skip


@pytest.mark.parametrize("words", BAD_SIZES)
def test_what_is_no_size_is_refused_by_the_arguments_name(words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_bytes(words, "memory_limit")
    assert str(caught.value).startswith("memory_limit must be a positive size")
    assert repr(words) in str(caught.value)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("5%", (0.05, 0)),
        (" 12.5 % ", (0.125, 0)),
        ("0%", (0.0, 0)),
        ("0", (0.0, 0)),
        ("99.9%", (0.999, 0)),
        ("512MiB", (0.0, 512 * MIB)),
        ("512", (0.0, 512)),
    ],
)
def test_shares_and_sizes(words: str, expected: tuple[float, int]) -> None:
    share, count = parse_share_or_bytes(words)
    assert (share, count) == (pytest.approx(expected[0]), expected[1])


@pytest.mark.parametrize(
    "words", ["100%", "-1%", "%", "nan%", "inf%", "five%", "5%%", "", "-3", "lots", "9" * 400]
)
def test_what_is_neither_a_share_nor_a_size_is_refused(words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_share_or_bytes(words, "headroom")
    assert str(caught.value).startswith("headroom must be a share like '5%'")
    assert repr(words) in str(caught.value)


@given(st.integers(1, 1 << 50))
def test_words_tell_bytes_within_five_per_cent(count: int) -> None:
    assert parse_bytes(format_bytes(count)) == pytest.approx(count, rel=0.05)


@given(st.text())
def test_any_text_is_a_size_or_refused(text: str) -> None:
    for parse in (parse_bytes, parse_share_or_bytes):
        try:
            parsed = parse(text)
        except UsageError:
            continue
        share, count = parsed if isinstance(parsed, tuple) else (0.0, parsed)
        assert 0 <= share < 1
        assert 0 <= count < 1 << 63
