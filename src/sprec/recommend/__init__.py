"""From a policy and a catalog to top-k items; names are loaded when they are first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sprec.recommend.by_title import Recommendations, recommend_by_title
    from sprec.recommend.consensus import recommend_by_consensus
    from sprec.recommend.encoders import Encoder, sentence_transformers, tfidf
    from sprec.recommend.exact import RankedItems, catalog_trie, rank_items
    from sprec.recommend.grounding import Grounder

__all__ = [
    "Encoder",
    "Grounder",
    "RankedItems",
    "Recommendations",
    "catalog_trie",
    "rank_items",
    "recommend_by_consensus",
    "recommend_by_title",
    "sentence_transformers",
    "tfidf",
]

_HOMES = {
    "Encoder": "encoders",
    "Grounder": "grounding",
    "RankedItems": "exact",
    "Recommendations": "recommender",
    "catalog_trie": "exact",
    "rank_items": "exact",
    "recommend_by_consensus": "consensus",
    "recommend_by_title": "recommender",
    "sentence_transformers": "encoders",
    "tfidf": "encoders",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sprec.recommend' has no attribute {name!r}")
    return getattr(import_module(f"sprec.recommend.{_HOMES[name]}"), name)
