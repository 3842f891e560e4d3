"""Rules that hold the project together: which way imports run, and that nothing that is loaded can run code."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("codec", "lm", "pipelines")
#: of codec, lm may use what has no network in it
LIGHT = ("codec.common", "codec.errors", "codec.store")


#: what may run code that a file brings along
RUNS_CODE = re.compile(
    r"\w*[pP]ickle\b(?!\s*=\s*False)|\b(?:dill|joblib|shelve|marshal|runpy|imp)\b(?=[\s.,]|$)|weights_only\s*=\s*False"
    r"|trust_remote_code\s*=\s*True|\btorch\.load\((?![^)]*weights_only=True)|\byaml\.(?!safe_)\w*load\w*\("
    r"|(?<![\w.])(?:eval|exec|compile)\(|\.load_state\(|register_for_checkpointing"
)


def sources(*packages: str) -> list[Path]:
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield str(node.module)


@pytest.mark.parametrize("path", sources("codec"), ids=lambda p: p.name)
def test_codec_imports_neither_lm_nor_pipelines(path: Path) -> None:
    assert not [name for name in imported(path) if name.split(".")[0] in ("lm", "pipelines")]


@pytest.mark.parametrize("path", sources("lm"), ids=lambda p: p.name)
def test_lm_imports_no_pipelines_and_no_network_of_the_codec(path: Path) -> None:
    names = list(imported(path))
    assert not [name for name in names if name.split(".")[0] == "pipelines"]
    assert not [name for name in names if name.split(".")[0] == "codec" and not name.startswith(LIGHT)]


def programs() -> list[Path]:
    return [p for p in sources("pipelines") if '__name__ == "__main__"' in p.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", sources("pipelines"), ids=lambda p: p.name)
def test_no_file_imports_a_program(path: Path) -> None:
    scripts = {f"pipelines.{p.stem}" for p in programs()}
    assert not scripts.intersection(imported(path))


def test_nothing_at_the_top_of_pipelines_hides_a_module() -> None:
    # Running a program puts pipelines/ first on the path: a file or folder named like a module would take its place.
    taken = set(sys.stdlib_module_names) | {*PACKAGES, "datasets", "torch", "transformers", "evaluate", "tokenizers"}
    names = {path.stem for path in (ROOT / "pipelines").iterdir()} - {"__init__", "__pycache__"}
    assert not names & taken


def test_the_top_of_pipelines_holds_programs_and_nothing_else() -> None:
    files = [path for path in (ROOT / "pipelines").glob("*.py") if path.name != "__init__.py"]
    assert sorted(files) == programs()


@pytest.mark.parametrize("path", sources(*PACKAGES), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_no_loader_runs_code(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not RUNS_CODE.findall(text)


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from cPickle import load",
        "import dill as d",
        "import cloudpickle",
        "import joblib",
        "import shelve",
        "import marshal",
        "import jsonpickle",
        "pd.read_pickle(path)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "load(path, weights_only = False)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "from_pretrained(name, trust_remote_code=True)",
        "yaml.load(text)",
        "yaml.unsafe_load(text)",
        "yaml.full_load(text)",
        "x = eval(text)",
        "exec(text)",
        "accelerator.load_state(folder)",
        "accelerator.register_for_checkpointing(state)",
        "from runpy import run_path",
    ],
)
def test_the_rule_sees_every_loader_that_runs_code(line: str) -> None:
    assert RUNS_CODE.search(line)
    assert not RUNS_CODE.search(
        "torch.load(path, weights_only=True); np.load(path); model.eval(); yaml.safe_load(text)"
    )


@pytest.mark.parametrize("path", sources(*PACKAGES), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_imports_and_paths_are_plain(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "sys.path" not in text and "os.chdir" not in text
    assert not re.search(r"[\"'(](?:/work|/tmp|/root|/home)/", text)


def test_every_program_tells_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert programs()
    for path in programs():
        text = path.read_text(encoding="utf-8")
        assert "raise SystemExit(run(main))" in text, path.name
        assert "python pipelines/" in text, f"{path.name}: no example in its help"
