"""The program's version, where a client can read it without a package lookup. A test holds it to pyproject."""

from typing import Final

VERSION: Final = "0.1.0"
