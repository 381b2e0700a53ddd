"""What the Open Inference Protocol's tests share."""
