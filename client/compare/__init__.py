"""`tfship compare`: the same images through every target."""
