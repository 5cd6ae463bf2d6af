"""Tables: schemas, workspace, commits, manifest, ledger, DuckDB access."""
