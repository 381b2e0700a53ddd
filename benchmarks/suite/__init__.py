"""`tfship benchmark`: every format and every way of serving, measured in one run."""
