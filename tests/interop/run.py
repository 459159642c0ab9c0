"""`make interop`: builds the foreign peers and lets them meet a real network; exits as pytest does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Final

from tests.interop.build import LANGUAGES, NotHere, made

NOT_BUILT: Final = 3  # a registry does not answer, say: no verdict on us


def main() -> int:
    """Exit code 0: all that could run here holds. NOT_BUILT: a peer could not be made, nothing was run."""
    started = time.monotonic()
    missing = 0
    for language in LANGUAGES:
        begun = time.monotonic()
        try:
            made(language)
            print(f"interop: {language} peer ready ({time.monotonic() - begun:.0f} s)", flush=True)
        except NotHere as reason:
            missing += 1
            print(f"interop: no {language} peer: {reason}", flush=True)
        except RuntimeError as error:
            print(f"interop: the {language} peer could not be built: {error}", flush=True)
            return NOT_BUILT
    if missing == len(LANGUAGES):
        print("interop: nothing can run here", flush=True)
        return NOT_BUILT
    command = [sys.executable, "-m", "pytest", "tests/interop", *(sys.argv[1:] or ["-v"])]
    code = subprocess.run(command, env=os.environ | {"INTEROP": "1"}).returncode
    print(f"interop: {time.monotonic() - started:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
