"""Which process does which shards: by --part, by torchrun's variables, by Slurm's; no shard twice, none left."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import store_helpers
from store_helpers import store_bytes, tokenize, write_corpus

from codec.errors import SoundloomError
from pipelines.corpus.launcher import Share, find_share

ROOT = Path(__file__).parents[3]


def test_where_a_share_comes_from() -> None:
    assert find_share(None, {}) == Share(0, 1, 0)
    assert find_share("3/10", {}) == Share(3, 10, 0)
    torchrun = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    assert find_share(None, torchrun) == Share(5, 8, 1)
    batch = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}  # the script itself, which runs once
    assert find_share(None, batch) == Share(0, 1, 0)
    step = {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "2"}
    assert find_share(None, step) == Share(2, 4, 2)
    assert find_share(None, step | torchrun) == Share(5, 8, 1)  # torchrun inside a step
    assert find_share("1/3", step) == Share(7, 12, 2)


@pytest.mark.parametrize("part", ["3", "3/3", "-1/3", "1/0", "a/b", "1/3/5", ""])
def test_a_part_that_is_none(part: str) -> None:
    with pytest.raises(SoundloomError, match="expected i/n"):
        find_share(part, {})


@pytest.mark.parametrize("change", [{"RANK": "x"}, {"RANK": "8"}, {"LOCAL_RANK": "-1"}, {"WORLD_SIZE": "0"}])
def test_variables_that_are_no_numbers_of_a_process(change: dict[str, str]) -> None:
    with pytest.raises(SoundloomError, match="RANK and WORLD_SIZE"):
        find_share(None, {"RANK": "0", "WORLD_SIZE": "8", "LOCAL_RANK": "0"} | change)


@pytest.mark.parametrize("count", [1, 3, 8, 50])
def test_eight_processes_on_eight_devices_have_every_shard_once(count: int) -> None:
    shares = [find_share(None, {"RANK": str(r), "WORLD_SIZE": "8", "LOCAL_RANK": str(r)}) for r in range(8)]
    shards = [index for share in shares for index in share.of(range(100, 100 + count))]
    assert sorted(shards) == list(range(100, 100 + count))
    assert [share.device("cuda") for share in shares] == [f"cuda:{r}" for r in range(8)]
    assert {share.device("cpu") for share in shares} == {"cpu"} and shares[3].device("cuda:1") == "cuda:1"
    assert find_share(None, {}).device("cuda") == "cuda"


def test_parts_in_any_order_make_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_corpus(tmp_path / "corpus", 12)
    assert tokenize(tmp_path / "corpus", tmp_path / "whole", "--shards", "5") == 0
    assert tokenize(tmp_path / "corpus", tmp_path / "parts", "--shards", "5", "--part", "0/2") == 0
    assert len(list((tmp_path / "parts").glob("data-*.arrow"))) == 3
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    for task in ("1", "0"):
        assert not (tmp_path / "parts/store.json").exists()
        monkeypatch.setenv("SLURM_PROCID", task)
        assert tokenize(tmp_path / "corpus", tmp_path / "parts", "--part", "1/2") == 0
    assert store_bytes(tmp_path / "parts") == store_bytes(tmp_path / "whole")


SBATCH = """#!/bin/bash
last=$(sed -n 's/^#SBATCH --array=0-//p' "$1"); export SLURM_NTASKS=$(sed -n 's/^#SBATCH --ntasks=//p' "$1")
export SLURM_ARRAY_TASK_COUNT=$((last + 1))
for i in $(seq 0 "$last"); do SLURM_ARRAY_TASK_ID=$i SLURM_PROCID=0 bash "$1" & done; wait
"""
SRUN = """#!/bin/bash
export SLURM_STEP_NUM_TASKS=$SLURM_NTASKS
for i in $(seq 0 $((SLURM_NTASKS - 1))); do SLURM_PROCID=$i SLURM_LOCALID=$i "$@" & done; wait
"""


@pytest.mark.slow
def test_the_job_script_of_the_guide(tmp_path: Path) -> None:
    """Run the guide's script, with two jobs of two tasks, by an sbatch and an srun that only set the variables."""
    write_corpus(tmp_path / "corpora/mine", 12)
    assert tokenize(tmp_path / "corpora/mine", tmp_path / "whole") == 0
    (script,) = re.findall(r"```sh\n(#!/bin/bash\n.*?)```", (ROOT / "docs/store.md").read_text(), re.DOTALL)
    script = re.sub("--array=0-9", "--array=0-1", re.sub("--ntasks=4", "--ntasks=2", script))
    (tmp_path / "job.sh").write_text(script)
    program = f'#!/bin/bash\nexec {sys.executable} {store_helpers.__file__} "$@"\n'
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("soundloom-tokenize-corpus", program)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{ROOT}/tests/helpers",
    }
    told = subprocess.run(
        ["sbatch", "job.sh"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert store_bytes(tmp_path / "stores/mine") == store_bytes(tmp_path / "whole"), told.stderr


@pytest.mark.slow
@pytest.mark.proof("Ray's tasks write the bytes of one process")
def test_ray_writes_the_same_bytes(tmp_path: Path) -> None:
    """On a real Ray of this machine, in a process of its own."""
    pytest.importorskip("datatrove")
    pytest.importorskip("ray")
    write_corpus(tmp_path / "corpus", 12)
    assert tokenize(tmp_path / "corpus", tmp_path / "whole", "--shards", "4") == 0
    paths = f"{ROOT}:{ROOT}/tests/helpers"
    environment = os.environ | {"PYTHONPATH": paths, "RAY_USAGE_STATS_ENABLED": "0"}
    words = ["--shards", "4", "--engine", "ray", "--tasks", "2", "--engine-option", "mem_per_cpu_gb=0.2"]
    command = [sys.executable, store_helpers.__file__, str(tmp_path / "corpus"), str(tmp_path / "store"), *words]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert store_bytes(tmp_path / "store") == store_bytes(tmp_path / "whole")
