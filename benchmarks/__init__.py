"""What this repository measures: grids, throughput, the table of tasks, and the report of all."""
