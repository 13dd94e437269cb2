"""The OpenAI-compatible API: keys, routing, streaming, errors and metrics in front of the engines."""
