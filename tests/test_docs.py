"""README and documentation: their programs run, their commands and links exist."""

import argparse
import ast
import importlib.util
import inspect
import pkgutil
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

import jaxvideo
from configs import finetune
from jaxvideo import cli, list_models
from jaxvideo.cli.train import make_parser, overrides
from jaxvideo.data.datasets.forms import FORMS
from jaxvideo.data.motion.spec import CLASSES
from jaxvideo.data.samplers import SAMPLERS
from jaxvideo.evaluation.metrics import METRICS
from jaxvideo.models import MODELS
from jaxvideo.pretrained import is_tag
from jaxvideo.training.config import default_workdir, load_config
from jaxvideo.training.loggers import LOGGERS
from jaxvideo.training.losses import LOSSES
from jaxvideo.training.optim import RULES, SCHEDULES
from jaxvideo.weights import zoo
from jaxvideo.weights.sources import SOURCES
from tests.test_network import network

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SETUP = (
    "pip install -e . && python train.py --config configs/motion.py",
    'pip install -e ".[test]" && pytest -n auto',
)
OTHERS = [ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
each_page = pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda p: p.stem)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.M)


# --- Programs


@pytest.fixture(scope="module")
def net():
    return network()


@pytest.fixture
def tables():
    """Removes the rows that a program adds."""
    every = (MODELS, LOSSES, LOGGERS, RULES, SCHEDULES, METRICS, SAMPLERS, FORMS, SOURCES)
    before = [dict(table) for table in every]
    yield
    for table, rows in zip(every, before, strict=True):
        table.clear()
        table.update(rows)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.stem)
def test_programs_run(page, net, video, tables, tmp_path, monkeypatch):
    """Every ```python block runs, with smaller networks.

    `load` checks its arguments and returns a tiny network. `create_model` returns the shallowest
    network of the same kind, because compiling takes most of the time.
    """
    real = inspect.signature(jaxvideo.load)
    create = jaxvideo.create_model

    def load(*given, **named):
        arguments = real.bind(*given, **named).arguments
        if weights := arguments.get("weights"):
            assert arguments["name"] in list_models()
            named = is_tag(weights, arguments.get("source"))
            assert named or weights in SOURCES or arguments.get("source") in SOURCES
            if named:
                zoo.find(arguments["name"], weights)
        return net

    def create_model(name, **arguments):
        assert name in list_models()
        return create(name.replace("r2plus1d_18", "r2plus1d_10"), **arguments)

    monkeypatch.setattr(jaxvideo, "load", load, raising=False)
    monkeypatch.setattr(jaxvideo, "create_model", create_model, raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copy(video, "clip.mp4")
    names: dict = {}
    for program in blocks(page, "python"):
        exec(compile(program, page.name, "exec"), names)


@each_page
def test_programs_that_do_not_run_are_python(page):
    for program in blocks(page, "py"):
        ast.parse(program)


# --- Commands


def commands(text: str):
    """Yields the words of each command of a shell script, also of quoted ones."""
    text = re.sub(r"(^|\s)#[^\n]*", r"\1", text.replace("\\\n", " "))
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";&|\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    words: list[str] = []
    for word in [*lexer, "\n"]:
        if set(word) <= set(";&|\n"):
            if words:
                yield words
            words = []
        else:
            words.append(word)


def python_of(words: list[str]):
    """Yields the arguments of `python` in a command, also behind `srun` and in `--command=`."""
    if "python" in words:
        yield words[words.index("python") + 1 :]
    for word in words:
        if word.startswith("--command="):
            for inner in commands(word.partition("=")[2]):
                yield from python_of(inner)


@pytest.fixture(scope="module")
def parser():
    parser = argparse.ArgumentParser(exit_on_error=False)
    topics = parser.add_subparsers(dest="command", required=True)
    for info in pkgutil.iter_modules(cli.__path__):
        module = importlib.import_module(f"{cli.__name__}.{info.name}")
        if hasattr(module, "add"):
            module.add(topics)
    return parser


def check_train(arguments: list[str]) -> None:
    options, others = make_parser().parse_known_args(arguments)
    assert options.config.startswith("configs/")
    load_config(options.config, overrides(others, "--config."))


def check_jaxvideo(parser, arguments: list[str]) -> None:
    parsed, others = parser.parse_known_args(arguments)
    options, changes = vars(parsed), overrides(others, "--")
    assert not changes or "changes" in options, arguments
    assert options.get("model") in (None, *list_models())
    assert options.get("source") in (None, *SOURCES)
    if config := options.get("config"):
        load_config(config, changes)


@each_page
def test_commands_exist(page, parser):
    """Configs, overrides, flags, commands, files and tests that shell blocks name exist."""
    extras = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), flags=re.M)
    for words in (words for block in blocks(page, "sh") for words in commands(block)):
        program = words[0]
        if program == "pip":
            for extra in re.findall(r"^\.\[(\w+)\]$", "\n".join(words), flags=re.M):
                assert extra in (*extras, "NAME"), words
        elif program == "pytest":
            for file in (w.partition("::")[0] for w in words if w.startswith("tests/")):
                assert (ROOT / file).is_file(), words
        elif program == "sphinx-build":
            assert (ROOT / words[-2] / "conf.py").is_file(), words
        elif program == "pre-commit":
            assert (ROOT / ".pre-commit-config.yaml").is_file()
        elif program == "jaxvideo":
            check_jaxvideo(parser, words[1:])
        else:
            assert program in ("python", "srun", "gcloud"), words
            for arguments in python_of(words):
                if arguments[0] == "train.py":
                    check_train(arguments[1:])
                elif arguments[:2] == ["-m", "jaxvideo"]:
                    check_jaxvideo(parser, arguments[2:])
                else:
                    assert (ROOT / arguments[0]).is_file(), words


