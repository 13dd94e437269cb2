"""Which models are awake, which sleep in the host's memory, and which are stopped.

`holding` says what is known of a model, `policy` decides. Neither knows a clock, a process or a socket: a
host's manager and the simulation (bench/residency) make the same decisions.
"""
