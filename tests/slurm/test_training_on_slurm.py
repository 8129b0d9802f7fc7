"""One run trained by two nodes of a real Slurm, through srun and torchrun."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from data_prep.pipeline import PrepSpec, SourceInput, prepare_corpus
from plm_scaling.core.alphabet import STANDARD
from plm_scaling.core.run import RunConfig
from plm_scaling.core.run_folder import RunFolder
from plm_scaling.core.run_order import RunOrder
from plm_scaling.corpus.reader import Corpus
from plm_scaling.execution.slurm_options import SlurmOptions
from plm_scaling.sweeps.on_slurm import sweep_executor
from plm_scaling.sweeps.plan import plan_sweep
from plm_scaling.sweeps.plan_records import GridArm, SweepSpec
from plm_scaling.sweeps.reconcile import run_plan
from plm_scaling.training.loop import train

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm"), pytest.mark.usefixtures("slurm_cluster")]

SCRIPT = """
    #!/bin/bash
    #SBATCH --nodes=2 --ntasks-per-node=1 --cpus-per-task=1 --mem=3000 --time=5
    export OMP_NUM_THREADS=1
    srun bash -c 'echo $SLURMD_NODENAME >>{folder}/nodes-$SLURM_PROCID; exec {python} -m torch.distributed.run \\
      --nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint 127.0.0.1:{port} --rdzv-id $SLURM_JOB_ID \\
      --local-addr 127.0.0.1 -m plm_scaling.training {run} --quiet'
"""


def made(folder: Path, corpus: Corpus, parallel: str) -> RunFolder:
    config = RunConfig(
        corpus_id=corpus.corpus_id,
        objective="mlm",
        n_layers=1,
        d_model=8,
        context=32,
        D=1_500,
        batch_tokens=96,
        peak_lr=1e-2,
        recipe="small",
        validation_tokens=500,
    )
    values = {"config": config, "corpus": str(corpus.path), "device": "cpu", "parallel": parallel}
    run = RunFolder(folder / config.run_id)
    RunOrder.model_validate(values).write(run.order_path)
    return run


def test_two_nodes_end_where_one_process_does(tmp_path: Path) -> None:
    rng = random.Random(0)
    records = ("".join(rng.choices(STANDARD, k=rng.randrange(5, 60))) for _ in range(200))
    (tmp_path / "a.fasta").write_text("".join(f">{k}\n{s}\n" for k, s in enumerate(records)))
    prepare_corpus([SourceInput("a", [tmp_path / "a.fasta"])], tmp_path / "corpus", PrepSpec(val_share=0.1))
    corpus = Corpus.open(tmp_path / "corpus")
    run, alone = made(tmp_path / "two", corpus, "sharded"), made(tmp_path / "one", corpus, "replicated")
    script = tmp_path / "job.sh"
    values = {"folder": tmp_path, "python": sys.executable, "port": random.randrange(20_000, 30_000), "run": run.path}
    script.write_text(textwrap.dedent(SCRIPT).lstrip().format(**values))
    words = ["sbatch", "--wait", f"--output={tmp_path}/log", f"--chdir={os.getcwd()}", str(script)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200)
    log = (tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""
    assert done.returncode == 0, done.stderr + log
    assert sorted((tmp_path / f"nodes-{rank}").read_text().strip() for rank in range(2)) == ["n1", "n2"]
    record, expected = run.record(), train(alone.path)
    assert record is not None
    assert (record.world, record.attempts) == (2, 1)
    assert record.ledger == expected.ledger
    assert record.validation[0].per_token == pytest.approx(expected.validation[0].per_token, rel=1e-4)


def test_a_run_of_a_plan_on_two_nodes(tmp_path: Path) -> None:
    """A run is a job of two nodes, started by `srun torchrun`, and ends where one process does."""
    rng = random.Random(0)
    records = ("".join(rng.choices(STANDARD, k=rng.randrange(5, 60))) for _ in range(200))
    (tmp_path / "a.fasta").write_text("".join(f">{k}\n{s}\n" for k, s in enumerate(records)))
    prepare_corpus([SourceInput("a", (tmp_path / "a.fasta",))], tmp_path / "corpus", PrepSpec(val_share=0.1))
    arm = GridArm(sizes=("1x8",), D=(1500,), objectives=("clm",))
    spec = SweepSpec(
        name="two",
        corpus="c",
        context=32,
        batch_tokens=96,
        validation_tokens=500,
        dtype="fp32",
        grid=(arm,),
    )
    plan = plan_sweep(spec, Corpus.open(tmp_path / "corpus")).model_copy(update={"corpus": "corpus"})
    path, runs = plan.write(tmp_path / "plan.json"), tmp_path / "runs"
    options = SlurmOptions(nodes=2, cpus=1, memory="3G", minutes=5)
    executor = sweep_executor(runs, options, backoff_s=0.5, poll_s=0.2, lag_s=1.0)
    outcome = run_plan(plan, path, runs, executor=executor, device="cpu")
    assert outcome.all_complete, outcome
    assert run_plan(plan, path, tmp_path / "alone", workers=2, device="cpu").all_complete
    for run_id in outcome.complete:
        record, expected = RunFolder(runs / run_id).record(), RunFolder(tmp_path / "alone" / run_id).record()
        assert record is not None
        assert expected is not None
        assert (record.world, record.attempts, expected.world) == (2, 1, 1)
        assert record.ledger == expected.ledger
        assert record.validation[0].per_token == pytest.approx(expected.validation[0].per_token, rel=1e-4)
