"""The API reference: every public name of every package, from the docstrings."""

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import jaxvideo

#: Packages by page, with their headings. Commands, recipes and reports are no interface of Python.
PACKAGES = {
    "types": "Types and errors",
    "layers": "Layers",
    "models": "Models",
    "weights": "Weights",
    "pretrained": "Pretrained variables",
    "network": "Network",
    "data": "Data",
    "evaluation": "Evaluation",
    "inference": "Inference",
    "training": "Training",
    "planning": "Planning",
    "studies": "Studies",
    "report": "Reports",
    "support": "Support",
}
SUPPORT = ("names", "precision", "progress", "startup")
INDEX = """API reference
=============

``jaxvideo`` exports these names; `versions <../../releases.html#versions>`_ states what they
promise. The pages below list the names of all packages. Names with a leading underscore, commands
and recipes are not part of the interface.

.. toctree::
   :maxdepth: 1

{pages}

jaxvideo
--------

.. module:: jaxvideo

{names}
"""


def _modules(package: str) -> list[str]:
    """Returns the modules of a package, itself first."""
    module = importlib.import_module(f"jaxvideo.{package}")
    found = [module.__name__]
    if hasattr(module, "__path__"):
        walked = pkgutil.walk_packages(module.__path__, f"{module.__name__}.")
        found += sorted(info.name for info in walked if "jax_internals" not in info.name)
    return found


def check(name: str, node: ast.ClassDef | ast.FunctionDef) -> None:
    """Raises an error if a function, a class or one of its methods has no docstring.

    Methods of classes with a base may inherit theirs.
    """
    if not ast.get_docstring(node):
        raise ValueError(f"{name} has no docstring")
    for inner in node.body if isinstance(node, ast.ClassDef) and not node.bases else ():
        if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
            check(f"{name}.{inner.name}", inner)


def _defined(module) -> list[tuple[str, str]]:
    """Returns directive and name of what a module defines, in its order."""
    source = Path(inspect.getsourcefile(module) or "").read_text()
    lines, found = source.splitlines(), []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            value = getattr(module, node.name)
            check(f"{module.__name__}.{node.name}", node)
            exception = inspect.isclass(value) and issubclass(value, BaseException)
            kind = "autoclass" if inspect.isclass(value) else "autofunction"
            found.append(("autoexception" if exception else kind, node.name))
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            # Tables and constants of the interface have a comment that Sphinx reads.
            documented = node.lineno > 1 and lines[node.lineno - 2].startswith("#:")
            if documented and isinstance(target, ast.Name) and not target.id.startswith("_"):
                found.append(("autodata", target.id))
    return found


def _exports(module) -> list[tuple[str, str]]:
    """Returns directive and name of what a package exports."""
    found = []
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        if inspect.isclass(value):
            found.append(("autoclass", name))
        elif inspect.isfunction(value):
            found.append(("autofunction", name))
    return found


def _directive(kind: str, name: str) -> str:
    option = {"autofunction": "", "autodata": "   :no-value:\n"}.get(kind, "   :members:\n")
    return f".. {kind}:: {name}\n{option}"


def _heading(text: str, line: str) -> str:
    return f"{text}\n{line * len(text)}\n"


def _page(title: str, modules: list[str]) -> str:
    parts = [_heading(title, "=")]
    for name in modules:
        module = importlib.import_module(name)
        names = _defined(module)
        if not names and not inspect.getdoc(module):
            continue
        parts += [_heading(name, "-"), f".. automodule:: {name}\n   :no-members:\n"]
        parts += [_directive(kind, f"{name}.{member}") for kind, member in names]
    return "\n".join(parts)


def pages() -> dict[str, str]:
    found = {}
    for package, title in PACKAGES.items():
        names = SUPPORT if package == "support" else (package,)
        modules = [module for name in names for module in _modules(name)]
        found[f"api/{package}.rst"] = _page(title, modules)
    found["api/index.rst"] = INDEX.format(
        pages="\n".join(f"   {package}" for package in PACKAGES),
        names="\n".join(_directive(kind, name) for kind, name in _exports(jaxvideo)),
    )
    return found
