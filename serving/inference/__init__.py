"""Processing of parsed requests: Predict, Classify, Regress, batching."""
