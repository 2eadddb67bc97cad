"""Tables and arrays of surveys, made by hand with the numbers of real runs; for tests of figures and reports."""

import copy
import math
from typing import Any

import numpy as np
import xarray as xr


LAYERS = ["hidden[0]", "hidden[1]"]


def entry(name: str, words: str, loss: float, parameters: int, **changes: Any) -> dict[str, Any]:
    """A row of the catalogue: by default a certified minimum that nothing visits."""
    size = name.rstrip("abcdefgh")
    k, r = (int(n) for n in size.strip("()").split(","))
    row = {
        "name": name,
        "size": size,
        "words": words,
        "neurons": k,
        "linear": r,
        "parameters": parameters,
        "loss": loss,
        "kind": "critical point",
        "is_minimum": True,
        "inertia": [0, r * r, parameters - r * r],
        "inertia_certified": True,
        "gauges": {"linear mixing": r * r} if r else {},
        "unexplained_zeros": 0,
        "gradient_norm": 3e-14,
        "runaway": "",
        "found_by": "random start",
        "hits": 3,
        "held_out_loss": None,
        "held_out_error": None,
        "held_out_accuracy": None,
        "held_out_r_squared": None,
    }
    return row | changes


def visit(name: str, step: int, loss: float, distance: float, control: float | None, verdict: str, **changes: Any):
    """A row of the visits."""
    row = {
        "name": name,
        "step": step,
        "loss": loss,
        "distance": distance,
        "control": control,
        "first_step": int(step * 0.85) if verdict == "visit" else step,
        "last_step": int(step * 1.35) if verdict == "visit" else step,
        "verdict": verdict,
    }
    return row | changes


def slow_down(step: int, loss: float, name: str | None) -> dict[str, Any]:
    """A row of the slow-downs."""
    return {"step": step, "loss": loss, "rate": 0.03, "name": name}


def candidate(name: str, words: str, parameters: int, loss: float, error: float, accuracy: float | None, gap: float):
    """A row of the selection."""
    return {
        "name": name,
        "words": words,
        "parameters": parameters,
        "loss": loss,
        "standard_error": error,
        "accuracy": accuracy,
        "r_squared": None,
        "gap": gap,
        "gap_error": 0.004 if gap else 0.0,
    }


def stalling_loss(steps: np.ndarray, levels: list[float], ends: list[float]) -> np.ndarray:
    """A loss that falls from level to level, leaving each at a given step."""
    loss = np.full(steps.shape, levels[-1], float)
    for level, below, end in zip(levels[:-1], levels[1:], ends, strict=True):
        loss += (level - below) / (1 + (steps / end) ** 6)
    return loss


