"""Compare every format and every way of serving: accuracy, latency, size. One run, one table."""
