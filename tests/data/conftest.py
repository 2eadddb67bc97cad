import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def frame():
    """Two numeric columns, one text column, a text target."""
    return pd.DataFrame(
        {
            "length": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            "count": [3, 1, 4, 1, 5, 9],
            "colour": ["red", "blue", "red", "green", "blue", "red"],
            "kind": ["a", "b", "a", "b", "a", "b"],
        }
    )


@pytest.fixture
def rng():
    return np.random.default_rng(0)
