"""Programs that run a client for the tests: see `line_protocol`. They import nothing of tfship."""
