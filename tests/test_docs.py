"""Every code block of README and docs runs, and shows what it says it shows."""

import contextlib
import doctest
import io
import itertools
import pathlib
import re
import shlex
import sys
import types

import pytest

import vaekit
from tests.markdown import ROOT, blocks
from vaekit.cli import main
from vaekit.registry import Registry, registries

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def relative(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture(autouse=True)
def _registries_as_before():
    """Pages register parts of their own; none stays."""
    before = {kind: {name: registry.entry(name) for name in registry} for kind, registry in registries().items()}
    yield
    for kind, registry in registries().items():
        registry._entries.clear()
        registry._entries.update(before[kind])


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_the_blocks_of_a_page_run(page, tmp_path, monkeypatch):
    """One namespace a page; a `text` block behind a `python` block is what that block prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "docs")
    main_module = types.ModuleType("__main__")  # as in a script: a class of the page is found by its name
    monkeypatch.setitem(sys.modules, "__main__", main_module)
    namespace = vars(main_module)
    printed = None
    for block in blocks(page):
        where = f"{relative(page)}:{block.line}"
        if block.language == "text" and printed is not None:
            assert printed.rstrip() == block.text.rstrip(), f"{where} shows something else than what is printed"
        printed = None
        if block.language == "python" and 'skip="' not in block.options:
            printed = run(block.text, namespace, where)
        elif block.language == "bash" and 'skip="' not in block.options:
            for line in block.text.splitlines():
                run_command(line, where)


def run(code, namespace, where):
    if ">>>" in code:
        test = doctest.DocTestParser().get_doctest(code, namespace, where, where, 0)
        out = io.StringIO()
        result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=out.write, clear_globs=False)
        assert result.failed == 0, out.getvalue()
        namespace.update(test.globs)
        return None
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, where, "exec"), namespace)
    return out.getvalue()


def run_command(line, where):
    """`vaekit …` commands are run; installers, and what follows them, are not: the clean checkout's run does that."""
    words = shlex.split(line, comments=True)
    if words[:1] == ["vaekit"] and "&&" not in words:
        assert main(words[1:]) == 0, f"{where}: {line}"


def test_most_blocks_are_run_and_those_that_are_skipped_say_why():
    everything = [(page, b) for page in PAGES for b in blocks(page) if b.language in ("python", "bash")]
    skipped = [f"{relative(page)}:{b.line} {b.options}" for page, b in everything if "skip" in b.options]
    assert len(everything) - len(skipped) >= 70 and len(skipped) <= 3, skipped
    shown = [(a, b) for page in PAGES for a, b in itertools.pairwise(blocks(page)) if b.language == "text"]
    assert sum(a.language == "python" for a, _ in shown) >= 12, "output that is compared"
    assert all(len(s.split('skip="')[1]) > 10 for s in skipped)


def test_code_fits_the_width_of_a_page():
    """Longer lines scroll out of sight on the site."""
    pages = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "examples" / "plugin" / "README.md"]
    code = [(page, b) for page in pages for b in blocks(page) if b.language in ("python", "bash", "toml")]
    lines = [f"{relative(page)}:{b.line}: {line}" for page, b in code for line in b.text.splitlines() if len(line) > 92]
    assert not lines, lines


def test_every_public_name_has_its_page():
    told = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"^::: ([\w.]+)", told, re.MULTILINE))
    missing = []
    for name in ("Trainer", *(name for name in vars(vaekit) if not name.startswith("_"))):
        thing = getattr(vaekit, name)
        if isinstance(thing, Registry) or not getattr(thing, "__module__", "").startswith("vaekit"):
            continue
        if not {f"{thing.__module__}.{name}", thing.__module__} & named:
            missing.append(f"{thing.__module__}.{name}")
    assert not missing, missing


def test_the_table_of_the_readme_names_every_part():
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| `vaekit.")]
    assert len(rows) == 11
    for row in rows:
        kind = row.split("`")[1].split(".")[1]
        named = re.findall(r"`(\w+)`", row.rpartition("|")[0].rpartition("|")[2])
        assert named == registries()[kind].names(), kind


def test_the_navigation_names_pages_that_are_there():
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda *_: None)
    config = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)

    def pages(entry):
        if isinstance(entry, str):
            return [entry]
        values = entry if isinstance(entry, list) else list(entry.values())
        return [page for value in values for page in pages(value)]

    named = pages(config["nav"])
    there = {str(p.relative_to(ROOT / "docs")) for p in (ROOT / "docs").rglob("*.md")}
    assert set(named) == there and config["strict"] is True