def iris() -> tuple[dict[str, Any], xr.DataTree]:
    """Iris, 4-50-50-3, squared error: four visits, one of them at the start, one near, a level at infinity."""
    beside = "one neuron beside one linear unit"
    rows = [
        entry("(0,0)", "a constant", 1 / 3, 3, found_by="closed form", inertia=[0, 0, 3]),
        entry("(0,1)", "a linear model", 0.17168796760542, 10, found_by="closed form", is_minimum=True),
        entry("(1,0)", "one neuron", 1 / 6, 11, kind="level at infinity", is_minimum=None, inertia=None,
              inertia_certified=False, unexplained_zeros=None, runaway="hidden[0][0] becomes a step"),
        entry("(0,2)", "a linear model of rank 2", 0.13468352921, 17, found_by="closed form"),
        entry("(1,1)a", beside, 0.0198099153, 18),
        entry("(1,1)b", beside, 0.0367469506, 18, found_by="(0,1) with one unit more"),
        entry("(1,1)c", beside, 0.0861, 18, is_minimum=False, inertia=[2, 1, 15]),
        entry("(2,0)", "two neurons", 0.0064999, 19, kind="level at infinity", is_minimum=None, inertia=None,
              inertia_certified=False, unexplained_zeros=None, runaway="hidden[0][0] and hidden[0][1] merge"),
        entry("(2,1)a", "two neurons beside one linear unit", 3.1e-9, 26, kind="not certified", is_minimum=None,
              inertia=None, inertia_certified=False, unexplained_zeros=None, gradient_norm=2e-9),
    ]  # fmt: skip
    visits = [
        visit("(0,0)", 1, 0.3334, 0.012, None, "visit", first_step=0, last_step=1400),
        visit("(0,1)", 2400, 0.1709, 0.041, 0.43, "visit", first_step=2100, last_step=3300),
        visit("(1,0)", 3900, 0.15, 0.40, 0.44, "no match"),
        visit("(0,2)", 4800, 0.1312, 0.21, 0.37, "near"),
        visit("(1,1)a", 21000, 0.0201, 0.132, 0.185, "near"),
        visit("(1,1)b", 9500, 0.0346, 0.097, 0.174, "visit", first_step=8000, last_step=13000),
        visit("(1,1)c", 8000, 0.06, 0.33, 0.30, "no match"),
        visit("(2,0)", 60000, 0.0066, 0.064, 0.133, "visit", first_step=38000, last_step=60000),
        visit("(2,1)a", 60000, 0.0066, 0.081, None, "same function"),
    ]
    held_out = {
        "(0,0)": candidate("(0,0)", "a constant", 3, 0.336, 0.004, 0.333, 0.309),
        "(0,1)": candidate("(0,1)", "a linear model", 10, 0.178, 0.013, 0.66, 0.151),
        "(1,0)": candidate("(1,0)", "one neuron", 11, 0.171, 0.012, 0.667, 0.144),
        "(0,2)": candidate("(0,2)", "a linear model of rank 2", 17, 0.142, 0.011, 0.833, 0.115),
        "(1,1)": candidate("(1,1)", beside, 18, 0.0291, 0.0076, 0.973, 0.0021),
        "(2,0)": candidate("(2,0)", "two neurons", 19, 0.027, 0.009, 0.973, 0.0),
        "(2,1)": candidate("(2,1)", "two neurons beside one linear unit", 26, 0.041, 0.014, 0.96, 0.014),
        "big network": candidate("big network", "the big network", 2953, 0.060, 0.025, 0.96, 0.033),
    }
    for row, met in zip(rows, visits, strict=True):
        figures = held_out[row["size"]]
        row |= {
            "visit": {k: v for k, v in met.items() if k != "name"},
            "held_out_loss": figures["loss"],
            "held_out_error": figures["standard_error"],
            "held_out_accuracy": figures["accuracy"],
        }
    settings = {
        "optimizer": "full-batch gradient descent",
        "init": "std = max(fan_in, fan_out)**-1.5, biases 0",
        "learning_rate": 0.05,
        "halvings": 0,
        "num_steps": 60000,
        "widths": [4, 50, 50, 3],
    }
    slow_downs = [
        slow_down(600, 0.3333, "(0,0)"),
        slow_down(2400, 0.1713, "(0,1)"),
        slow_down(26000, 0.0188, None),
        slow_down(48000, 0.0071, "(2,0)"),
    ]
    run = {
        "seed": 1,
        "settings": settings,
        "status": "ran all steps",
        "final_loss": 0.0066,
        "final_gradient_norm": 2.3e-5,
        "decay_exponent": 0.41,
        "visits": visits,
        "slow_downs": slow_downs,
    }
    others = [run | {"seed": s, "slow_downs": slow_downs[:2], "visits": visits} for s in (0, 2)]
    tables = {
        "headline": (
            "On iris, one neuron beside one linear unit (18 parameters) does the job of the big network "
            "(2,953 parameters): held-out loss 0.0291 ± 0.008, accuracy 97.3 %, against loss 0.06 ± 0.03, accuracy "
            "96.0 %."
        ),
        "data": {
            "name": "iris",
            "source": "scikit-learn",
            "kind": "classification",
            "rows": 150,
            "inputs": 4,
            "outputs": 3,
            "classes": ["setosa", "versicolor", "virginica"],
            "notes": [],
            "fingerprint": "4f1c0ffee0",
        },
        "config": {
            "target": None,
            "hidden": [50, 50],
            "activation": "tanh",
            "loss": "auto",
            "seed": 0,
            "seeds": 3,
            "preset": "quick",
            "max_units": None,
            "init": None,
            "learning_rate": None,
            "num_steps": None,
            "hold_out": 0.25,
        },
        "loss": "mse",
        "catalogue": rows,
        "leads_to": [
            ["(0,0)", "(1,0)"], ["(0,1)", "(1,0)"], ["(0,1)", "(1,1)a"], ["(0,1)", "(1,1)b"], ["(0,2)", "(1,1)a"],
            ["(1,1)b", "(2,0)"], ["(1,1)a", "(2,0)"], ["(1,1)a", "(2,1)a"], ["(1,1)c", "(2,1)a"],
        ],
        "catalogue_settings": {"activation": "tanh", "max_units": 3, "random": 8, "warm": 8, "num_steps": 3000},
        "trainings": [others[0], run, others[1]],
        "best_seed": 1,
        "ending": {
            "words": "still moving after 60,000 steps: gradient 2.3e-05, the loss falls like t^-0.41; not a critical "
            "point",
            "reductions": [
                {"relative_tolerance": t, "tolerance": 0.58 * t, "neurons": n, "linear_units": r,
                 "parameters": 40, "max_change": 0.5 * t, "mean_change": 0.1 * t}
                for t, n, r in [(0.01, [6, 3], [1, 2]), (0.03, [4, 2], [1, 1]), (0.1, [2, 1], [1, 1]), (0.3, [2], [0])]
            ],
            "layers": [
                {"name": "hidden[0]", "mpc": 0.93, "score": 0.21, "block_r2": 0.94, "max_change": 0.1,
                 "is_linear": False},
                {"name": "hidden[1]", "mpc": 0.71, "score": 0.4, "block_r2": 0.87, "max_change": 0.3,
                 "is_linear": False},
            ],
        },
        "selection": {
            "rows": list(held_out.values()),
            "best": "(2,0)",
            "recommended": "(1,1)",
            "measured_on": "38 held-out rows (one split)",
            "held_out_rows": 38,
            "folds": 1,
            "repeats": 1,
            "recipe": {"num_starts": 8, "num_steps": 3000, "learning_rate": 0.03, "big_steps": 5000, "big_starts": 3},
        },
        "seconds": {"catalogue": 41.2, "training": 52.9, "reduction": 3.1, "held-out figures": 22.0},
    }  # fmt: skip
    number_entries(tables)
    return tables, arrays_of(tables, [0.3336, 0.1713, 0.034, 0.0195, 0.0066], [1700.0, 5600.0, 15000.0, 36000.0])


