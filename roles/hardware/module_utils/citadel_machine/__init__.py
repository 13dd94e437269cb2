"""What a machine is, what it should be, and the report of both; the standard library is all it takes."""
