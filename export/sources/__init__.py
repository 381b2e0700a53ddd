"""Sources of an export: the digit networks, or users' own models with their evaluation data."""
