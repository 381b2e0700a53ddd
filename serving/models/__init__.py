"""Management of served models and versions: configuration, loading, warm-up."""
