"""`gridpact completion`: what a shell needs to complete our commands."""

from __future__ import annotations

from typing import Literal

from node.cli.commands import app


def completion(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """Print a shell's completion script.

    Args:
        shell: bash, zsh or fish. Bash reads ~/.local/share/bash-completion/completions/gridpact.
    """
    print(app.generate_completion(shell=shell))
    return 0
