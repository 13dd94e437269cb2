"""`python -m citadel_llm.cli`: the command from a source tree, where it is not installed."""

from citadel_llm.cli import main

main()
