"""Our gateway as several workers, each on a core of its own: one process that starts them and ends with them.

bench.workers CONFIG FOLDER CORE...     a worker for each core
"""

import os
import signal
import sys
from pathlib import Path

from bench import processes


def main() -> None:
    """Start them, and wait to be ended: they end with this process."""
    config, folder, *cores = sys.argv[1:]
    for number, core in enumerate(cores, 1):
        runtime = Path(folder) / ("gateway" if number == 1 else f"gateway.{number}")
        runtime.mkdir()
        processes.start(
            f"worker {number}",
            [sys.executable, "-m", "citadel_llm.cli", "run", "gateway", f"--worker={number}"],
            core=int(core),
            log=Path(folder) / f"log-{number}.jsonl",
            environment={"CITADEL_CONFIG": config, "RUNTIME_DIRECTORY": str(runtime)},
        )
    signal.pause()
    os._exit(0)


if __name__ == "__main__":
    main()
