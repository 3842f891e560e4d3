"""Print what a training takes on a GPU before anyone pays for it: parameters, FLOP, memory, hours and cost.

    python pipelines/plan_run.py configs/gpu/lm_300m.yaml --gpu h100
    python pipelines/plan_run.py configs/codec/encodec_24khz.yaml --gpu rtx4090 --batch_size 8 --json
    python pipelines/plan_run.py configs/gpu/lm_1b.yaml --gpu h100 --gpus 8 --sharded --price 2.5

CONFIG is a configuration of train_codec.py or train_lm.py; any of its keys can be set after it (--steps 1000).
No store and no audio is opened: --levels, --codebook-size and --frame-rate state what a store would (default: EnCodec's
at 24 kHz). FLOP are those of the trainers' own networks, both passes, in bf16, counted on tensors without memory.
Hours come from a roofline for each kernel, or from --mfu. They are an estimate, and assume that data arrive in time.
"""

from __future__ import annotations

import pipelines.command_line.interrupts  # noqa: F401 - Ctrl-C while torch is imported ends in one line

# isort: split
import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codec.errors import SoundloomError
from pipelines.benchmarks.codec_work import codec_training
from pipelines.benchmarks.lm_work import StoreShape, lm_training
from pipelines.benchmarks.roofline import BANDWIDTH_SHARE, GPUS, LAUNCH_SECONDS, PRODUCT_SHARE, Gpu, find_gpu, time_of
from pipelines.benchmarks.training_work import Memory, Training
from pipelines.command_line.run import check_numbers, make_parser, run
from pipelines.command_line.settings import parse_settings
from pipelines.command_line.strict_yaml import read_yaml
from pipelines.training.codec_settings import TrainCodecSettings
from pipelines.training.lm_settings import TrainLMSettings

#: CUDA's own memory, the libraries' workspaces, and what the allocator cannot use
_OVERHEAD_BYTES, _OVERHEAD_SHARE = 1.5e9, 0.1
_USABLE = 0.94
_MOST_GPUS = 100_000


def read_training(config: str, words: Sequence[str], shape: StoreShape) -> Training:
    """Read a configuration with the settings of the trainer whose it is, and count its training.

    Raises:
        SoundloomError: it is of neither trainer, or a key or value is wrong.
    """
    keys = read_yaml(Path(config)).keys()
    given = ["--config", config, *words]
    if "voice" not in keys and "store" in keys:
        return lm_training(parse_settings(TrainLMSettings, given, description=__doc__), shape)
    if "voice" in keys or not {"codec", "sources", "start_from", "discriminators"} & keys:
        raise SoundloomError(f"{config}: neither a codec's nor a language model's training; see configs/gpu")
    for name in ("sources", "dev_sources"):  # some configurations leave them to the command line
        if name not in keys:
            given += [f"--{name}", '[{"path": "not-opened"}]']
    return codec_training(parse_settings(TrainCodecSettings, given, description=__doc__))


def estimate(training: Training, gpu: Gpu, gpus: int, sharded: bool, mfu: float | None) -> dict[str, Any]:
    """Return the plan as plain values; FLOP and memory are those of one GPU."""
    times = [(phase, time_of(phase.operations, gpu)) for phase in training.phases]
    seconds = sum(phase.steps * time.total for phase, time in times)
    longest = max(times, key=lambda pair: pair[0].steps * pair[1].total)
    reason = f"a roofline for each kernel; most time goes to {longest[1].limit}"
    if mfu is None:
        mfu = training.flop / (seconds * gpu.flops)
    else:
        seconds, reason = training.flop / (mfu * gpu.flops), "given by --mfu"
    steps = training.steps
    return {
        "kind": training.kind,
        "gpu": gpu.name,
        "gpus": gpus,
        "parameters": training.parameters,
        "steps": round(steps),
        "flop_per_step": training.flop / steps,
        "flop_in_all": training.flop * gpus,
        "phases": [
            {"name": p.name, "steps": p.steps, "flop": p.flop, "kernels": len(p.operations), "seconds": t.total}
            for p, t in times
        ],
        "codes_per_step": training.codes_per_step * gpus,
        "positions_per_step": training.positions_per_step * gpus,
        "audio_seconds_per_step": training.seconds_per_step * gpus,
        "audio_hours_in_all": training.seconds_per_step * gpus * steps / 3600,
        "memory": plan_memory(training.memory, gpu, gpus, sharded),
        "mfu": mfu,
        "mfu_reason": reason,
        "hours": seconds / 3600,
    }


def plan_memory(memory: Memory, gpu: Gpu, gpus: int, sharded: bool) -> dict[str, Any]:
    """Return the bytes on each GPU, by purpose, and whether they fit."""
    exchange = memory.gradients if gpus > 1 and not sharded else 0.0
    memory = memory.sharded(gpus) if sharded else memory
    state = memory.state + exchange

    def total(activations: float) -> float:
        return state + activations * (1 + _OVERHEAD_SHARE) + _OVERHEAD_BYTES

    names = ("weights", "gradients", "optimizer", "averages", "activations_kept", "activations_recomputed")
    return {name: getattr(memory, name) for name in names} | {
        "gradients_exchanged": exchange,
        "activation_checkpointing": memory.recompute,
        "total": total(memory.activations),
        "card": gpu.memory,
        "fits": total(memory.activations) <= _USABLE * gpu.memory,
    }


