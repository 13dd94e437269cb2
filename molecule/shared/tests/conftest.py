"""The deployed site is reached as the scenario `full` does, whose modules molecule.yml puts on the path."""

from deployed_fixtures import client, host, hostname, site

__all__ = ["client", "host", "hostname", "site"]
