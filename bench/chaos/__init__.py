"""Chaos: what clients see while engines, disk, database, Valkey and the gateway itself are taken away.

A lab host of its own with the whole site on it and two real engines of one model, a steady load by the
official client, and one fault after the other: `make chaos`.
"""
