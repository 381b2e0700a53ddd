"""The study of servers behind a load balancer: replacement, weights, failures and balancing."""