def number_entries(tables: dict[str, Any]) -> None:
    """Give visits and slow-downs the index of their entry, as a real survey does."""
    names = [r["name"] for r in tables["catalogue"]]
    for run in tables["trainings"]:
        for row in [*run["visits"], *run["slow_downs"]]:
            row["entry"] = None if row["name"] is None else names.index(row["name"])


def arrays_of(tables: dict[str, Any], levels: list[float], ends: list[float]) -> xr.DataTree:
    """Arrays that go with tables: every seed falls from level to level, a little later than the one before."""
    seeds = [run["seed"] for run in tables["trainings"]]
    names = [r["name"] for r in tables["catalogue"]]
    run = next(r for r in tables["trainings"] if r["seed"] == tables["best_seed"])
    last = run["settings"]["num_steps"]
    steps = np.concatenate([[0], np.unique(np.geomspace(1, last, 160).round())])
    loss = np.stack([stalling_loss(steps, levels, [e * 1.25**i for e in ends]) for i in range(len(seeds))])
    distance = np.empty((len(steps), len(names)))
    for i, name in enumerate(names):
        v = next(v for v in run["visits"] if v["name"] == name)
        away = np.log(np.maximum(steps, 1) / max(v["step"], 1))
        distance[:, i] = np.hypot(v["distance"], 0.5 * np.minimum(np.abs(away), 3))
    grown = np.log1p(steps) / math.log1p(last)
    num_layers = len(tables["config"]["hidden"])
    layer = np.arange(num_layers)
    neurons = 1 + 30 * np.exp(-9 * grown)[:, None] / (1 + layer) + 2.2 * grown[:, None] ** 4
    linear = np.clip(2.4 * grown[:, None] - 0.2 * layer, 0, 2) * np.exp(-0.2 * layer)
    training = xr.Dataset(
        {
            "step": (("seed", "snapshot"), np.tile(steps, (len(seeds), 1))),
            "loss": (("seed", "snapshot"), loss),
            "gradient_norm": (("seed", "snapshot"), np.full(loss.shape, 1e-3)),
            "distance": (("seed", "snapshot", "entry"), np.tile(distance, (len(seeds), 1, 1))),
            "effective_neurons": (("seed", "snapshot", "layer"), np.tile(neurons, (len(seeds), 1, 1))),
            "linear_units": (("seed", "snapshot", "layer"), np.tile(linear, (len(seeds), 1, 1))),
        },
        coords={"seed": seeds, "entry": names, "layer": [f"hidden[{i}]" for i in range(num_layers)]},
    )
    return xr.DataTree.from_dict({"/training": training})


