"""Fill the generated blocks of the documentation from the files under ``results/``: ``make docs``.

A block stands between ``<!-- results:NAME -->`` and ``<!-- /results -->``. ``python docs/build.py --check`` fails when
one is stale; a test runs it.
"""

import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "docs/results.md",
    "docs/metrics.md",
    "docs/results/frontier.md",
    "docs/results/smollm2.md",
    *(f"docs/results/{name}.md" for name in ("goodreads", "movielens", "cds", "steam", "rates", "variants", "claims")),
    "docs/settings.md",
    "docs/data.md",
    "docs/your-data.md",
    "docs/scale.md",
    "docs/serving.md",
    "docs/reliability.md",
    "benchmarks/README.md",
)
_METRICS = ("DivRatio@1", "DivRatio@5", "ORRatio@1", "ORRatio@5", "MGU@1", "MGU@5", "HR@5", "NDCG@5")
_DATASETS = ("Goodreads", "MovieLens", "CDs_and_Vinyl", "Steam")
_X_LABELS = {"figure4": "iteration", "figure5": "share of random negatives", "figure6": "negatives"}
_BLOCK = re.compile(r"(<!-- results:([\w-]+) -->\n).*?(<!-- /results -->)", re.DOTALL)


def before_and_after(differences: Path) -> str:
    """SPRec and the BIGRec before it on Goodreads: means over seeds, paired difference with its 95% interval."""
    found: dict[str, Mapping[str, Any]] = {}
    for row in json.loads(differences.read_text("utf-8"))["rows"]:
        if (row["dataset"], row["source"], row["method"]) == ("Goodreads", "ours, paper's protocol", "SPRec"):
            found[row["measure"].split()[0]] = row["metrics"]
    lines = ["| metric | BIGRec | SPRec | change | difference, 95% interval |", "|---|---:|---:|---:|---:|"]
    for metric in _METRICS:
        change = found[metric]
        after, difference = change["value"]["value"], change["difference"]
        real = "**" if difference["mark"] else ""
        lines.append(
            f"| {metric} | {after - difference['value']:.4f} | {after:.4f} | {change['relative']['value']:+.1%} "
            f"| {real}{difference['value']:+.4f}{real} [{difference['low']:+.4f}, {difference['high']:+.4f}] |"
        )
    return "\n".join([*lines, "", "Bold: the interval excludes zero.", ""])


