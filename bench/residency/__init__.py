"""The policy of which models are awake, in simulated time: a host's decisions, without the host."""