def test_commands_are_found():
    script = 'pip install a && python x.py \\\n  --y=1  # it\nssh --command="cd z && python w.py"\n'
    found = list(commands(script))
    assert found[:2] == [["pip", "install", "a"], ["python", "x.py", "--y=1"]]
    assert [list(python_of(words)) for words in found] == [[], [["x.py", "--y=1"]], [["w.py"]]]


# --- Names, links and numbers


@each_page
def test_files_exist(page):
    pattern = r"\b(?:configs|benchmarks|tests|docs|jaxvideo)/[a-z\d_/]+\.(?:py|md|json|webp)\b"
    for name in re.findall(pattern, page.read_text()):
        assert (ROOT / name).is_file(), name


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.M)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_exist(page):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.is_file(), target
        assert not anchor or anchor in anchors(file), target


def test_the_run_directory_of_the_quickstart():
    own = default_workdir(load_config("motion"), "motion").as_posix()
    for page in PAGES:
        assert set(re.findall(r"runs/motion-r2plus1d_18-\w+", page.read_text())) <= {own}


def test_index_lists_all_pages():
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", (ROOT / "docs/index.md").read_text()))
    assert listed == {p.name for p in PAGES[1:]} - {"index.md"}


def has_recipe(name: str) -> bool:
    try:
        return finetune.get_config(name) is not None
    except ValueError:
        return False


def test_readme_is_short_and_true():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    for command in SETUP:
        assert command in text
    assert f"{len(list_models())} networks from C3D to X3D" in text
    assert f"weights from {len(SOURCES)} sources" in text
    assert f"a recipe for {sum(map(has_recipe, list_models()))} networks" in text
    table = text.partition("## Models")[2].partition("##")[0]
    counts = [int(count) for count in re.findall(r"^\|[^|]+\| (\d+) \|", table, flags=re.M)]
    assert sum(counts) == len(list_models())
    assert (ROOT / "docs/images/motion.webp").stat().st_size < 1.5e6


def test_pictures_know_all_classes():
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "docs/pictures.py")
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    assert sorted(pictures.PARTS) == sorted(pictures.COLORS) == sorted(CLASSES)
    path = pictures._path()
    np.testing.assert_allclose(path[-1] + (path[-1] - path[-2]), path[0], atol=1e-6)  # it loops
    scores = np.eye(len(CLASSES), dtype=np.float32)
    page = pictures._page(np.zeros((8, 8, 3), np.uint8), scores, CLASSES, np.arange(8), 2)
    assert page.size == (1320, 504)
