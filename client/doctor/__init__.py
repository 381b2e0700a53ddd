"""`tfship doctor`: diagnosis of model servers and model directories."""
