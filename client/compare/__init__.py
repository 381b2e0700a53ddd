"""`tfship compare`: comparison of targets on the same images."""
