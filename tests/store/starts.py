"""Processes that open one database at the same moment."""

import subprocess
import sys

_CODE = """
import sys
from citadel_llm.store import KeyStore
import citadel_llm.store.migrations.runner
print("ready", flush=True)
sys.stdin.readline()
print(len(KeyStore(sys.argv[1]).list()))
"""


def keys_seen_by_three(url: str) -> list[int]:
    """How many keys each of three processes finds that open the database at once."""
    command = [sys.executable, "-c", _CODE, url]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    try:
        for process in processes:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
        return [int(process.communicate(timeout=60)[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
