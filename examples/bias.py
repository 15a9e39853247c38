# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Why greedy decoding and random negatives make bias
#
# A language model that is fine-tuned to name the next item learns a distribution over items. Two habits of the field
# turn a good distribution into a few items for everybody: taking its most probable item, and training against random
# ones. Both can be seen without any language model. Here a policy is a table of 20 probabilities, the losses are the
# very functions that train the real models, and all expectations are exact. It takes seconds; `sprec theory` checks
# the same claims against closed forms.

# %%
from pathlib import Path

import numpy as np

from sprec.evaluation.plots import Series, curves, sharpening_and_self_play
from sprec.theory import dynamics

work = Path("bias")
n = 20
p = dynamics.zipf(n)  # how often each item is the next one in the data: 1, 1/2, 1/3, ...
print(f"the most popular item has {p[0]:.1%}, the three most popular ones {dynamics.top(p, 3):.1%}")

# %% [markdown]
# ## Greedy decoding: the best guess for each user is the same for many
#
# Suppose that a model has learned the data perfectly. Users differ: each one's distribution is the popularity, tilted
# by a taste. Recommending the most probable item gives everybody the best single guess, and the catalogue a fate that
# the model never predicted.

# %%
rng = np.random.default_rng(0)
for strength in (0.0, 0.5, 1.0, 2.0):
    users = np.array([dynamics.normalised(p * np.exp(strength * rng.standard_normal(n))) for _ in range(2000)])
    greedy = np.bincount(users.argmax(1), minlength=n) / len(users)
    print(
        f"taste {strength:3.1f}: the top 3 have {dynamics.top(users.mean(0), 3):.0%} of what users choose, "
        f"{dynamics.top(greedy, 3):.0%} of what is recommended"
    )

# %% [markdown]
# Sampling from the model would keep the shares, at the price of more misses. So a part of what is called the bias of
# a trained model is made when it is asked, and no training is needed to take it back: every table of this project
# says how its models recommend.

# %% [markdown]
# ## Random negatives: DPO sharpens what is popular
#
# DPO raises the chosen item against a rejected one. Take chosen items from the data, $p$, rejected ones from $q$. Its
# optimum is known (Theorem 1 of the paper):
#
# $$\pi^*(y) \propto \pi_\text{ref}(y) \left(\frac{p(y)}{q(y)}\right)^{1/\beta}$$
#
# With a reference that has learned the data and uniform negatives this is $p^{1 + 1/\beta}$. At $\beta = 0.1$, the
# usual value, popularity is raised to the eleventh power.

# %%
uniform = np.full(n, 1 / n)
sharpened = {f"beta = {beta:g}": dynamics.optimum(p, uniform, p, beta) for beta in (2, 1, 0.5, 0.1)}
for label, policy in sharpened.items():
    print(f"{label:<10} top item {policy[0]:.1%}, as diverse as {dynamics.effective_items(policy):.1f} equal items")
print(f"{'data':<10} top item {p[0]:.1%}, as diverse as {dynamics.effective_items(p):.1f} equal items")

# %% [markdown]
# ## Self-play: the model's own answers as negatives
#
# When the rejected items are drawn from the policy itself, an item that is recommended too often is rejected too
# often. The force vanishes only where policy and data agree. A few gradient steps per iteration, as in training, from
# a policy that already over-recommends:

# %%
start = dynamics.optimum(p, uniform, p, 2)
policies = {
    "sampled from the policy": dynamics.self_play(start, p, "sampled", 10),
    "uniform": dynamics.self_play(start, p, "uniform", 10),
    "greedy": dynamics.self_play(start, p, "greedy", 10),
}
for kind, path in policies.items():
    print(
        f"{kind:<24} distance to the data {dynamics.total_variation(path[-1], p):.3f}, "
        f"as diverse as {dynamics.effective_items(path[-1]):.1f} equal items (data: {dynamics.effective_items(p):.1f})"
    )

# %%
steps = np.arange(11)
panels = {
    "distance to the data": {
        k: Series(steps, [dynamics.total_variation(x, p) for x in v]) for k, v in policies.items()
    },
    "effective items": {k: Series(steps, [dynamics.effective_items(x) for x in v]) for k, v in policies.items()},
}
curves(panels, "iteration", work / "bias-negatives", columns=2)
rounds = {f"iteration {t}": policies["sampled from the policy"][t] for t in (0, 1, 2, 10)}
few = {label: sharpened[label] for label in ("beta = 2", "beta = 1", "beta = 0.5")}
sharpening_and_self_play(p, few, rounds, work / "bias-distributions")

# %% [markdown]
# ![DPO with uniform negatives sharpens the data's distribution; self-play returns to it](bias-distributions.svg)
#
# ![Distance to the data and effective items over iterations, for three kinds of negatives](bias-negatives.svg)
#
# Uniform negatives end on one item. Sampled ones return to the data. Greedy ones, which the research code uses,
# punish one item at a time: the policy becomes more diverse than the data and stays away from it. In practice that is
# what self-play gives: more diversity than there was, and a price in accuracy that grows with the learning rate (the
# results say how much).

# %% [markdown]
# ## In between
#
# Mixing a share $r$ of uniform negatives into sampled ones moves the fixed point to $(p - r/n)/(1 - r)$: sharper than
# the data for every $r > 0$.

# %%
for r in (0, 0.25, 0.5, 0.75):
    policy = dynamics.with_random_ratio(start, p, r, 200)
    print(f"r = {r:4}: top item {policy[0]:.1%}, as diverse as {dynamics.effective_items(policy):.1f} equal items")
