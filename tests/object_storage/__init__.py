"""Shared by the tests of object storage: an S3 server (moto's), a proxy that puts faults in, and small versions."""
