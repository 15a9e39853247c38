"""The completions of a prompt as a tree: common beginnings are read once.

Recommendations often begin alike: with a quotation mark, an article, the name of a series. The last token of a
completion is predicted but never read, as nothing follows it.
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple


class Tree(NamedTuple):
    """n tokens below a prompt, each one before its descendants.

    Attributes:
        tokens: token ids, (n,).
        depth: the number of ancestors of each one: its position after the prompt, (n,).
        last: the last descendant of each one, itself if it has none, (n,). All tokens between the two are, too.
        paths: for each completion the tokens that are read for it, from the first to the last but one.
    """

    tokens: list[int]
    depth: list[int]
    last: list[int]
    paths: list[list[int]]

    @classmethod
    def of(cls, completions: Sequence[Sequence[int]]) -> "Tree":
        """The tree of ``completions``; in lexical order each one shares most with the one before."""
        read = [tuple(completion[:-1]) for completion in completions]
        tree = cls([], [], [], [[]] * len(read))
        before: tuple[int, ...] = ()
        path: list[int] = []
        for index in sorted(range(len(read)), key=read.__getitem__):
            own = read[index]
            shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, own, strict=False)))
            known = len(tree.tokens)
            path = path[:shared] + list(range(known, known + len(own) - shared))
            tree.tokens.extend(own[shared:])
            tree.depth.extend(range(shared, len(own)))
            tree.last.extend([0] * (len(own) - shared))
            for node in path:
                tree.last[node] = len(tree.tokens) - 1
            tree.paths[index], before = path, own
        return tree
