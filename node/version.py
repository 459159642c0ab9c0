"""The program's version, where a client reads it without a package lookup. A test compares it."""

from typing import Final

VERSION: Final = "0.1.0"
