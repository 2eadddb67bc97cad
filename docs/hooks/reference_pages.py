"""A page of the reference for every sub-package: a table of its public names, then each with its docstring."""

import importlib
import inspect
import pkgutil

import lossatlas


def pages() -> dict[str, str]:
    """The names of `lossatlas` itself, then a page for every sub-package that exports some."""
    return {"reference/lossatlas.md": _root(), **{f"reference/{name}.md": _page(name) for name in packages()}}


def packages() -> list[str]:
    """The sub-packages that export names."""
    found = [info.name for info in pkgutil.iter_modules(lossatlas.__path__) if not info.name.startswith("_")]
    return [name for name in found if exported(name)]


def exported(package: str) -> dict[str, object]:
    """Functions, then classes that a sub-package exports and that are its own."""
    module = importlib.import_module(f"lossatlas.{package}")
    names = getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])
    items = {name: getattr(module, name) for name in names}
    return {
        name: item
        for name, item in sorted(items.items(), key=lambda pair: (inspect.isclass(pair[1]), pair[0].lower()))
        if (inspect.isfunction(item) or inspect.isclass(item)) and _is_own(item, package)
    }


def _is_own(item: object, package: str) -> bool:
    # What two packages export is documented where it is defined; shared modules have no page of their own.
    module = inspect.getmodule(item)
    parts = module.__name__.split(".") if module else []
    return parts[:1] == ["lossatlas"] and (parts[1] == package or parts[1].startswith("_"))


def _page(package: str) -> str:
    items = exported(package)
    first, _, rest = (inspect.getdoc(importlib.import_module(f"lossatlas.{package}")) or "").partition("\n")
    rows = [f"| [`{name}`][lossatlas.{package}.{name}] | {_first_line(item)} |" for name, item in items.items()]
    entries = [f"::: lossatlas.{package}.{name}" for name in items]
    table = "\n".join(["| name | what it is |", "|---|---|", *rows])
    return "\n\n".join([f"# lossatlas.{package}", first, rest.strip(), table, *entries, ""])


def _root() -> str:
    """Names that `lossatlas` has itself lead to where they are defined."""
    parts = ["# lossatlas", "The names that most need; each loads on first use."]
    for name in lossatlas.__all__:
        item = getattr(lossatlas, name)
        if not callable(item):
            continue
        parts.append(f"## lossatlas.{name} {{ #lossatlas.{name} }}")
        home = next((package for package in packages() if exported(package).get(name) is item), None)
        if home is None:  # of a shared module
            options = "    options:\n      show_root_heading: false\n      show_root_toc_entry: false"
            parts.append(f"::: {item.__module__}.{name}\n{options}")
        else:
            parts.append(f"{_first_line(item)} It is [`lossatlas.{home}.{name}`][].")
    return "\n\n".join([*parts, ""])


def _first_line(item: object) -> str:
    # In a table a bar ends the cell, also the bars of a norm.
    return (inspect.getdoc(item) or "").partition("\n")[0].replace("\\|", "\\Vert ").replace("|", "\\|")
