"""The parts of supervising one vLLM: its command line, its processes, its log, its socket, its progress."""
