"""Arguments and output that the commands of the client share."""
