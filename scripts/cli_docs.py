"""Writes docs/cli.md from the commands themselves; with --check only says whether it is current."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["COLUMNS"] = "100"
root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root))

from node.cli.commands import app  # noqa: E402 - the path first
from node.cli.context import GLOBAL_FLAGS  # noqa: E402
from node.config import KEYS, Settings, template  # noqa: E402

HEAD = """<!-- Made by scripts/cli_docs.py from the commands; do not edit. -->
# The command line

Data goes to stdout, talk to stderr. Exit codes: 0 ok, 1 error, 2 usage, 3 unreachable, 4 rejected,
5 no quorum, 6 timeout. Amounts are credits with up to six decimals.

## Global options

They may stand before or after the command.

| option | variable | meaning |
|---|---|---|
"""


def render() -> str:
    """The whole page."""
    rows = [f"| `{flag}` | `{variable}` | {text} |" for flag, (variable, text) in GLOBAL_FLAGS.items()]
    keys = [f"| `--{key.name}` | `{key.env}` | {key.description} |" for key in KEYS]
    settings = "\n## Settings\n\n"
    settings += "Each is a flag of `gridpact start`, a variable, and a key of `config/config.toml`.\n\n"
    settings += "| flag | variable | meaning |\n|---|---|---|\n" + "\n".join(keys)
    settings += f"\n\nThe defaults, as `gridpact init` writes them:\n\n```toml\n{template(Settings())}```\n\n"
    commands = app.generate_docs(output_format="markdown", heading_level=2)
    commands = commands.replace(str(Path.home()), "~")
    whole = HEAD + "\n".join(rows) + "\n" + settings + commands
    return "\n".join(line.rstrip() for line in whole.splitlines()) + "\n"


def main() -> int:
    """Exit code 1 when --check finds another text."""
    file = root / "docs" / "cli.md"
    text = render()
    if "--check" in sys.argv[1:]:
        if not file.exists() or file.read_text() != text:
            print("docs/cli.md is not current: run python scripts/cli_docs.py")
            return 1
        return 0
    file.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
