"""`tfship doctor`: what is wrong with a model server or a model directory."""
