"""Programs whose output stands in this folder: the command reference and the benchmarks."""
