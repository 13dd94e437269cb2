"""How much memory models need, and which GPUs they get: pure arithmetic, without a GPU and without vLLM."""
