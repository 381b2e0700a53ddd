"""Which models and versions are served: configuration, loading, warm-up."""
