"""The server process: flags, sockets, TLS, workers."""
