"""How a survey is made again: the words for a shell."""

import dataclasses
import shlex

from lossatlas.atlas import SurveyConfig


def survey_command(config: SurveyConfig, origin: str | None) -> str:
    """The command that makes a survey again, with the settings that differ from the defaults.

    **Arguments:**
    - `origin`: name or path of the data, as it was given; None for arrays in memory, of which only Python can make
      the survey again.
    """
    defaults = SurveyConfig()
    settings = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    changed = {name: value for name, value in settings.items() if value != getattr(defaults, name)}
    if origin is None:
        words = ["X", "y", *(f"{name}={value!r}" for name, value in changed.items() if name != "target")]
        return f"lossatlas.survey({', '.join(words)})"
    words = ["lossatlas", "survey", origin]
    for name, value in changed.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        words += [f"--{name.replace('_', '-')}", text]
    return shlex.join(words)
