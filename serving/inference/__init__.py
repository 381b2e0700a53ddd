"""What a request does once it is parsed: Predict, Classify, Regress, batching."""
