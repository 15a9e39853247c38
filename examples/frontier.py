# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # From data to a frontier
#
# A recommender is chosen twice: by how often it is right, and by how evenly it shares out attention. This notebook
# makes a dataset, trains a small language model on it, lets the model play against itself, and draws both qualities
# against each other. It needs no GPU and no download, and takes some minutes on two cores.
#
# `pip install 'sprec[report]'` is all that it needs. To open it as a notebook: `jupytext --to ipynb frontier.py`.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from sprec import Dataset, Recommender, resolve, run
from sprec.data.demo import demo
from sprec.prompts import PromptBuilder
from sprec.runs import evaluate_run

work = Path("frontier")
quick: list[str] = []  # settings that make everything smaller, for a first look

# %% [markdown]
# ## Data
#
# The demo has real film titles and simulated viewers, who like a few hits and go on with the franchise that they saw
# last. Your own logs come in with `sprec data import`; everything below stays the same.

# %%
if not (work / "data").exists():
    demo(seed=0).save(work / "data")
data = Dataset.load(work / "data")

counts = np.bincount(data.train.targets, minlength=len(data.catalog))
popular = counts.argsort()[::-1]
print(f"{len(data.catalog)} films, {len(data.train)} training examples")
for item in popular[:3]:
    print(f"{counts[item] / counts.sum():.1%} of the targets: {data.catalog.titles[item]}")

# %% [markdown]
# An example is a history of ten films and the film that came next. To a language model it is a prompt and an answer.

# %%
builder = PromptBuilder(data.catalog, data.wording, style="compact")
print(builder.prompt(data.test[0].history))
print(builder.response(data.test[0].target))

# %% [markdown]
# ## One run, several models
#
# `sprec run` trains the model before self-play (BIGRec: supervised fine-tuning), then three iterations of self-play.
# It evaluates after every step, so one run already is a path: from the most accurate imitation of the data towards
# more diversity. Beside it stand two recommenders without a model, popularity and item kNN.

# %%
results = run(resolve("demo", quick), data, work / "sprec")
for result in results:
    values = {name: result.metrics[name] for name in ("NDCG@5", "HR@5", "DivRatio@5", "ORRatio@5")}
    label = result.method if result.baseline else f"{result.stage} {result.iteration}"
    print(f"{label:<12}" + "  ".join(f"{name} {value:.4f}" for name, value in values.items()))

# %% [markdown]
# ## What decoding does
#
# How a model recommends matters as much as how it was trained. The same weights, asked in three ways: one greedy
# title and its nearest titles (the paper's protocol), the five most probable titles of the catalogue, or votes of 24
# sampled answers.

# %%
points = {("self-play", f"{r.stage} {r.iteration}"): r.metrics for r in results if not r.baseline}
points |= {("baseline", r.method): r.metrics for r in results if r.baseline}
for protocol in ("exact", "consensus"):
    points["decoding", protocol] = evaluate_run(work / "sprec", [f"recommend.protocol={protocol}"])

# %% [markdown]
# And one more recommender without a language model: SASRec, a small sequential network.

# %%
only = run(resolve("demo", ["method=sasrec", *quick]), data, work / "sasrec")
points["baseline", "sasrec"] = only[-1].metrics

# %% [markdown]
# ## The frontier
#
# ORRatio@5 is the share of all recommendations that goes to the three most recommended films; less is better. NDCG@5
# says how often, and how high, the right film stands in the list; more is better. A model is on the frontier when no
# other one is better in both.


# %%
def on_the_frontier(name: tuple[str, str]) -> bool:
    """Whether nothing else is at least as accurate and shares out attention more evenly."""
    own = points[name]
    return not any(
        other["NDCG@5"] >= own["NDCG@5"] and other["ORRatio@5"] < own["ORRatio@5"] for other in points.values()
    )


frontier = sorted((name for name in points if on_the_frontier(name)), key=lambda name: points[name]["ORRatio@5"])
for name in sorted(points, key=lambda name: -points[name]["NDCG@5"]):
    star = "*" if name in frontier else " "
    print(f"{star} {' '.join(name):<24} NDCG@5 {points[name]['NDCG@5']:.4f}  ORRatio@5 {points[name]['ORRatio@5']:.4f}")

# %%
figure, axes = plt.subplots(figsize=(6, 4))
for kind, marker in {"self-play": "o", "decoding": "s", "baseline": "^"}.items():
    named = {label: own for (group, label), own in points.items() if group == kind}
    x, y = ([own[metric] for own in named.values()] for metric in ("ORRatio@5", "NDCG@5"))
    axes.plot(x, y, marker, label=kind)
    for label, own in named.items():
        if kind == "self-play" and label not in ("sft 0", f"prefer {results[-1].iteration}"):
            continue  # the steps between the first and the last model
        axes.annotate(label, (own["ORRatio@5"], own["NDCG@5"]), fontsize=7, xytext=(3, 3), textcoords="offset points")
axes.plot([points[n]["ORRatio@5"] for n in frontier], [points[n]["NDCG@5"] for n in frontier], ":", color="grey")
axes.set(xlabel="ORRatio@5, less is better", ylabel="NDCG@5, more is better")
axes.legend()
figure.savefig(work / "frontier.png", dpi=150, bbox_inches="tight")

# %% [markdown]
# With 400 test cases, differences between neighbouring points are within noise: `sprec compare` gives them
# intervals, and a second seed (`--set seed=1`) moves them. What lasts is the shape: how a model recommends moves it
# as far as how it was trained, and nothing is best at both ends. Which point to take is your decision. Look at lists,
# too, before you take it:

# %%
recommender = Recommender.load(work / "sprec")
for item in recommender.recommend([["Alien (1979)", "Blade Runner (1982)"]], k=5)[0]:
    print(recommender.catalog.titles[item])
