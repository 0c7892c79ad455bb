"""What `make bench-diloco` runs: swarms in one process, tables, plots and the JSON of figures."""
