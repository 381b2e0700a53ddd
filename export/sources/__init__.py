"""What is exported: the digit networks, and users' own models with their evaluation data."""
