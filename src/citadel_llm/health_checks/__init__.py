"""Checks of a host's health, and what `citadel doctor` makes of them."""
