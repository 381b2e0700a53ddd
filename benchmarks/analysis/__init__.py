"""What results mean: recommendation, causes, regressions."""
