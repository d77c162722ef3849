"""The table of annotation forms, and the recognition of the form of a data folder.

A new form is a file that defines a `Form`, and a row of `FORMS`.
"""

from __future__ import annotations

from pathlib import Path

from jaxvideo.data.datasets import (
    actions,
    activitynet,
    folders,
    hara,
    hmdb51,
    kinetics,
    mmaction,
    pairs,
    sports1m,
    ssv2,
    ucf101,
)
from jaxvideo.data.datasets.form import Candidate, Form, candidates
from jaxvideo.names import did_you_mean
from jaxvideo.types import UsageError

#: All forms by name. A file has the first form that matches it, so "csv", which matches most files,
#: comes after the others.
FORMS: dict[str, Form] = {
    "ucf101": ucf101.FORM,
    "hmdb51": hmdb51.FORM,
    "kinetics": kinetics.FORM,
    "actions": actions.FORM,
    "sports1m": sports1m.FORM,
    "ssv2": ssv2.FORM,
    "hara": hara.FORM,
    "activitynet": activitynet.FORM,
    "mmaction": mmaction.FORM,
    "csv": pairs.FORM,
    "folders": folders.FORM,
}


def form_named(name: str) -> Form:
    """Returns a row of `FORMS`.

    Raises:
      ConfigError: unknown name.
    """
    if name not in FORMS:
        allowed = ("auto", *FORMS)
        raise UsageError(
            f"form {name!r}: allowed are {', '.join(allowed)}.{did_you_mean(name, allowed)}"
        )
    return FORMS[name]


def annotation_files(root: Path) -> dict[str, tuple[Path, ...]]:
    """Returns the annotation files of a data folder by the name of their form."""
    found: dict[str, list[Candidate]] = {}
    for file in candidates(root):
        name = form_of(file)
        if name:
            found.setdefault(name, []).append(file)
    if len(found) > 1 and "csv" in found:
        # A list without labels does not decide the form.
        found["csv"] = [file for file in found["csv"] if not (file.split and file.unlabeled)]
        if not found["csv"]:
            del found["csv"]
    return {name: tuple(file.path for file in files) for name, files in found.items()}


def form_of(file: Candidate) -> str | None:
    """Returns the name of a file's form; None if it contains no annotations."""
    for name, form in FORMS.items():
        if form.matches_file is not None and form.matches_file(file):
            return name
    return None


def folder_form(root: Path) -> str | None:
    """Returns the name of the form of a data folder without annotation files, None if unknown."""
    for name, form in FORMS.items():
        if form.matches_folder is not None and form.matches_folder(root):
            return name
    return None
