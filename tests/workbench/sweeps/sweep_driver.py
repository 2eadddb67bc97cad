"""A process that sweeps a study of the tests; the tests kill it.

python sweep_driver.py FOLDER WORKERS STUDY SEEDS [field=value ...]
"""

import resource
import sys
from typing import Any


def main() -> None:
    import sweep_studies
    from lossatlas.workbench import run_sweep

    folder, workers, study, seeds, *options = sys.argv[1:]
    settings: dict[str, Any] = dict(option.split("=") for option in options)
    if "most_bytes" in settings:
        most = int(settings.pop("most_bytes"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    axes = {
        "toy-plane": {"width": (3, 4), "gamma": (0.5, 1.0, 1.5, 2.0)},
        "toy-trouble": {"what": ("well",)},
        "large": {"gamma": tuple(range(1, 251)), "width": (3, 4)},
    }[study]
    name = study if study != "large" else "toy-plane"
    assert sweep_studies.ToyPlane.presets
    where = int(workers) if workers.isdigit() else workers
    run = run_sweep(
        name, grid=axes, seeds=int(seeds), out=folder, workers=where, retries=20, progress="none", **settings
    )
    sys.stdout.write(f"{run.record['measured']} {run.counts()}\n")


if __name__ == "__main__":
    main()
