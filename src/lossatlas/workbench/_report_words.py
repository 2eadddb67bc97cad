"""What a report says in sentences, all of them made of the numbers of the run."""

from collections.abc import Mapping, Sequence
from typing import Any

from lossatlas.atlas import BIG
from lossatlas.figures import format_number, format_steps, shown_training


Row = Mapping[str, Any]

_COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def count(number: int, noun: str, plural: str | None = None) -> str:
    """`three small networks`, `12 levels`, `one visit`."""
    word = _COUNTS[number] if number < len(_COUNTS) else f"{number:,}"
    return f"{word} {noun if number == 1 else plural or noun + 's'}"


def plural(number: int, noun: str) -> str:
    """`1 input`, `64 inputs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def capital(text: str) -> str:
    """The first letter large."""
    return text[:1].upper() + text[1:]


def visits_of(run: Row, *verdicts: str) -> list[Row]:
    """The visits of these verdicts, in order of time."""
    return sorted((v for v in run["visits"] if v["verdict"] in verdicts), key=lambda v: (v["step"], v["distance"]))


def words_of(tables: Row) -> dict[str, str]:
    """What each entry is, in words."""
    return {row["name"]: row["words"] for row in tables["catalogue"]}


def big_row(tables: Row) -> Row | None:
    """The held-out row of the big network."""
    return next((r for r in tables["selection"]["rows"] if r["name"] == BIG), None)


def explain_atlas(tables: Row) -> str:
    """The picture in a sentence or two, for somebody who never read a paper."""
    run = shown_training(tables)
    words = words_of(tables)
    ended = [v for v in visits_of(run, "visit") if v.get("ends")]
    started = [v for v in visits_of(run, "visit") if v["control"] is None and not v.get("ends")]
    passed = [v for v in visits_of(run, "visit") if v["control"] is not None]
    losses = {row["name"]: row["loss"] for row in tables["catalogue"]}
    at_level = {s["name"] for s in run["slow_downs"] if s["name"] and _is_near(s["loss"], losses[s["name"]])}
    named = at_level & {v["name"] for v in [*passed, *started]}
    stalls = [v for v in [*started, *passed] if v["name"] in named]
    places = [f"{words[v['name']]} {v['name']}" for v in passed]
    end = "".join(
        f" It ends near {words[v['name']]} {v['name']}, at distance {format_number(v['distance'], 2)}." for v in ended
    )
    if not passed and ended:
        near = [f"{words[v['name']]} {v['name']}" for v in visits_of(run, "near")]
        way = f"comes near {listed(near)}, visiting none of them" if near else "goes straight to its end"
        return f"The big network {'starts as a constant and ' if started else ''}{way}.{end}"
    if not passed:
        nearest = nearest_miss(tables)
        miss = "" if nearest is None else f" ({nearest})"
        start = "starts as a constant and then " if started else ""
        return f"In this run the big network {start}comes near none of the small networks of this data{miss}."
    same = "its predictions there are close to theirs"
    if stalls:
        return (
            "The big network does not learn smoothly: it slows down near the losses of tiny networks "
            f"({listed([format_number(_loss_of(tables, v['name'])) for v in stalls])}); {same}. "
            f"On its way down it visits {listed(places)}.{end}"
        )
    return f"On its way down the big network visits {listed(places)}; {same}.{end}"


def _is_near(loss: float | None, level: float | None) -> bool:
    """Whether a loss is within a tenth of a level."""
    return loss is not None and level is not None and abs(loss - level) <= 0.1 * level


def nearest_miss(tables: Row) -> str | None:
    """`the nearest is one neuron (1,0), at distance 0.31`."""
    run = shown_training(tables)
    misses = [v for v in run["visits"] if v["verdict"] in ("near", "no match") and v["distance"] is not None]
    if not misses:
        return None
    nearest = min(misses, key=lambda v: v["distance"])
    return (
        f"the nearest is {words_of(tables)[nearest['name']]} {nearest['name']}, "
        f"at distance {format_number(nearest['distance'], 2)}"
    )


def visits_sentence(tables: Row) -> str:
    """How many of the catalogue were visited, and which came near only."""
    run = shown_training(tables)
    visits, near = visits_of(run, "visit"), visits_of(run, "near")
    known = sum(v["verdict"] != "same function" for v in run["visits"])
    text = f"Of {count(known, 'different function')} in the catalogue, the run visits {_none(len(visits))}"
    if visits:
        text += f": {listed([v['name'] for v in visits])}"
    if near:
        text += f". It comes near {count(len(near), 'other')}: {listed([v['name'] for v in near])}"
    if not visits:
        text += ". No match is forced"
    return text + "."


def slow_downs_sentence(tables: Row) -> str:
    """Where training stalls, and at what."""
    stalls = shown_training(tables)["slow_downs"]
    if not stalls:
        return "No slow-down stands out: the loss falls without a stall."
    unnamed = sum(s["name"] is None for s in stalls)
    text = f"Training slows down {_times(len(stalls))}"
    if unnamed == len(stalls):
        return f"{text}, never at an entry of the catalogue: these stalls are left unnamed."
    if unnamed:
        return f"{text}; {count(unnamed, 'slow-down')} {'is' if unnamed == 1 else 'are'} at no entry and left unnamed."
    return f"{text}, {'' if len(stalls) == 1 else 'each time '}at an entry of the catalogue."


def seeds_sentence(tables: Row) -> str:
    """What the other seeds did."""
    runs = tables["trainings"]
    if len(runs) < 2:
        return ""
    totals = [len(visits_of(run, "visit")) for run in runs]
    span = str(min(totals)) if min(totals) == max(totals) else f"{min(totals)} to {max(totals)}"
    diverged = [run["seed"] for run in runs if run["status"] == "the loss became non-finite"]
    lost = f" Diverged: seed {listed([str(s) for s in diverged])}." if diverged else ""
    return (
        f"{capital(count(len(runs), 'seed'))} were trained, with {span} visits each; the report shows seed "
        f"{tables['best_seed']}, which has the most and nearest.{lost}"
    )


def catalogue_sentence(tables: Row) -> str:
    """What kinds of small networks there are."""
    rows = tables["catalogue"]
    critical = [r for r in rows if r["kind"] == "critical point"]
    minima = sum(r["is_minimum"] is True for r in critical)
    saddles = sum(r["is_minimum"] is False for r in critical)
    infinite = sum(r["kind"] == "level at infinity" for r in rows)
    open_ = sum(r["kind"] == "not certified" for r in rows)
    parts = []
    if critical:
        kinds = [f"{minima:,} certified {'minimum' if minima == 1 else 'minima'}"] * bool(minima)
        kinds += [plural(saddles, "saddle")] * bool(saddles)
        rest = len(critical) - minima - saddles
        kinds += [f"{rest} of unproven type"] * bool(rest)
        all_of = f"all {kinds[0].split(' ', 1)[1]}" if len(kinds) == 1 and minima > 1 else listed(kinds)
        parts.append(f"{plural(len(critical), 'critical point')} ({all_of})")
    if infinite:
        parts.append(f"{plural(infinite, 'level')} at infinity, where weights run away and no best network exists")
    if open_:
        parts.append(f"{plural(open_, 'level')} not certified")
    return f"The catalogue of this data holds {listed(parts)}."


def tree_sentence(tables: Row) -> str:
    """Which small network leads to which."""
    pairs = tables["leads_to"]
    if not pairs:
        return "No entry was reached from a smaller one with one unit more."
    targets = {b for _, b in pairs}
    parents: dict[str, list[str]] = {}
    for start, end in pairs:
        parents.setdefault(start, []).append(end)
    most = max(parents, key=lambda name: len(parents[name]))
    reached = "was" if len(targets) == 1 else "were"
    return (
        f"{capital(count(len(targets), 'entry', 'entries'))} of {len(tables['catalogue'])} {reached} reached from a "
        f"smaller one with one unit more; {most} leads to {listed(parents[most])}."
    )


def ending_sentence(tables: Row) -> str:
    """What the end of training is, and how small it is."""
    ending = tables["ending"]
    text = f"The end of training is {ending['words']}."
    for reduction in ending["reductions"]:
        share = format_number(100 * reduction["relative_tolerance"], 2)
        text += f" If its outputs may change by {share} % of their spread, {layers_text(reduction)}."
    return text


def layers_text(reduction: Row) -> str:
    """What is left of the hidden layers, in words."""
    sizes = list(zip(reduction["neurons"], reduction["linear_units"], strict=True))
    if not sizes:
        return "no hidden layer is left: it is an affine map"
    layers = count(len(sizes), "hidden layer")
    return f"{layers} {'is' if len(sizes) == 1 else 'are'} left: {', then '.join(units_text(k, r) for k, r in sizes)}"


def units_text(neurons: int, linear: int) -> str:
    """`2 neurons + 1 linear unit`."""
    parts = [plural(neurons, "neuron")] if neurons or not linear else []
    parts += [plural(linear, "linear unit")] if linear else []
    return " + ".join(parts)


def linear_layers_sentence(tables: Row) -> str:
    """Which layers act as affine maps."""
    layers = tables["ending"]["layers"]
    told = [layer for layer in layers if layer.get("is_linear") is not None]
    if not told:
        return ""
    linear = [str(i + 1) for i, layer in enumerate(layers) if layer.get("is_linear")]
    if not linear:
        return "No hidden layer acts as an affine map on this data."
    if len(linear) == 1:
        return f"Layer {linear[0]} acts as an affine map on this data, within the tolerance."
    return f"Layers {listed(linear)} act as affine maps on this data, each within the tolerance."


def selection_sentence(tables: Row) -> str:
    """The rule, what it chose, and the evidence."""
    selection = tables["selection"]
    rows = {r["name"]: r for r in selection["rows"]}
    chosen, best = rows[selection["recommended"]], rows[selection["best"]]
    rule = "The smallest network whose held-out loss is within one paired standard error of the best of all"
    if chosen is best:
        what = f"{_called(chosen)}, which is itself the best, with {format_number(best['loss'], 3)}"
    else:
        what = (
            f"{_called(chosen)}: it is behind the best, {_called(best)}, by {format_number(chosen['gap'], 2)} ± "
            f"{format_number(chosen['gap_error'], 2)}"
        )
    return f"{rule} is {what}. Measured on {selection['measured_on']}."


def data_sentence(tables: Row) -> str:
    """The data in a sentence."""
    data = tables["data"]
    kind = f"{len(data['classes'])} classes" if data["classes"] else plural(data["outputs"], "target")
    return f"Data: {data['name']} ({data['source']}), {data['rows']:,} rows, {plural(data['inputs'], 'input')}, {kind}."


def atlas_alternative(tables: Row) -> str:
    """What the atlas picture shows, for those who cannot see it."""
    run = shown_training(tables)
    words = words_of(tables)
    visits = [
        f"{words[v['name']]} {v['name']} ({format_steps(v['first_step'], v['last_step'])}, loss "
        f"{format_number(v['loss'])})"
        for v in visits_of(run, "visit")
    ]
    levels = [f"{r['name']} {format_number(r['loss'])}" for r in tables["catalogue"][:12] if r["loss"] is not None]
    return (
        f"Training loss against step, both logarithmic, ending at {format_number(run['final_loss'])}. "
        f"Levels: {listed(levels)}. Visits: {'; '.join(visits) or 'none'}. "
        "Below: effective number of neurons and of linear units by layer."
    )


def _loss_of(tables: Row, name: str) -> float:
    return next(r["loss"] for r in tables["catalogue"] if r["name"] == name)


def _called(row: Row) -> str:
    return "the big network" if row["name"] == BIG else f"{row['name']}, {row['words']}"


def _none(number: int) -> str:
    return _COUNTS[number] if 0 < number < len(_COUNTS) else str(number) if number else "none"


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{_none(number)} times")
