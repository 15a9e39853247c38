"""Files on disk to datasets."""

from sprec.data.about import Wording
from sprec.data.catalog import Catalog
from sprec.data.dataset import SPLITS, Dataset, Example, Split

__all__ = ["SPLITS", "Catalog", "Dataset", "Example", "Split", "Wording"]
