"""One theme and every figure, from numpy and xarray."""
