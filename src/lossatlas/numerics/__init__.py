"""What no library has, tiny."""
