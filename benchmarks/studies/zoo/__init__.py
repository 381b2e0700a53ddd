"""`tfship benchmark zoo`: networks of many kinds, exported and judged."""
