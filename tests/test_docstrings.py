"""Every public name has a docstring in our style (Markdown; Arguments, Returns, Raises), and it fits the code."""

import dataclasses
import functools as ft
import importlib
import inspect
import pkgutil
import re

import pytest

import lossatlas


SECTIONS = ("**Arguments:**", "**Returns:**", "**Raises:**")
# These mean the same everywhere, so one need not repeat it each time.
COMMON_ARGUMENTS = {"key", "network", "landscape", "only", "progress", "throw"}
COMMON_FIELDS = {"fn", "name", "note", "size", "gradient_norm", "stats", "settings", "seed", "status"}


def public_names() -> dict[str, object]:
    """Functions and classes that a sub-package exports, by their public name."""
    found = {}
    for info in pkgutil.iter_modules(lossatlas.__path__):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"lossatlas.{info.name}")
        names = getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])
        for name in names:
            item = getattr(module, name)
            if (inspect.isfunction(item) or inspect.isclass(item)) and item.__module__.startswith("lossatlas."):
                found[f"lossatlas.{info.name}.{name}"] = item
    return found


PUBLIC = public_names()
FUNCTIONS = {name: item for name, item in PUBLIC.items() if inspect.isfunction(item)}
CLASSES = {name: item for name, item in PUBLIC.items() if inspect.isclass(item)}


def methods(cls: type) -> dict[str, object]:
    """Public methods and properties that a class defines itself."""
    found = {}
    for name, member in vars(cls).items():
        inner = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        inner = inspect.unwrap(inner) if callable(inner) else inner
        if not name.startswith("_") and inspect.isfunction(inner) and inner.__name__ != "<lambda>":
            found[name] = inner
    return found


METHODS = {f"{name}.{method}": item for name, cls in CLASSES.items() for method, item in methods(cls).items()}


def doc_of(item: object) -> str:
    return inspect.cleandoc(item.__doc__ or "")


def arguments_of(item) -> list[str]:
    return [name for name in inspect.signature(item).parameters if name not in ("self", "cls")]


def section(doc: str, title: str) -> str:
    """The text of a section, up to the next one or an admonition."""
    return re.split(r"\n\s*(?:\*\*[A-Z]\w+:\*\*|!!! )", doc.partition(title)[2])[0]


def spoken_of(name: str, doc: str) -> bool:
    """Whether a text has a name, as it is or as words (`gradient_norm`, gradient norm)."""
    return re.search(rf"\b({name}|{name.replace('_', '[ -]')})s?\b", doc) is not None


def with_references(doc: str) -> str:
    """A docstring and those of ours that it refers to: "arguments as in ..." counts."""
    return "\n".join([doc, *(doc_of(PUBLIC[name]) for name in references(doc) if name in PUBLIC)])


def references(doc: str) -> list[str]:
    return re.findall(r"\[`(lossatlas[\w.]*)`\]\[\]", doc)


@ft.cache
def resolves(reference: str) -> bool:
    """Whether a dotted name leads somewhere."""
    parts = reference.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            item = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for part in parts[cut:]:
            if not hasattr(item, part) and part not in getattr(item, "__dataclass_fields__", {}):
                return False
            item = getattr(item, part, None)
        return True
    return False


def test_the_public_names_are_found():
    for name in ("lossatlas.landscape.Landscape", "lossatlas.networks.Dense", "lossatlas.data.load"):
        assert name in PUBLIC
    assert "lossatlas.landscape.Landscape.gradient" in METHODS


@pytest.mark.parametrize("name", [*PUBLIC, *METHODS])
def test_the_first_line_is_a_sentence(name):
    doc = doc_of({**PUBLIC, **METHODS}[name])
    first, _, rest = doc.partition("\n")
    assert first, "no docstring"
    assert first.endswith("."), first
    assert rest == "" or rest.startswith("\n"), "an empty line belongs below the first one"


@pytest.mark.parametrize("name", list(PUBLIC))
def test_sections_are_ours_and_in_order(name):
    doc = doc_of(PUBLIC[name])
    assert not re.search(
        r"^(Args|Arguments|Parameters|Returns|Raises):?\n|^\s*-{4,}$|:param |@param ", doc, re.MULTILINE
    )
    places = [doc.find(title) for title in SECTIONS if title in doc]
    assert places == sorted(places)
    assert all(doc.count(title) <= 1 for title in SECTIONS)


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_every_option_is_spoken_of(name):
    # One, two or three positional arguments may be clear from the sentence; options never are.
    doc, parameters = doc_of(FUNCTIONS[name]), inspect.signature(FUNCTIONS[name]).parameters
    if len(parameters) > 3:
        assert "**Arguments" in doc
    options = [p.name for p in parameters.values() if p.default is not p.empty and p.name not in COMMON_ARGUMENTS]
    silent = [option for option in options if not spoken_of(option, with_references(doc))]
    assert not silent, f"not a word about {silent}"


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_documented_arguments_exist(name):
    bullets = re.findall(r"^- (`[^:]*?`)[^`:]*:", section(doc_of(FUNCTIONS[name]), "**Arguments:**"), re.MULTILINE)
    documented = {word for bullet in bullets for word in re.findall(r"`\**(\w+)`", bullet)}
    assert documented <= set(arguments_of(FUNCTIONS[name]))


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_errors_that_a_function_raises_are_announced(name):
    doc, source = doc_of(FUNCTIONS[name]), inspect.getsource(inspect.unwrap(FUNCTIONS[name]))
    if re.search(r"^\s+raise (InputError|unknown_name)", source, re.MULTILINE):
        assert "InputError" in section(doc, "**Raises:**")
    if "**Raises:**" in doc:
        assert re.search(r"`\w+Error`", section(doc, "**Raises:**"))


@pytest.mark.parametrize("name", list(CLASSES))
def test_fields_of_results_are_spoken_of(name):
    cls = CLASSES[name]
    if not dataclasses.is_dataclass(cls) or "**Arguments:**" in doc_of(cls):
        return  # a class with arguments of its own documents those
    own = [f.name for f in dataclasses.fields(cls) if not f.name.startswith("_") and f.name not in COMMON_FIELDS]
    silent = [field for field in own if not spoken_of(field, with_references(doc_of(cls)))]
    assert not silent, f"not a word about {silent}"


@pytest.mark.parametrize("name", [*PUBLIC, *METHODS])
def test_references_lead_somewhere(name):
    doc = doc_of({**PUBLIC, **METHODS}[name])
    for reference in references(doc):
        assert resolves(reference), reference
