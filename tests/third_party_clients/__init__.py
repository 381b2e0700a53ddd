"""Servers, environments and drivers of the tests with clients of other makers."""
