"""The server process: flags, settings, sockets, TLS, workers."""
