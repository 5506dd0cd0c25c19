"""What the guide and the README say can be done: their code runs, their commands, options, links and names exist."""

from __future__ import annotations

import ast
import configparser
import json
import re
import shlex
import subprocess
import tomllib
from itertools import pairwise
from typing import get_args

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization

from airflow_raif.demo.__main__ import main as demo
from airflow_raif.domain.request import RESULT_FIELDS
from airflow_raif.emulator.__main__ import main as emulator
from airflow_raif.emulator.faults import RowKind, parse_faults
from airflow_raif.get_provider_info import get_provider_info
from tests.guide import PAGES, REPOSITORY, blocks, module_of

PAGE_NAMES = [str(page.relative_to(REPOSITORY)) for page in PAGES]
of_every_page = pytest.mark.parametrize("page", PAGES, ids=PAGE_NAMES)
#: Commands of others that readers are told to run.
OTHERS = {".", "apt-get", "cat", "cd", "curl", "docker", "export", "git", "ls", "mkdir", "pip", "psql", "pytest"}


@of_every_page
def test_python_runs(page, tmp_path):
    """Airflow loads a page's Python from its start to its end, and can serialise the DAGs it makes."""
    text = module_of(page)
    file = tmp_path / f"page_{page.stem.replace('-', '_')}.py"
    file.write_text(text, encoding="utf-8")
    bag = DagBag(dag_folder=file, safe_mode=False)
    assert not bag.import_errors, "\n".join(bag.import_errors.values())
    assert len(bag.dags) >= ("DAG(" in text)
    for dag in bag.dags.values():
        DagSerialization.to_dict(dag)


@of_every_page
def test_data_and_settings_are_wellformed(page):
    """JSON, configuration files and TOML can be read."""
    for block in blocks(page, "json"):
        json.loads(block.text)
    for block in blocks(page, "ini", "cfg"):
        configparser.ConfigParser(interpolation=None).read_string(block.text)
    for block in blocks(page, "toml"):
        tomllib.loads(block.text)


@of_every_page
def test_options_exist(page):
    """Every option of [raif] that a page names is one."""
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"\[raif\] (\w+)", text))
    named |= {name.lower() for name in re.findall(r"AIRFLOW__RAIF__(\w+)", text)}
    for block in blocks(page, "ini", "cfg"):
        settings = configparser.ConfigParser(interpolation=None)
        settings.read_string(block.text)
        named |= set(settings["raif"]) if settings.has_section("raif") else set()
    assert named <= set(get_provider_info()["config"]["raif"]["options"])


@of_every_page
def test_commands_exist(page, airflow_parser, monkeypatch, capsys):
    """Shell blocks are Bash; our commands have the arguments that are given, and so have make's targets."""
    for block in blocks(page, "sh", "bash", "shell"):
        subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            words = words[: words.index("|")] if "|" in words else words
            while words and re.match(r"\w+=", words[0]):
                del words[0]
            if words:
                check(words, airflow_parser, capsys)


def check(words, airflow_parser, capsys):
    name, *rest = words
    if name == "airflow":
        airflow_parser.parse_args(rest)
    elif name == "make":
        targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in rest if "=" not in word} <= set(targets)
    elif name == "python" and rest[:1] == ["-m"] and rest[1].startswith("airflow_raif."):
        main = {"airflow_raif.emulator": emulator, "airflow_raif.demo": demo}[rest[1]]
        with pytest.raises(SystemExit):
            main(["--help"])
        assert {word for word in rest if word.startswith("--")} <= set(re.findall(r"--[\w-]+", capsys.readouterr().out))
        parse_faults([value for option, value in pairwise(rest) if option == "--fault"])
    else:
        assert name in OTHERS or (name == "python" and rest), f"what is {name}?"
    for word in rest:
        if asked := re.fullmatch(r"(?:\.|airflow-raif)\[([\w,]+)\]", word):
            assert set(asked[1].split(",")) <= extras()


def extras():
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        return set(tomllib.load(file)["project"]["optional-dependencies"])


@pytest.fixture(scope="module")
def airflow_parser():
    from airflow.cli.cli_parser import get_parser

    return get_parser()


def test_the_readmes_links_lead_somewhere():
    """To a file of the project, and to a heading in it; MkDocs looks after those of the guide."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        target = REPOSITORY / path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


def anchors(text):
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


def first_column(page, heading=""):
    """Return the names in the first column of the tables below a heading."""
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+?) \|", text[text.index(heading) :], re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_the_page_of_result_rows_names_every_field():
    """No more and no fewer."""
    assert first_column("reference/result-rows.md") == RESULT_FIELDS


def test_the_page_of_faults_names_every_kind_of_row():
    """Each is explained."""
    assert set(get_args(RowKind)) <= first_column("reference/emulator.md", "| kind of row fault")


def test_the_page_of_the_manifest_names_every_key():
    """Those of a batch's manifest and of a part's, as they are written."""
    source = ast.parse((REPOSITORY / "airflow_raif" / "services" / "manifest.py").read_text(encoding="utf-8"))
    functions = {each.name: each for each in source.body if isinstance(each, ast.FunctionDef)}

    def keys(name):
        (returned,) = [each.value for each in ast.walk(functions[name]) if isinstance(each, ast.Return)]
        return {key.value for key in returned.keys if key is not None}

    names = keys("_who") | keys("money_shown") | keys("_shared") | keys("manifest_of")
    text = (REPOSITORY / "docs" / "reference" / "manifest.md").read_text(encoding="utf-8")
    assert names <= first_column("reference/manifest.md")
    assert all(f"`{name}`" in text for name in keys("part_manifest_of"))
