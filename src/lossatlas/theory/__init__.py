"""Say before training what will happen."""
