"""Memory that messages had is used again, not given back and mapped anew."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from node.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
for number in range(10 + 50):  # six messages at once, as of a fetch
    if number == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    messages = [bytearray(1 << 20) for _ in range(6)]
    del messages
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Pages that the kernel had to bring for 300 messages of 1 MiB."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_messages_are_not_mapped_anew_each_time() -> None:
    assert faults("kept") < 2_000
    assert faults("as it is") > 20_000  # else there is nothing to mend any more
