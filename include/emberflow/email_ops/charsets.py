"""Text of strangers: only real character sets are decoded with.

Python's codecs are more than that: some take quadratic time (``punycode``), others run something else than a
character set (``unicode_escape``, ``idna``, ``hex``, ``undefined``), and every unknown name that is looked up is kept
in memory. So names are looked up here, in a table made once.
"""

from __future__ import annotations

import re
from encodings.aliases import aliases

_FAMILIES = re.compile(
    r"ascii|utf_(7|8|16|16_be|16_le|32|32_be|32_le)|latin_1|iso8859_\d+|iso2022_\w+|cp\d+|koi8_[rtu]|kz1048|ptcp154"
    r"|tis_620|mac_(cyrillic|greek|iceland|latin2|roman|turkish)|hp_roman8"
    r"|gb2312|gbk|gb18030|hz|big5|big5hkscs|euc_\w+|shift_jis\w*|johab"
)
# Names that mail carries and Python does not know; and the supersets that are meant where a subset is named.
_SPOKEN = {
    "utf8mb4": "utf_8", "utf8mb3": "utf_8", "unicode11utf7": "utf_7", "unicode11utf8": "utf_8",
    "ksc56011987": "cp949", "ksc5601": "cp949", "gb2312": "gb18030", "gbk": "gb18030", "xsjis": "cp932",
    "iso88598i": "iso8859_8", "iso88598e": "iso8859_8", "iso88596i": "iso8859_6", "xmaccyrillic": "mac_cyrillic",
    "xgbk": "gb18030", "xeuc": "euc_jp", "macintosh": "mac_roman",
}  # fmt: skip
_NAME_CHARACTERS = 60
_SURROGATE = re.compile("[\ud800-\udfff]")
_NO_LETTER_OR_DIGIT = re.compile(r"[^a-z0-9]")


def _key(name: str) -> str:
    return _NO_LETTER_OR_DIGIT.sub("", name.lower())


def _table() -> dict[str, str]:
    codecs = {codec for codec in aliases.values() if _FAMILIES.fullmatch(codec)} | {"koi8_u"}
    codecs |= {f"iso8859_{part}" for part in range(1, 17) if part != 12}  # ISO never published part 12
    codecs |= {f"cp{page}" for page in (437, 720, 737, 850, 852, 855, 857, 858, 866, 874, *range(1250, 1259))}
    named = {_key(codec): codec for codec in codecs}
    named |= {_key(alias): codec for alias, codec in aliases.items() if codec in codecs}
    named |= {f"windows{page}": f"cp{page}" for page in (874, *range(1250, 1259))}
    named |= {f"iso8859{part}": f"iso8859_{part}" for part in range(1, 17) if part != 12}
    return named | _SPOKEN


_CODECS = _table()


def codec_of(charset: str) -> str | None:
    """Return the codec of a character set as mail names it; None if it is none, or none that is known."""
    # RFC 2231 5: a language may follow.
    return _CODECS.get(_key(charset[:_NAME_CHARACTERS].partition("*")[0]))


def decode(octets: bytes, charset: str | None = None) -> str:
    """Return ``octets`` as text, whatever they are. Never raises.

    A character set that is missing, unknown or plain ASCII says nothing of 8-bit text: it is UTF-8 if it can be, else
    Windows-1252, which most of such mail is in.
    """
    codec = codec_of(charset or "")
    if codec is not None and codec != "ascii":
        # UTF-7 can spell halves of surrogate pairs, which cannot be stored.
        return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", octets.decode(codec, "replace"))
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        return octets.decode("cp1252", "replace")
