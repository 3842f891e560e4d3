"""A wheel built from the tree holds every sub-package and data file, and works outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from markdown import ROOT

pytestmark = pytest.mark.slow

PACKAGES = ("codec", "lm", "pipelines")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, by hatchling, in a process of its own (which needs no network)."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    code = f"from hatchling.build import build_wheel; print(build_wheel({str(folder)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return folder / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with this wheel and nothing of the checkout; dependencies are those of the one that tests."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    site = Path(
        subprocess.check_output(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        ).strip()
    )
    install = [python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, env=clean_environment())
    # site-packages of the testing environment, without its .pth files: an editable install there does not count
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def clean_environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return kept | {"OMP_NUM_THREADS": "1"}


def run(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run outside the checkout."""
    return subprocess.run(
        [str(word) for word in words], cwd=cwd, env=clean_environment(), capture_output=True, text=True, check=False
    )


def tracked_files() -> set[str]:
    listed = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode or not listed.stdout:
        pytest.skip("not a git checkout")
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


def test_it_holds_every_file_of_the_packages(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    assert sorted(tracked_files() - held) == []
    assert {f"{package}/py.typed" for package in PACKAGES} <= held
    assert [name for name in held if name.split("/")[0] not in PACKAGES and ".dist-info/" not in name] == []


def test_it_speaks_outside_the_checkout(environment: Path, tmp_path: Path) -> None:
    done = run(environment / "bin" / "soundloom-tts", "hello world", "-o", "hello.wav", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "hello.wav").stat().st_size > 20_000
    where = run(environment / "bin" / "python", "-c", "import codec; print(codec.__file__)", cwd=tmp_path)
    assert where.stdout.startswith(str(environment))


def test_a_folder_of_the_users_named_codec_does_not_shadow_ours(environment: Path, tmp_path: Path) -> None:
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"mine")
    script = tmp_path / "app.py"
    script.write_text(
        "from codec import load_codec\nfrom pipelines import load_voice\nprint(load_codec().sample_rate)\n"
    )
    done = run(environment / "bin" / "python", script, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "24000\n"), done.stderr
    assert run(environment / "bin" / "soundloom-tts", "Hello.", "-o", "a.wav", cwd=tmp_path).returncode == 0


def test_bad_input_is_one_line_and_exit_code_2(environment: Path, tmp_path: Path) -> None:
    done = run(environment / "bin" / "soundloom-reconstruct", "missing.wav", "-o", "x.wav", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: missing.wav") and done.stderr.count("\n") == 1


def test_an_editable_install_is_not_shadowed_either(tmp_path: Path) -> None:
    pytest.importorskip("editables")
    code = f"from hatchling.build import build_editable; print(build_editable({str(tmp_path)!r}))"
    built = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    names = zipfile.ZipFile(tmp_path / built.stdout.split()[-1]).namelist()
    assert [name for name in names if name.endswith(".pth")], "a path on sys.path, no import hook"
    assert not [name for name in names if name.endswith(".py")]
