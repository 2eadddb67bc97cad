"""Data sets, generators and preprocessing."""
