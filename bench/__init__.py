"""The gateway beside its peers, on the same work in one run: `make bench`, or `bench/run --quick`."""
