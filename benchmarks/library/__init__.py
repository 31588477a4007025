"""The library of trained soft prompts that the benchmarks leave."""
