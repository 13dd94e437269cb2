"""The deployed site, as the tests reach it."""

from deployed_fixtures import client, host, hostname, site

__all__ = ["client", "host", "hostname", "site"]
