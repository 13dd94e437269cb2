"""Citadel: an OpenAI-compatible service for large language models on your own GPU servers."""

__version__ = "0.1.0"
