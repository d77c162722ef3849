"""What the console is told."""

import os
import subprocess
import sys

SAYS = """
import sys
from jaxvideo.training.log import say
for line in ("one", "two"):
    say(line)
print("went on", file=sys.stderr)
"""


def test_a_run_goes_on_when_nobody_reads(repository):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", SAYS], cwd=repository, stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert done.returncode == 0
    assert done.stderr.decode() == "went on\n"
