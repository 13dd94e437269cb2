"""HTTP as bytes: the connections to clients and to engines, without a task or an await for each event."""
