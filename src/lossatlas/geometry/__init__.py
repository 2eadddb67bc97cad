"""Measure the landscape at a point."""
