"""Making foreign text safe for terminals: no character may control, hide or reorder."""

from __future__ import annotations

import unicodedata

_HIDDEN = frozenset({"Cc", "Cf", "Cn", "Cs", "Zl", "Zp"})
"""Unicode's categories of invisible characters: controls, formats, surrogates, separators."""

_IGNORED = (
    (0x034F, 0x034F),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFFA0, 0xFFA0),
    (0xE0000, 0xE0FFF),
)
"""Letters and marks that are invisible, too: Unicode's "default ignorable code points"."""

_NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def visible(text: str, keep: str = "") -> str:
    r"""Write out every invisible character of a text: `\x1b`, `\u202e`, `\n`.

    Args:
        text: a text from a file, an argument or a library.
        keep: characters that stay as they are.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(sign if sign in keep or _is_seen(sign) else _escape(sign) for sign in text)


def _is_seen(sign: str) -> bool:
    if unicodedata.category(sign) in _HIDDEN:
        return False
    code = ord(sign)
    return not any(first <= code <= last for first, last in _IGNORED)


def _escape(sign: str) -> str:
    code = ord(sign)
    if code < 0x100:
        return _NAMED.get(sign, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
