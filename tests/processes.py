"""Scripts that train on several CPU processes."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def run_script(script: str, *words: object) -> None:
    """Run a script of the tests; Lightning starts further processes by running it again."""
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, script, *map(str, words)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
