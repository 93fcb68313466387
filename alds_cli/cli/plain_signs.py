"""What streams write in the place of signs that their encoding lacks."""

import codecs

_LIKES = {"×": "x", "−": "-", "–": "-", "→": ">", "≈": "~", "δ": "d", "≤": "<=", "…": "..."}
"""Signs of the command's own, and ASCII for each; what occurs in tables is as wide as it was."""


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Return what to write, and where to go on: the like of a sign, or else its escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_LIKES.get(sign) or _escaped(sign) for sign in lacking), error.end


def _escaped(sign: str) -> str:
    return sign.encode("ascii", "backslashreplace").decode()


PLAIN = "alds-plain"
"""The name by which streams are told to do so with what they cannot encode."""

codecs.register_error(PLAIN, _plain)
