"""Carry a point to another architecture, keeping what must be kept."""
