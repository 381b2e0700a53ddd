"""Analysis of benchmark results: recommendation, causes of slowdowns, regressions."""
