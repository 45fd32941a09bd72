"""Schema migrations; `Archive.migrate` runs them."""
