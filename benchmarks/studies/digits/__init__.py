"""`tfship benchmark digits` and `pictures`: digits that aren't clean MNIST."""
