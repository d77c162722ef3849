"""The documentation site: what it is generated from, its drawings, and the built pages."""

import ast
import html.parser
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import drawings
import jax
import pytest
import yaml
from generate import api, commands, config, docstrings, forms, links, text, zoo
from generate.families import FAMILIES, check
from generate.layers import layers

import jaxvideo
from jaxvideo.models import list_models
from jaxvideo.training import schema
from jaxvideo.types import Preprocessing
from jaxvideo.weights.sources import SOURCES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]


# --- Generated pages


def test_every_network_is_in_one_family():
    check(FAMILIES)
    assert sum(len(family.networks) for family in FAMILIES) == len(list_models())
    with pytest.raises(ValueError, match=r"x2d is in the families \[\]"):
        check(tuple(family for family in FAMILIES if family.page != "x3d"))


def test_families_are_those_of_the_readme():
    table = (ROOT / "README.md").read_text().partition("## Models")[2].partition("##")[0]
    rows = dict(re.findall(r"^\| ([^|]+) \| (\d+) \|", table, flags=re.M))
    assert rows == {family.title: str(len(family.networks)) for family in FAMILIES}


def test_layers():
    rows, endpoints = layers("r3d_10")
    assert [row.scope for row in rows][:2] == ["conv1", "conv2_x"]
    assert (rows[0].kind, rows[0].detail) == ("Conv3D", f"{text.shape((3, 7, 7))}, stride 1,2,2")
    assert rows[0].output == (16, 56, 56, 64)
    assert rows[0].parameters == 3 * 7 * 7 * 3 * 64 + 2 * 64  # and its BN
    assert list(endpoints)[-2:] == ["pre_logits", "logits"]
    assert sum(row.parameters for row in rows) == zoo._table()["r3d_10"]["parameters"]


@pytest.mark.full
def test_a_network_in_one_scope_shows_the_layers_of_that_scope():
    rows, _ = layers("tsn_rgb")
    assert [row.scope for row in rows][:2] == ["net/conv1", "net/conv_2_reduce"]


def test_every_key_of_the_config_is_described():
    page = config.pages()["config.md"]
    for name in schema.SECTIONS:
        assert f"## `{name}`" in page
    assert "| `lr` | `float` | `0.01` | learning rate after the warm-up" in page
    row = re.search(r"^\| `frames` \|.*$", page, flags=re.M)
    assert row
    assert "T, number of frames of a clip" in row[0]
    assert config.described(Preprocessing)["std"].startswith("per channel")


def test_a_key_without_description_is_an_error(monkeypatch):
    monkeypatch.setattr(schema.Init, "__doc__", "Initial weights.\n\nAttributes:\n  path: a file.")
    with pytest.raises(ValueError, match=r"Init: the docstring does not describe .*'inflate'"):
        config.described(schema.Init)


def test_every_command_has_its_options():
    page = commands.pages()["commands.md"]
    for name in ("predict", "weights fetch", "config show"):
        assert re.search(rf"^##+ `jaxvideo {name}`$", page, flags=re.M)
    assert "| `--clips N` |" in page


def test_every_public_name_has_a_docstring():
    for path in sorted((ROOT / "jaxvideo").rglob("*.py")):
        if path.parent.name in ("cli", "configs"):
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                api.check(f"{path.stem}.{node.name}", node)
    undocumented = ast.parse('class A:\n  """A."""\n  def f(self): pass').body[0]
    with pytest.raises(ValueError, match=r"x\.A\.f has no docstring"):
        api.check("x.A", undocumented)


@pytest.mark.full
def test_interface_lists_functions_and_tables():
    pages = api.pages()
    assert ".. autofunction:: load\n" in pages["api/index.rst"]
    for page, name in (
        ("training", "training.losses.LOSSES"),
        ("models", "models.registry.MODELS"),
        ("layers", "layers.lowerings.LOWERINGS"),
    ):
        assert f".. autodata:: jaxvideo.{name}\n" in pages[f"api/{page}.rst"]


def test_forms_show_trees_and_annotations():
    page = forms.pages()["forms.md"]
    assert "├── ApplyEyeMakeup/" in page
    assert "ApplyLipstick/v_ApplyLipstick_g08_c01.avi 2" in page
    assert "... (160 more)" in page  # of 163 frames
    assert page == forms.pages()["forms.md"]


