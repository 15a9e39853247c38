"""Files on disk to datasets."""

from sprec.data.catalog import Catalog
from sprec.data.dataset import SPLITS, Dataset, Example, Split, Wording

__all__ = ["SPLITS", "Catalog", "Dataset", "Example", "Split", "Wording"]
