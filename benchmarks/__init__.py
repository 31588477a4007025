"""Benchmarks: grids, throughput, the table of tasks, and the report."""

from softprompts.system.quiet import quiet_libraries

quiet_libraries()  # before they are imported, as `cli` does for recipes