def lines_of(plan: dict[str, Any], gpu: Gpu) -> list[str]:
    """Return the plan in words."""
    counts = ", ".join(f"{name} {count / 1e6:,.1f} M" for name, count in plan["parameters"].items())
    per_step, hours = plan["audio_seconds_per_step"], plan["audio_hours_in_all"]
    one = f"{gpu.flops / 1e12:.0f} TFLOP/s in bf16, {gpu.memory / 1e9:.0f} GB, {gpu.bandwidth / 1e12:.2f} TB/s"
    rows = {
        "on": f"{plan['gpus']} x {gpu.name} ({one})",
        "parameters": counts,
        "a step": f"{plan['flop_per_step'] / 1e12:,.2f} TFLOP on each GPU, mean of all steps",
        "": f"{per_step:,.0f} s of audio, {plan['codes_per_step']:,.0f} codes, "
        f"{plan['positions_per_step']:,.0f} positions on all GPUs",
        "in all": f"{plan['steps']:,} steps, {hours:,.0f} hours of audio, {plan['flop_in_all'] / 1e18:,.3g} EFLOP",
        **{f"  {p['name']}": phase_line(p) for p in plan["phases"]},
        **memory_lines(plan["memory"]),
        "MFU": f"{plan['mfu']:.1%}, ASSUMED: {plan['mfu_reason']}",
        "hours": f"{plan['hours']:,.1f}, an ESTIMATE",
    }
    if "cost" in plan:
        rows["cost"] = f"{plan['cost']:,.0f}, at {plan['price']:g} an hour and GPU"
    width = max(map(len, rows))
    return [plan["kind"], *(f"{name:<{width}}  {text}".rstrip() for name, text in rows.items())]


def phase_line(phase: dict[str, Any]) -> str:
    """Return one kind of step in words."""
    return (
        f"{phase['steps']:,.0f} steps of {phase['flop'] / 1e12:,.2f} TFLOP, {phase['kernels']:,} kernels, "
        f"{phase['seconds'] * 1e3:,.0f} ms"
    )


def memory_lines(memory: dict[str, Any]) -> dict[str, str]:
    """Return the memory of a plan in words."""
    state = [f"{name} {memory[name] / 1e9:.2f}" for name in ("weights", "gradients", "optimizer", "averages")]
    if memory["gradients_exchanged"]:
        state.append(f"their exchange {memory['gradients_exchanged'] / 1e9:.2f}")
    kept, again = memory["activations_kept"] / 1e9, memory["activations_recomputed"] / 1e9
    which = "with" if memory["activation_checkpointing"] else "without"
    fits = "fits" if memory["fits"] else f"does NOT FIT {memory['card'] / 1e9:.0f} GB"
    return {
        "state, GB": ", ".join(state),
        "activations, GB": f"{kept:.1f} without activation checkpointing, {again:.1f} with it",
        "memory, GB": f"{memory['total'] / 1e9:.1f} {which} checkpointing, 10% and 1.5 GB of overhead counted: {fits}",
    }


def make_options() -> argparse.ArgumentParser:
    """Return the program's own options; all others are keys of the configuration."""
    parser = make_parser("plan_run.py", __doc__)
    parser.allow_abbrev = False
    parser.add_argument("config", metavar="CONFIG", help="configuration of train_codec.py or train_lm.py")
    parser.add_argument("--gpu", required=True, help=f"the card: {', '.join(GPUS)}")
    parser.add_argument("--gpus", type=int, default=1, help="number of cards, each with its own batch (default: 1)")
    parser.add_argument(
        "--sharded", action="store_true", help="state spread over the GPUs (configs/accelerate_fsdp.yaml)"
    )
    mfu = (
        "share of the card's peak that is reached; default: from a roofline in which products reach "
        f"{PRODUCT_SHARE * 100:.0f}%% of the peak, memory {BANDWIDTH_SHARE * 100:.0f}%% of its bandwidth, "
        f"and the host starts a kernel in {LAUNCH_SECONDS * 1e6:.0f} µs"
    )
    parser.add_argument("--mfu", type=float, help=mfu)
    parser.add_argument("--price", type=float, help="price of one GPU for an hour; without it there is no cost")
    parser.add_argument("--codebook-size", type=int, default=1024, help="codes of a level in the store (default: 1024)")
    parser.add_argument("--frame-rate", type=float, default=75.0, help="frames a second in the store (default: 75)")
    parser.add_argument("--vocab-size", type=int, default=128, help="ids of the text tokenizer (default: 128)")
    parser.add_argument("--text-rate", type=float, default=15.0, help="text units a second of speech (default: 15)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of an utterance (default: 10)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(argv: list[str] | None = None) -> int:
    options, words = make_options().parse_known_args(argv)
    gpu = find_gpu(options.gpu)
    check_numbers(options, gpus=(2 if options.sharded else 1, _MOST_GPUS), price=(0, 1e6))
    if options.mfu is not None and not 0 < options.mfu <= 1:
        raise SoundloomError(f"--mfu {options.mfu}: expected over 0 and at most 1")
    for name in ("codebook_size", "frame_rate", "vocab_size", "text_rate", "seconds"):
        if not 0 < getattr(options, name) < 1e6:
            raise SoundloomError(f"--{name.replace('_', '-')} {getattr(options, name)}: expected over 0")
    shape = StoreShape(
        8, options.codebook_size, options.frame_rate, options.vocab_size, options.text_rate, options.seconds
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of kernels that a CPU does not fuse; none runs
        training = read_training(options.config, words, shape)
    if options.sharded and training.kind == "codec":
        raise SoundloomError("--sharded: a codec is trained with a whole copy in each process")
    plan = estimate(training, gpu, options.gpus, options.sharded, options.mfu)
    if options.price is not None:
        plan |= {"price": options.price, "cost": options.price * plan["hours"] * options.gpus}
    print(json.dumps(plan, indent=2) if options.json else "\n".join(lines_of(plan, gpu)))
    if not plan["memory"]["fits"]:
        print("note: it does not fit; lower the batch, or set activation_checkpointing true", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
