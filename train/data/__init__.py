"""Digits: the data sets, and what is made of them for training and for tests."""