def main_results(differences: Path) -> str:
    """SPRec beside BIGRec by the paper's protocol, a row per dataset; bold where the interval excludes zero."""
    metrics = ("DivRatio@1", "ORRatio@1", "MGU@1", "NDCG@5")
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in json.loads(differences.read_text("utf-8"))["rows"]:
        if (row["source"], row["method"]) == ("ours, paper's protocol", "SPRec"):
            found.setdefault(row["dataset"], {})[row["measure"].split()[0]] = row["metrics"]
    arrows = {"DivRatio@1": "↑", "NDCG@5": "↑"}
    lines = ["| BIGRec → SPRec | " + " | ".join(f"{name} {arrows.get(name, '↓')}" for name in metrics) + " |"]
    lines.append("|---|" + "---:|" * len(metrics))
    for dataset, own in found.items():
        cells = []
        for name in metrics:
            after, change = own[name]["value"]["value"], own[name]["difference"]
            bold = "**" if change["mark"] else ""
            relative = f"{bold}{own[name]['relative']['value']:+.0%}{bold}"
            digits = 3 if "Ratio" in name else 4
            cells.append(f"{after - change['value']:.{digits}f} → {after:.{digits}f} ({relative})")
        lines.append(f"| {dataset.replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "Bold: significant, the 95% interval of the paired difference excludes zero.", ""])


def further(file: Path) -> str:
    """Training further beside training anew: seconds of the processor, metrics, paired differences."""
    record = json.loads(file.read_text("utf-8"))
    runs, change = record["runs"], record["further_minus"]["anew"]
    names = list(runs["anew"]["metrics"])
    lines = [f"| | processor | {' | '.join(names)} |", f"|---|---:|{'---:|' * len(names)}"]
    for name, words in (("before", "the run before"), ("anew", "anew"), ("further", "further")):
        time = f"{runs[name]['processor']:.0f} s" if runs[name]["processor"] else ""
        values = " | ".join(f"{runs[name]['metrics'][one]:.3f}" for one in names)
        lines.append(f"| {words} | {time} | {values} |")
    cells = [f"{value:+.3f} [{low:+.3f}, {high:+.3f}]" for value, low, high in (change[one] for one in names)]
    return "\n".join([*lines, f"| further minus anew | | {' | '.join(cells)} |", ""])


def real_differences(*files: Path) -> str:
    """How many differences of the tables are real, and how many would be if nothing differed."""
    rows = [row for file in files for row in json.loads(file.read_text("utf-8"))["rows"]]
    found = {tuple(row[key] for key in ("dataset", "source", "method", "reference", "measure")): row for row in rows}
    metrics = [row["metrics"] for row in found.values() if row["metrics"]["p"]["value"] is not None]
    values, real = sorted(own["p"]["value"] for own in metrics), sum(bool(own["difference"]["mark"]) for own in metrics)
    count = len(values)
    # Benjamini and Hochberg (1995): the largest p that keeps its place's share of 5%, and all smaller ones
    kept = max((place for place, value in enumerate(values, 1) if value <= 0.05 * place / count), default=0)
    doubtful = sum(0.04 < value <= 0.06 for value in values)
    return (
        f"{real} of the {count} differences in Tables 2 and 3 are significant; chance alone would make about "
        f"{count / 20:.0f} so. {kept} keep the share of false ones below 5% (Benjamini and Hochberg). {doubtful} have "
        "a p between .04 and .06: other resamples may decide otherwise.\n"
    )


_DIGITS = {"table1": 0, "claims": 0, "changes": 3, "hypervolume": 5}
"""Decimal places of the tables, by the end of the file's name; 4 for others."""


def table(file: Path, dataset: str = "") -> str:
    """A table that a command wrote as JSON, in Markdown; all of its rows or those of one dataset."""
    from sprec.evaluation import Table

    whole = Table.of(json.loads(file.read_text("utf-8")), _DIGITS.get(file.stem.split("-")[-1], 4))
    rows = tuple(row for row in whole.rows if not dataset or row[0][0] == dataset)
    return replace(whole, title="", rows=rows).markdown()


def frontier_cells(file: Path) -> str:
    """The chosen method against the best of the paper's systems and of the strong baselines, cell by cell, counted."""
    found: Mapping[str, Mapping[str, Mapping[str, Any]]] = json.loads(file.read_text("utf-8"))
    lines = ["| dataset | metric | kNN, tilted | best of the paper's | difference, shared seeds | strong baseline |"]
    lines.append("|---|---|---:|---:|---:|---:|")
    best = shared = won = lost = 0
    for dataset, own in found.items():
        for metric, cell in own.items():
            sign = 1 if metric.startswith(("Div", "HR", "NDCG")) else -1
            first = sign * (cell["ours"] - cell["best_other"]) > 0
            low, high = sorted(sign * end for end in cell["interval"])
            best, shared = best + first, shared + (sign * cell["difference"] > 0)
            won, lost = won + (low > 0), lost + (high < 0)
            ours = f"**{cell['ours']:.4f}**" if first else f"{cell['ours']:.4f}"
            lines.append(
                f"| {dataset.replace('_', ' ')} | {metric} {'↑' if sign > 0 else '↓'} | {ours} "
                f"| {cell['best_other']:.4f} {cell['other']} | {cell['difference']:+.4f} "
                f"[{cell['interval'][0]:+.4f}, {cell['interval'][1]:+.4f}] | {cell['strong']:.4f} |"
            )
    cells = sum(map(len, found.values()))
    counts = (
        f"Bold: the better mean, in {best} of {cells} cells. Over the seeds that both have it is better in {shared}; "
        f"significantly better in {won}, significantly worse in {lost}."
    )
    return "\n".join([*lines, "", counts, ""])


_TRAINING = {"dpo-1": 4.5, "dpo-5": 15, "dpo-8": 20, "sft": 2}
_TARGETS: Mapping[tuple[str, str], float] = {
    **{(part, peer): target for peer in ("trl", "trl-tuned") for part, target in _TRAINING.items()},
    ("rollout", "official"): 4,
    ("rollout", "tuned"): 1.5,
    ("beam", "hf"): 10,
    ("grounding", "argsort"): 50,
    ("iteration", "scripts"): 10,
}
"""Part and peer to how many times faster the engine should be."""
_PEAK_TARGETS: Mapping[tuple[str, str], float] = {("dpo-5", "trl"): 0.6}
"""Part and peer to the share of the peer's peak memory that the engine may need."""
_ALONE_TARGETS: Mapping[str, tuple[float, float | None]] = {
    "evaluation": (15, None),
    "million-trie": (60, None),
    "million-grounding": (5, 4096),
}
"""Part without a peer to the seconds and MiB that it may need."""
_OF_BF16 = 0.5  # of the rate of bf16 products, by "sft" and "dpo-1"
_FURTHER_NEGATIVE = 1.25
"""A further negative may cost this times C/(P+2C) of the step with one: its share of the tokens, and a quarter."""


def benchmark(files: Sequence[Path]) -> str:
    """What ``sprec bench`` measured with one size: a row per part and peer, over several runs of the command."""
    records = [json.loads(file.read_text("utf-8")) for file in files]
    parts = [part for record in records for part in record["parts"]]
    lines = [
        "| part | peer | samples | here, s | peer, s | ratio (lowest to highest pair) | of processor time | target "
        "| tokens/s here | peak MiB here / peer (share) | of the matmul rate |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(_benchmark_row(part, name, peer) for part in parts for name, peer in part["peers"].items()),
        *(_row_alone(part) for part in parts if not part["peers"]),
    ]
    for negatives in filter(None, (further_negatives(record["parts"]) for record in records)):  # each within one run
        lines += ["", negatives]
    if beside := beside_bf16(records):
        lines += ["", beside]
    if counted := operations(records):
        lines += ["", *counted]
    first = records[0]
    machine = ", ".join(f"{key} {value}" for key, value in first["machine"].items())
    rates = " to ".join(f"{pick(r['matmul_flops'] for r in records) / 1e9:,.0f}" for pick in (min, max))
    repeats = ", ".join(str(r["repeats"]) for r in records)
    precisions = " and ".join(sorted({r.get("precision", "bf16") for r in records}))  # bf16 until it was recorded
    size = first.get("matmul_size", 2048)
    steps = ", ".join(f"{r['batch']} prompts and {r['tokens']:,} tokens" for r in records if "batch" in r)
    lines += ["", f"{first['parameters']:,} parameters; prompts of {first['data']}; {machine}; {first['date']}; "
              f"medians of {repeats} repetitions; {size}^3 {precisions} product: {rates} GFLOP/s"
              f"{f'; at most so much at once here: {steps}' if steps else ''}.", ""]  # fmt: skip
    return "\n".join(lines)


_WORK = {
    "preference stage with 1 negative": ("dpo-1", "TRL", ("trl", "trl-tuned")),
    "with 5 negatives": ("dpo-5", "TRL", ("trl", "trl-tuned")),
    "with 8 negatives": ("dpo-8", "TRL", ("trl", "trl-tuned")),
    "fine-tuning": ("sft", "TRL", ("trl", "trl-tuned")),
    "rollouts": ("rollout", "`generate` as the research code calls it", ("official",)),
    "rollouts, answers of 16 tokens": ("rollout", "`generate`, tuned", ("tuned",)),
    "beams along the catalogue": ("beam", "`generate` with `prefix_allowed_tokens_fn`", ("hf",)),
    "grounding, exact, 13,000 items": ("grounding", "`cdist` and two `argsort`", ("argsort",)),
    "answers of which 4 in 5 repeat": ("grounding-repeated", "the same", ("argsort",)),
    "a whole iteration": ("iteration", "scripts of these, a process per stage", ("scripts",)),
}
"""The work in words to its part, whom it is compared with, and their names there."""
_IN_SHORT = ("fine-tuning", "preference stage with 1 negative", "with 8 negatives", "rollouts, answers of 16 tokens",
             "beams along the catalogue", "a whole iteration")  # fmt: skip


def speed(sizes: Mapping[str, Sequence[Path]], shown: Sequence[str] = tuple(_WORK)) -> str:
    """How many times faster the engine is: the ratio of medians, of several runs or peers the lowest and highest."""
    lines = [f"| work | beside | {' | '.join(sizes)} |", f"|---|---|{'---:|' * len(sizes)}"]
    parts = {
        size: [part for file in files for part in json.loads(file.read_text("utf-8"))["parts"]]
        for size, files in sizes.items()
    }
    for work in shown:
        name, beside, peers = _WORK[work]
        cells = []
        for own in parts.values():
            known = [part["peers"] for part in own if part["part"] == name]
            found = sorted(all_peers[peer]["ratio"] for all_peers in known for peer in peers if peer in all_peers)
            ends = dict.fromkeys(f"{ratio:.1f}" for ratio in (*found[:1], *found[-1:]))
            cells.append(" to ".join(ends) or "–")
        lines.append(f"| {work} | {beside} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _benchmark_row(part: Mapping[str, Any], name: str, peer: Mapping[str, Any]) -> str:
    ours, target = part["engine"], _TARGETS.get((part["part"], name))
    share = f"{part['share']:.0%}" if part.get("share") else ""
    goal = f"{target:g} {_met(peer['ratio'] >= target)}" if target else ""
    room = _PEAK_TARGETS.get((part["part"], name))
    memory = f"{peer['peak_share']:.0%}"
    if room:
        work = f"{ours['above_mib'] / peer['above_mib']:.1%} of what the work takes"
        memory = f"{peer['peak_share']:.1%}, target {room:.0%} {_met(peer['peak_share'] <= room)}; {work}"
    return (
        f"| {part['part']} | {name} | {part['samples']} | {ours['seconds']:.3g} | {peer['seconds']:.3g} "
        f"| **{peer['ratio']:.1f}** ({peer['ratio_low']:.1f} to {peer['ratio_high']:.1f}) "
        f"| {peer['cpu_ratio']:.1f} | {goal} | {ours['tokens_per_second']:,.0f} "
        f"| {ours['peak_mib']:,.0f} / {peer['peak_mib']:,.0f} ({memory}) | {share} |"
    )


def _row_alone(part: Mapping[str, Any]) -> str:
    """A part without a peer: seconds on the clock and of processor time, against limits of its own."""
    ours, (seconds, room) = part["engine"], _ALONE_TARGETS.get(part["part"], (None, None))
    goal = f"{seconds:g} s {_met(ours['seconds'] <= seconds)}" if seconds else ""
    memory = f" (target {room:,.0f} {_met(ours['peak_mib'] <= room)})" if room else ""
    return (
        f"| {part['part']} | | {part['samples']} | {ours['seconds']:.3g} | | | {ours['cpu_seconds']:.3g} s "
        f"| {goal} | {ours['tokens_per_second']:,.0f} | {ours['peak_mib']:,.0f}{memory} | |"
    )


def _met(met: bool) -> str:
    return "met" if met else "missed"


def further_negatives(parts: Sequence[Mapping[str, Any]]) -> str:
    """What each negative beyond the first costs, in processor time per example, as a share of the step with one.

    Empty where the parts do not hold the step with one negative and another one, with their numbers of tokens.
    """
    steps = {int(part["part"][4:]): part for part in parts if part["part"].startswith("dpo-")}
    if len(steps) < 2 or 1 not in steps or not steps[1].get("prompt_tokens"):
        return ""
    cost = {count: part["engine"]["cpu_seconds"] / part["samples"] for count, part in steps.items()}
    shares = {count: (cost[count] - cost[1]) / (count - 1) / cost[1] for count in sorted(steps) if count > 1}
    answer = steps[1]["answer_tokens"]

    def target(prompt: float) -> str:
        bound = _FURTHER_NEGATIVE * answer / (prompt + 2 * answer)
        met = ", ".join(f"K={count} {_met(share <= bound)}" for count, share in shares.items())
        return f"{bound:.1%} ({met}) with P = {prompt:.0f}"

    found = ", ".join(f"{share:.1%} (K={count})" for count, share in shares.items())
    own = steps[1].get("own_prompt_tokens")  # not recorded before
    of_own = f", and {target(own)}, the tokens of a prompt that are not read once for all" if own else ""
    return (
        f"Each negative beyond the first costs {found} of the step with one, in processor time per example; the target "
        f"is {_FURTHER_NEGATIVE:g} C/(P+2C) with answers of C = {answer:.1f} tokens in the mean: that is "
        f"{target(steps[1]['prompt_tokens'])}, whole prompts{of_own}."
    )


def beside_bf16(records: Sequence[Mapping[str, Any]]) -> str:
    """Parts of float32 runs as shares of what a bf16 product reached in the same run, where that was measured."""
    measured = [record for record in records if record.get("precision") == "fp32" and record.get("matmul_flops_bf16")]
    shares: dict[str, list[float]] = {}
    for record in measured:
        for part in record["parts"]:
            if part["part"] in ("sft", "dpo-1"):
                share = part["flops"] / part["engine"]["seconds"] / record["matmul_flops_bf16"]
                shares.setdefault(part["part"], []).append(share)
    if not shares:
        return ""
    rate = _span([record["matmul_flops_bf16"] / 1e9 for record in measured], "{:,.0f}")
    found = ", ".join(f"{part} {_span(own, '{:.0%}')} ({_met(min(own) >= _OF_BF16)})" for part, own in shares.items())
    return (
        f"bf16 products are slower than those of float32 on this processor, {rate} GFLOP/s, so both sides compute in "
        f"float32. Of that rate the engine reaches, of {_OF_BF16:.0%} asked for: {found}."
    )


def operations(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table of the FLOPs that the sides do for the same work, and of the engine's rate; empty where none counted."""
    rows = []
    for record in records:
        for part in record["parts"]:
            own = part["engine"].get("operations", 0)
            if not own:  # of runs before it was counted, on GPUs, and of parts that multiply nothing or are processes
                continue
            peers = ", ".join(
                f"{own / peer['operations']:.0%} of `{name}`"
                for name, peer in part["peers"].items()
                if peer.get("operations")
            )
            rates = [own / part["engine"]["seconds"] / rate for rate in _rates(record)]
            share = f"{rates[0]:.0%}" + "".join(f" ({rate:.0%} of bf16's)" for rate in rates[1:])
            rows.append(f"| {part['part']} | {part['samples']} | {own / 1e9:,.0f} | {peers} | {share} |")
    head = [
        "| part | samples | GFLOP counted here | beside the peer's | of the matmul rate |",
        "|---|---:|---:|---|---:|",
    ]
    return [*head, *rows] if rows else []


def _rates(record: Mapping[str, Any]) -> list[float]:
    """The rate of a product in the precision of a run, and that of bf16 where it is another one."""
    other = record.get("precision") == "fp32" and record.get("matmul_flops_bf16")
    return [record["matmul_flops"], *([record["matmul_flops_bf16"]] if other else [])]


def _span(numbers: Sequence[float], form: str) -> str:
    low, high = form.format(min(numbers)), form.format(max(numbers))
    return low if low == high else f"{low} to {high}"


def all_metrics() -> str:
    """A row for each metric."""
    from sprec.evaluation import METRICS

    lines = ["| metric | what it is | better | largest |", "|---|---|---|---:|"]
    for row in METRICS.values():
        name = row.at(0).replace("@0", f"@k, k ≥ {row.first_k}" if row.first_k > 1 else "@k")
        better = {1: "higher", -1: "lower"}[row.direction]
        lines.append(f"| {name} | {row.about} | {better} | {'' if math.isinf(row.high) else f'{row.high:g}'} |")
    return "\n".join([*lines, ""])


def all_settings() -> str:
    """What a recipe can say: a table for each of its parts."""
    from sprec.runs.settings import settings

    lines = []
    for title, group in settings().items():
        lines += [f"## {title or 'The run'}", "", "| key | default | or | what it does |", "|---|---|---|---|"]
        for key, default, others, about in group:
            choices = ", ".join(f"`{value}`" for value in others)
            lines.append(f"| `{key}` | `{default}` | {choices} | {about} |")
        lines.append("")
    return "\n".join(lines)


_LOGS = {
    "ml-10m": "MovieLens-10M's format and size",
    "amazon": "Amazon's format, gzipped, 100k items as Python literals",
    "parquet-100m": "one Parquet file",
}


def logs(file: Path) -> str:
    """What the import of large logs took: ``benchmarks/logs.py``, a line of JSON for each log.

    Earlier records have the seconds of the clock only, and a peak that may be that of the process that started them.
    """
    records = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    lines = ["| log | rows | windows | processor seconds | peak memory | date |", "|---|---:|---:|---:|---:|---|"]
    for record in records:
        new = "cpu_seconds" in record
        seconds = f"{record['cpu_seconds']:.3g}" if new else f"{record['seconds']:.3g} by the clock"
        peak = f"{'' if new else 'at most '}{record['peak_gib']:.1f} GiB"
        lines.append(
            f"| {_LOGS[record['log']]} | {record['rows']:,} | {record['sequences']:,} | {seconds} | {peak} "
            f"| {record['date']} |"
        )
    first, rounds = records[0], [record.get("rounds", 1) for record in records]
    taken = f"medians of {', '.join(map(str, rounds))} imports, in turns" if max(rounds) > 1 else "one import each"
    return "\n".join([*lines, "", f"{first['cpus']} CPU cores, polars {first['polars']}, 2 threads; {taken}.", ""])


def service(file: Path) -> str:
    """What ``sprec bench serve`` measured: a row for each way to recommend and number of clients."""
    record = json.loads(file.read_text("utf-8"))
    lines = ["| protocol | clients | p50, ms | p95, ms | p99, ms | lists/s | of the batch command |"]
    lines.append("|---|" + "---:|" * 6)
    for row in record["protocols"]:
        for one in row["service"]:
            times = " | ".join(_short(one[name]) for name in ("p50", "p95", "p99"))
            name = row["protocol"] + ", tilted" * row["tilted"]
            lines.append(
                f"| {name} | {one['clients']} | {times} | {_short(one['per_second'])} | {one['of_batch']:.0%} |"
            )
    machine, settings = record["machine"], record["settings"]
    data = " and ".join(f"{name}, {items:,} items" for name, items in record["data"].items())
    about = (
        f"{data}; k = {settings['k']}, one history per request; medians of {settings['repeats']} repetitions of "
        f"{settings['seconds']:g} s. {machine['cpus']} CPU cores, shared with the clients, and at a load of "
        f"{machine['load']:.1f} when it ended; {record['date']}."
    )
    if soak := record["soak"]:
        about += (
            f" In {soak['minutes']:g} minutes of gentle load ({soak['requests']:,} requests) the memory grew by "
            f"{soak['growth_after_first_minute']:.1f} MiB after the first minute."
        )
    return "\n".join([*lines, "", about, ""])


def _short(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def exact_search(file: Path) -> str:
    """What exact lists cost beside the paper's protocol: ``benchmarks/exact.py``, a line of JSON."""
    found = json.loads(file.read_text("utf-8"))
    lines = ["| items per list | paper, s | exact, s | ratio | in processor time (range) | proven | memory |"]
    lines.append("|---:|---:|---:|---:|---:|---:|---:|")
    for row in found["k"]:
        lines.append(
            f"| {row['k']} | {row['paper_seconds']:.3g} | {row['exact_seconds']:.3g} | {row['ratio']:.1f} "
            f"| {row['cpu_ratio']:.1f} ({row['cpu_ratio_low']:.1f} to {row['cpu_ratio_high']:.1f}) "
            f"| {row['proven']:.1%} | {row['above_mib']:,.0f} MiB |"
        )
    machine = found["machine"]
    about = (
        f"{found['cases']:,} cases of {found['data']}, {found['items']:,} items, {found['beams']} beams; medians of "
        f"{found['repeats']} repetitions in turn; {machine['device']}, threads {machine['threads']}, {found['date']}."
    )
    return "\n".join([*lines, "", about, ""])


def out_of_core(file: Path) -> str:
    """What training on many samples takes: ``benchmarks/out_of_core.py``."""
    lines = [
        "| samples | tokens of a prompt | on disk | first step, 4,096 drawn | first step, all | resident at that step "
        "| 20 steps later | at most |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    runs = json.loads(file.read_text("utf-8"))["runs"]
    for run in runs:
        whole = run["whole"]
        sizes = (whole["rss_first_mib"], whole["rss_last_mib"], run["peak_rss_mib"])
        cells = [
            f"{run['samples']:,}",
            f"{run['tokens_per_sample']:.0f}",
            f"{run['bytes_per_sample']:.0f} bytes",
            f"{run['drawn']['first_step_s']:.0f} s",
            f"{whole['first_step_s']:.0f} s",
            *(f"{size:,.0f} MiB" for size in sizes),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    machine = runs[-1]["machine"]
    return "\n".join([*lines, "", f"{machine['device']}, threads {machine['threads']}, {runs[-1]['date']}.", ""])


def costs() -> str:
    """What the paper's recipe costs at several sizes."""
    from sprec.runs.recipes import resolve
    from sprec.study.cost import table

    return table(resolve("llama-3.2-1b"))


def chaos(file: Path) -> str:
    """Faults that were tried and survived."""
    found = json.loads(file.read_text("utf-8"))
    lines = ["| fault | tried | survived | date |", "|---|---:|---:|---|"]
    for fault in sorted(found["faults"]):
        parts = found["faults"][fault].values()
        tried, survived = sum(tried for tried, _ in parts), sum(fine for _, fine in parts)
        lines.append(f"| {fault} | {tried:,} | {survived:,} | {found['dates'][fault]} |")
    machine = ", ".join(f"{key} {value}" for key, value in found["machine"].items() if key != "date")
    return "\n".join([*lines, "", f"{machine}.", ""])


def times(folder: Path) -> str:
    """Minutes that one process needed for all runs of a dataset and seed, shared stages counted once."""
    from sprec.study.records import stored

    spent: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for place, record in stored(folder).items():
        dataset, variant, _, seed = place.split("/")
        if "=" not in variant and not variant.endswith("-stages"):  # neither of the search of rates nor of figures
            spent.setdefault((dataset, seed.removeprefix("seed")), []).append((record.seconds, record.precision))
    lines = ["| dataset | seed | runs | minutes of one process | precision |", "|---|---:|---:|---:|---|"]
    for (dataset, seed), runs in spent.items():
        precision = " and ".join(sorted({kind for _, kind in runs}))
        minutes = sum(seconds for seconds, _ in runs) / 60
        lines.append(f"| {dataset} | {seed} | {len(runs)} | {minutes:.0f} | {precision} |")
    return "\n".join([*lines, ""])


def curves(file: Path) -> str:
    """The points of Figures 4 to 6: a row for each line and place on the x axis, means over the seeds."""
    found = json.loads(file.read_text("utf-8"))
    metrics = [name for name in (*_METRICS, "NDCG@1") if any(found.get(name, {}).values())]
    header = ["method", _X_LABELS[file.stem.split("-")[0]], *metrics]
    lines = [f"| {' | '.join(header)} |", "| --- | ---: " + "| ---: " * len(metrics) + "|"]
    for method, points in found["DivRatio@1"].items():
        for x in points:
            values = [found[metric].get(method, {}).get(x) for metric in metrics]
            cells = [f"{value['value']:.4f}" if value else "–" for value in values]
            lines.append(f"| {method} | {float(x):g} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def pretraining(file: Path) -> str:
    """What ``results/pretraining.py`` found, a row for each run: metrics, then hits and shares by kind of item."""
    metrics = ("HR@5", "NDCG@5", "DivRatio@1", "ORRatio@1")
    kinds = ("popular", "rare", "unseen")
    lines: list[str] = []
    for dataset, found in json.loads(file.read_text("utf-8")).items():
        header = ["run", *metrics, *(f"hits, {kind}" for kind in kinds), "shown: rare", "shown: unseen"]
        lines += [f"**{dataset}**, {found['cases']} cases, {found['unseen items']:.0%} of the items unseen:", ""]
        lines += [f"| {' | '.join(header)} |", f"|---|{'---:|' * (len(header) - 1)}"]
        for name, run in found["runs"].items():
            values = [run["metrics"][metric] for metric in metrics]
            cells = [f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]" for one in values]
            cells += [f"{run['hits'][kind]} of {run['targets'][kind]}" for kind in kinds]
            cells += [f"{run['shown'][kind]:.0%}" for kind in kinds[1:]]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def blocks() -> dict[str, Callable[[], str]]:
    """Name of each block to what fills it."""
    results = ROOT / "results"
    differences = [results / "scratch" / f"table{number}-differences.json" for number in (2, 3)]
    found: dict[str, Callable[[], str]] = {"goodreads-scratch": partial(before_and_after, differences[0])}
    found["main-results"] = partial(main_results, differences[0])
    found["real-differences"] = partial(real_differences, *differences)
    found["cost"] = costs
    found["further"] = partial(further, results / "further.json")
    found["settings"] = all_settings
    found["metrics"] = all_metrics
    found["exact"] = partial(exact_search, ROOT / "benchmarks" / "results" / "exact.json")
    found["out-of-core"] = partial(out_of_core, ROOT / "benchmarks" / "results" / "out-of-core.json")
    found["service"] = partial(service, ROOT / "benchmarks" / "results" / "serve.json")
    found["logs"] = partial(logs, ROOT / "benchmarks" / "results" / "logs.json")
    found["scratch-times"] = partial(times, results / "scratch" / "records")
    if (results / "chaos.json").exists():
        found["chaos"] = partial(chaos, results / "chaos.json")
    for file in sorted(results.glob("*/*.json")):
        name = f"{file.parent.name}-{file.stem}"
        if re.match("figure[456]-", file.stem):
            found[name] = partial(curves, file)
        elif file.stem == "pretraining":
            found[name] = partial(pretraining, file)
        else:
            found[name] = partial(table, file)
            found |= {f"{name}-of-{dataset}": partial(table, file, dataset) for dataset in _DATASETS}
    found["frontier-cells"] = partial(frontier_cells, results / "frontier" / "cells.json")
    measured = sorted((ROOT / "benchmarks" / "results").glob("*-*.json"))
    for size in {file.stem.split("-")[0] for file in measured}:
        files = [file for file in measured if file.stem.split("-")[0] == size]
        found[f"bench-{size}"] = partial(benchmark, files)
    sizes = {"2M": "2m-*.json", "30M": "30m-*.json", "2M, bf16": "2mamx-*.json", "30M, bf16": "30mamx-*.json"}
    known = {name: sorted((ROOT / "benchmarks" / "results").glob(files)) for name, files in sizes.items()}
    found["speed"] = partial(speed, known)
    found["speed-in-short"] = partial(speed, {name: known[name] for name in ("2M", "30M")}, _IN_SHORT)
    return found


def filled(page: Path) -> str:
    """The text of a page with its blocks up to date."""
    known = blocks()
    return _BLOCK.sub(lambda match: match[1] + known[match[2]]() + match[3], page.read_text("utf-8"))


def main() -> None:
    """Write the pages, or with ``--check`` exit 1 when one is stale."""
    stale = [
        name for name in PAGES if (ROOT / name).is_file() and filled(ROOT / name) != (ROOT / name).read_text("utf-8")
    ]
    if "--check" in sys.argv[1:]:
        raise SystemExit(f"stale, run make docs: {', '.join(stale)}" if stale else 0)
    for name in stale:
        (ROOT / name).write_text(filled(ROOT / name), "utf-8")
        print(f"wrote {name}")


if __name__ == "__main__":
    main()