def test_tables():
    rows = [("a|b", "", 1), ("c\nd", None, 2)]
    expected = "| x | n |\n| --- | ---: |\n| a\\|b | 1 |\n| c d | 2 |\n"
    assert text.table(("x", "empty", "n"), rows, right=("n",)) == expected
    assert text.count(31_505_325) == "31.5\N{NO-BREAK SPACE}M"
    assert text.escaped("a_b `c_d` <e>") == r"a\_b `c_d` \<e>"


def test_docstrings():
    given = """Does it *well* with **given, a * b and a_.

    literal

| a | b |
|---|---|
| `x|` | y |

Args:
  a: a number.

Example:
  does(1)
""".splitlines()
    docstrings.prepare(None, "function", "f", None, None, given)
    done = "\n".join(given)
    assert r"it *well* with \*\*given, a \* b and a\_." in done
    assert "::\n\n    literal" in done
    assert ".. list-table::" in done
    assert "Args:\n  a: a number." in done
    assert ".. code-block:: python\n\n    does(1)" in done


def test_links_to_sources_lead_to_their_pages():
    def moved(target, origin="docs/data.md", page="docs/data.md"):
        return links.relinked(f"[x]({target})", origin, page)

    assert moved("../CHANGELOG.md") == "[x](reference/changelog.md)"
    assert moved("../benchmarks/RESULTS.md#loading") == "[x](reference/measurements.md#loading)"
    assert moved("weights.md#sources") == "[x](weights.md#sources)"
    assert moved("#forms") == "[x](#forms)"
    assert moved("https://arxiv.org") == "[x](https://arxiv.org)"
    assert moved("docs/data.md", "README.md", "docs/reference/a.md") == "[x](../data.md)"
    with pytest.raises(ValueError, match=r"no page of the site shows jaxvideo/names\.py"):
        moved("../jaxvideo/names.py")


def test_files_of_the_table_of_links_exist():
    for name in links.PAGES:
        assert (ROOT / name.partition("#")[0]).is_file(), name


# --- Written pages


# Extending shows how to add keys.
@pytest.mark.parametrize("page", [p for p in PAGES if p.stem != "extending"], ids=lambda p: p.stem)
def test_keys_of_the_config_exist(page):
    """Inline code such as `optim.lr` or `optim.lr=0.1` names a key."""
    sections = "|".join(schema.SECTIONS)
    found = re.findall(rf"`(?:--)?({sections})\.(\w+)(?:=[^`]*)?`", page.read_text())
    for section, key in found:
        assert key in schema.SECTIONS[section].__dataclass_fields__, f"{section}.{key}"


def test_names_for_people_who_come_from_pytorch():
    """The right column of the tables of libraries names networks that exist."""
    page = (DOCS / "pytorch.md").read_text()
    for network in re.findall(r"`((?:tsn|slow|slowfast|i3d|c2d|csn|ip_csn)_\w+)`", page):
        left = (
            "slowonly",
            "slowfast_r50_",
            "slowfast_r101_",
            "slow_pathway",
            "tsn_r50",
            "tsn_r101",
        )
        known = {*list_models(), "slow_res2"}
        assert network in known or network.startswith(left), network
    for source in re.findall(r"init\.source=([\w-]+)", page):
        assert source in SOURCES
    for name, weights in re.findall(r'load\("(\w+)", weights="(\w+)"\)', page):
        assert zoo.zoo.find(name, weights)


@pytest.mark.parametrize("name", drawings.DRAWINGS)
def test_drawings(name):
    """The committed picture is what the script draws, and a page shows it with its title."""
    drawing = drawings.DRAWINGS[name]()
    file = DOCS / "images" / f"{name}.svg"
    assert file.read_text() == drawing.svg(), "run python docs/drawings.py"
    root = ElementTree.fromstring(drawing.svg())
    for element in root.iter():
        assert float(element.get("x", 0)) + float(element.get("width", 0)) <= drawings.WIDTH
        assert float(element.get("y", 0)) + float(element.get("height", 0)) <= drawing.height
    assert any(f"![{drawing.title}](images/{name}.svg)" in page.read_text() for page in PAGES)


