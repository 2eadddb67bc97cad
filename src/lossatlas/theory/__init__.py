"""Say before training what will happen."""

from lossatlas.theory._linear_levels import LinearLevels as LinearLevels, linear_levels as linear_levels
