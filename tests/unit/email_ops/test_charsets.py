"""Only real character sets are decoded with, and text in any other is still shown."""

from __future__ import annotations

import codecs
from encodings.aliases import aliases

import pytest

from emberflow.email_ops.charsets import codec_of, decode


@pytest.mark.parametrize(
    "name",
    [
        "punycode", "PUNYCODE", "idna", "unicode_escape", "raw-unicode-escape", "unicode-escape", "hex", "base64",
        "rot13", "zlib", "bz2", "uu", "quopri", "undefined", "charmap", "mbcs", "oem", "palmos", "utf-8-sig-x", "",
        "../aliases", "x" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_character_set_has_no_codec(name: str) -> None:
    assert codec_of(name) is None


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("UTF-8", "utf_8"), ("utf8", "utf_8"), ('"utf-8"', "utf_8"), ("utf-8\0", "utf_8"), ("utf-8*en", "utf_8"),
        ("utf8mb4", "utf_8"), ("us-ascii", "ascii"), ("ISO-8859-15", "iso8859_15"), ("Windows-1252", "cp1252"),
        ("cp-850", "cp850"), ("ks_c_5601-1987", "cp949"), ("GB2312", "gb18030"), ("iso-2022-jp", "iso2022_jp"),
        ("Shift_JIS", "shift_jis"), ("koi8-u", "koi8_u"), ("big5", "big5"), ("macintosh", "mac_roman"),
    ],
)  # fmt: skip
def test_character_sets_are_known_by_the_names_that_mail_gives_them(name: str, codec: str) -> None:
    assert codec_of(name) == codec


def test_every_codec_that_can_be_named_decodes_bytes_into_text() -> None:
    for codec in {codec_of(alias) for alias in aliases} - {None}:
        assert codecs.lookup(str(codec))._is_text_encoding
        assert isinstance(decode(bytes(range(256)), codec), str)


@pytest.mark.parametrize(
    ("octets", "charset", "text"),
    [
        ("Grüße".encode(), None, "Grüße"),
        ("Grüße".encode("latin-1"), None, "Grüße"),
        ("Grüße".encode(), "us-ascii", "Grüße"),
        ("Grüße".encode(), "punycode", "Grüße"),
        ("Grüße".encode("cp850"), "cp-850", "Grüße"),
        (b"gr\xff", "utf-8", "gr\N{REPLACEMENT CHARACTER}"),
        (b"+2AA-", "utf-7", "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_text_is_shown_as_well_as_can_be(octets: bytes, charset: str | None, text: str) -> None:
    assert decode(octets, charset) == text
