"""The benchmarks: each measures Tidegate and, in the same run, the bare thing that it stands on."""