def nothing_visited() -> tuple[dict[str, Any], xr.DataTree]:
    """One seed, no visit, no slow-down, nothing leads anywhere; the big network is recommended."""
    tables, arrays = iris()
    tables = copy.deepcopy(tables)
    run = tables["trainings"][1]
    for row in run["visits"]:
        row |= {
            "verdict": "no match",
            "distance": 0.31 + 0.1 * row["entry"],
            "control": None,
            "first_step": row["step"],
        }
        row["last_step"] = row["step"]
        tables["catalogue"][row["entry"]]["visit"] |= {k: row[k] for k in ("verdict", "distance", "control")}
    run |= {"slow_downs": [], "decay_exponent": None}
    tables |= {"trainings": [run], "leads_to": []}
    tables["selection"]["recommended"] = tables["selection"]["best"] = "big network"
    return tables, xr.DataTree.from_dict({"/training": arrays["training"].to_dataset().sel(seed=[1])})


def diabetes() -> tuple[dict[str, Any], xr.DataTree]:
    """Regression: no accuracy, one output, a seed that diverged, one hidden layer, a linear model recommended."""
    tables, _ = iris()
    tables = copy.deepcopy(tables)
    tables["data"] |= {"name": "diabetes", "kind": "regression", "outputs": 1, "classes": [], "inputs": 10, "rows": 442}
    tables["config"]["hidden"] = [50]
    tables["headline"] = (
        "On diabetes, a linear model (12 parameters) does better than the big network (3,151 parameters): held-out "
        "loss 0.251 ± 0.02, against loss 0.834 ± 0.07."
    )
    keep = {"(0,0)": 0.5, "(0,1)": 0.2411, "(1,0)": 0.2343499308}
    tables["catalogue"] = [r | {"loss": keep[r["name"]]} for r in tables["catalogue"] if r["name"] in keep]
    tables["catalogue"][2] |= {"kind": "critical point", "is_minimum": True, "inertia": [0, 0, 13], "runaway": "",
                               "inertia_certified": True, "unexplained_zeros": 0}  # fmt: skip
    for row in tables["catalogue"]:
        row |= {"held_out_accuracy": None, "held_out_r_squared": 0.5}
    tables["leads_to"] = [["(0,1)", "(1,0)"]]
    for run in tables["trainings"]:
        run["visits"] = [v for v in run["visits"] if v["name"] in keep]
        run["slow_downs"] = run["slow_downs"][:2]
        run["settings"] = run["settings"] | {"widths": [10, 50, 1]}
        run["visits"][0] |= {"loss": 0.5001}
        run["visits"][1] |= {"loss": 0.242, "distance": 0.083}
        run["slow_downs"] = [slow_down(600, 0.4999, "(0,0)"), slow_down(5000, 0.2416, "(0,1)")]
    tables["trainings"][2] |= {"status": "the loss became non-finite"}
    rows = [r for r in tables["selection"]["rows"] if r["name"] in {*keep, "big network"}]
    for row, loss in zip(rows, (0.503, 0.2511, 0.2491, 0.834), strict=True):
        row |= {"accuracy": None, "r_squared": 1 - loss / 0.503, "loss": loss, "gap": loss - 0.2491}
    tables["selection"] |= {
        "rows": rows,
        "best": "(1,0)",
        "recommended": "(0,1)",
        "measured_on": "442 held-out rows (5 folds)",
    }
    tables["ending"]["reductions"] = [r | {"neurons": [], "linear_units": []} for r in tables["ending"]["reductions"]]
    tables["ending"]["layers"] = [tables["ending"]["layers"][0] | {"score": None}]
    number_entries(tables)
    arrays = arrays_of(tables, [0.5, 0.2415, 0.19], [1500.0, 9000.0])
    training = arrays["training"].to_dataset()
    is_late = (training["snapshot"] > 90) & (training["seed"] == 2)
    return tables, xr.DataTree.from_dict({"/training": training.where(~is_late)})