def test_changelog_has_the_form_of_keep_a_changelog():
    changes = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## (.*)$", changes, flags=re.M)
    assert versions[0] == "[Unreleased]"
    for version in versions[1:]:
        assert re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", version)
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", changes, flags=re.M)) <= kinds


def test_workflow_is_that_of_ci_run():
    ci, file = (ROOT / ".ci/run").read_text(), ROOT / ".github/workflows/ci.yml"
    workflow = yaml.safe_load(file.read_text())
    pythons = workflow["jobs"]["tests"]["strategy"]["matrix"]["python"]
    known = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    assert pythons == known
    for pin in re.findall(r'"([\w-]+==[\w.*]+)"', file.read_text()):
        assert f'"{pin}"' in ci
    assert "sphinx-build -W -b html docs docs/_build/html" in str(workflow["jobs"]["docs"])


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == jaxvideo.__version__
    assert f"version = {{{jaxvideo.__version__}}}" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda p: p.stem)
def test_issue_forms_are_valid(path):
    content = yaml.safe_load(path.read_text())
    assert isinstance(content, dict)
    if path.parent.name == "ISSUE_TEMPLATE" and path.stem != "config":
        assert content["name"]
        assert content["description"]
        assert all(part["attributes"]["label"] for part in content["body"])


# --- The built site


class Page(html.parser.HTMLParser):
    """Anchors, links and files of an HTML page."""

    def __init__(self, path: Path):
        super().__init__()
        self.anchors, self.links, self.files = {""}, [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.anchors |= {attributes[name] for name in ("id", "name") if attributes.get(name)}
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        elif tag in ("link", "script", "img", "source", "iframe"):
            self.files += [attributes[name] for name in ("href", "src") if attributes.get(name)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Builds the site with warnings as errors."""
    for package in ("sphinx", "myst_parser", "furo"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs the extra [docs]: {package} is not installed")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", "-d", f"{out}/trees"]
    done = subprocess.run([*command, DOCS, out / "html"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / "html"


@pytest.mark.full
def test_site_has_no_dead_link(site):
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    assert len(pages) > 50
    for path, page in pages.items():
        for link in page.links + page.files:
            if re.match(r"(https?|mailto|data):", link):
                continue
            name, _, anchor = link.partition("#")
            name = unquote(name.partition("?")[0])
            target = (path.parent / name).resolve() if name else path
            assert target.is_file(), f"{path.name}: {link}"
            if target in pages and anchor:
                assert unquote(anchor) in pages[target].anchors, f"{path.name}: {link}"


@pytest.mark.full
def test_site_needs_no_other_host(site):
    for path in site.rglob("*.html"):
        outside = [file for file in Page(path).files if re.match(r"(https?:)?//", file)]
        assert not outside, f"{path.name}: {outside}"
    for path in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", path.read_text()), path.name


@pytest.mark.full
def test_site_can_be_searched(site):
    index = (site / "searchindex.js").read_text()
    for word in ("hmdb51", "bfloat16", "featur", "x3d_m", "pytorchvideo"):
        assert re.search(rf'[{{,]"?{word}"?:', index), word


@pytest.mark.full
def test_site_shows_every_network_and_every_key(site):
    cards = "".join((site / f"reference/zoo/{family.page}.html").read_text() for family in FAMILIES)
    for name in list_models():
        assert f">{name}</span>" in cards, name
    api = (site / "reference/api/index.html").read_text()
    for name in set(jaxvideo.__all__) - {"__version__"}:
        assert f'id="jaxvideo.{name}"' in api, name


@pytest.mark.full
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.page)
def test_examples_of_the_cards(family, monkeypatch):
    """A card's program runs; networks are traced, and weights by name are looked up."""
    loaded = []

    class Opened:
        def predict(self, video):
            assert video == "clip.mp4"
            return self

        def top(self, count):
            return count

    def load(name, weights):
        loaded.append(zoo.zoo.find(name, weights))
        return Opened()

    program = zoo.example(family)
    ast.parse(program)
    monkeypatch.setattr(jaxvideo, "load", load, raising=False)
    results = {}

    def run():
        exec(program, results)
        return results.get("logits", 0)

    logits = jax.eval_shape(run)
    assert loaded or logits.shape == (1, 10)
