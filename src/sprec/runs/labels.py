"""How a run recommends, in the words that tables, figures and titles use: every number says its protocol."""

from sprec.config import Recipe
from sprec.methods.table import WITHOUT_MODEL

_WORDS = {
    "paper": "paper's protocol",
    "exact": "exact",
    "consensus": "consensus",
    "d3": "SASRec-guided beams",
    "d3-grounded": "SASRec-guided beams, grounded",
}


def protocol_of(recipe: Recipe) -> str:
    """How a run of this recipe recommends, such as "paper's protocol"; methods without a language model rank items."""
    if recipe.method in WITHOUT_MODEL:
        return "ranks items"
    words = _WORDS[recipe.recommend.protocol]
    return words if recipe.recommend.alpha < 1 else words.replace("SASRec-guided", "unguided")