def digits() -> tuple[dict[str, Any], xr.DataTree]:
    """Ten linear levels close together, and four others; cross-entropy; two hidden layers; many labels."""
    tables, _ = iris()
    tables = copy.deepcopy(tables)
    losses = [0.45, 0.4056, 0.3643, 0.3236, 0.2857, 0.2517, 0.2200, 0.1933, 0.1715, 0.1540]
    words = ["a constant", "a linear model", *[f"a linear model of rank {r}" for r in range(2, 10)]]
    rows = [entry(f"(0,{r})", words[r], loss, 10 + 74 * r) for r, loss in enumerate(losses)]
    rows += [entry(f"(1,0){c}", "one neuron", x, 85) for c, x in zip("ab", (0.4031, 0.4044), strict=True)]
    rows += [entry("(1,1)", "one neuron beside one linear unit", 0.3611, 159)]
    rows += [entry(f"(2,0){c}", "two neurons", x, 160) for c, x in zip("abcd", (0.35, 0.351, 0.352, 0.36), strict=True)]
    near = {
        "(0,1)": (900, 0.4065, 0.05, "visit"),
        "(0,3)": (2000, 0.3251, 0.09, "visit"),
        "(0,2)": (1400, 0.37, 0.12, "visit"),
    }
    visits = []
    for row in rows:
        step, loss, distance, verdict = near.get(row["name"], (5000, 0.15, 0.45, "no match"))
        visits.append(visit(row["name"], step, loss, distance, 0.4, verdict))
        row["visit"] = {k: v for k, v in visits[-1].items() if k != "name"}
    run = tables["trainings"][1] | {"visits": visits, "slow_downs": [slow_down(900, 0.4065, "(0,1)")]}
    run["settings"] = run["settings"] | {"widths": [64, 50, 50, 10], "num_steps": 5000}
    tables |= {"catalogue": rows, "trainings": [run], "loss": "cross_entropy"}
    tables["headline"] = "On digits, no small network of the catalogue does as well as the big one."
    tables["leads_to"] = [["(0,0)", "(1,0)a"], ["(0,1)", "(1,1)"], ["(1,0)a", "(2,0)a"], ["(1,1)", "(2,0)b"]]
    tables["data"] |= {"name": "digits", "rows": 1797, "inputs": 64, "outputs": 10, "classes": list("0123456789"),
                       "notes": ["3 columns are constant (0, 32, 39): they carry nothing."]}  # fmt: skip
    selection = [
        candidate(f"({k},{r})", "small", p, loss, 0.004, acc, loss - 0.02)
        for k, r, p, loss, acc in [
            (0, 0, 10, 0.45, 0.1), *[(0, r, 10 + 74 * r, losses[r] + 0.01, 0.1 * r) for r in range(1, 10)],
            (1, 0, 85, 0.404, 0.19), (1, 1, 159, 0.365, 0.27), (2, 0, 160, 0.356, 0.29),
        ]
    ]  # fmt: skip
    selection.append(candidate("big network", "the big network", 6310, 0.02, 0.003, 0.975, 0.0))
    selection.sort(key=lambda r: r["parameters"])
    tables["selection"] |= {"rows": selection, "best": "big network", "recommended": "big network"}
    number_entries(tables)
    return tables, arrays_of(tables, [0.4501, 0.4060, 0.3645, 0.3245, 0.15], [500.0, 1200.0, 1700.0, 2600.0])


EXAMPLES = {"iris": iris, "nothing visited": nothing_visited, "diabetes": diabetes, "digits": digits}
