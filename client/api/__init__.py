"""The client for other programs: `Client` and `AsyncClient`."""
