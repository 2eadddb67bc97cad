"""The catalogue of a data set, the visits of a training run, the survey."""
