"""Reduce ml-latest-small to what the demo needs: ``python reduce.py ml-latest-small examples/movielens-small``.

Kept are ratings of four stars and more, then films with at least 15 of them, then people with at least eleven; and the
films that are left.
"""

import sys
from pathlib import Path

import polars as pl

STARS, PEOPLE, FILMS = 4.0, 15, 11


def reduced(ratings: pl.DataFrame, movies: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The ratings that are kept, person by person in their order, and their films."""
    liked = ratings.filter(pl.col("rating") >= STARS)
    known = liked.filter(pl.len().over("movieId") >= PEOPLE)
    kept = known.filter(pl.len().over("userId") >= FILMS).sort("userId", "timestamp", maintain_order=True)
    return kept, movies.join(kept.select("movieId").unique(), on="movieId", how="semi")


def main() -> None:
    """Read a folder, write another one."""
    source, target = map(Path, sys.argv[1:])
    ratings, movies = reduced(pl.read_csv(source / "ratings.csv"), pl.read_csv(source / "movies.csv"))
    ratings.write_csv(target / "ratings.csv")
    movies.write_csv(target / "movies.csv")


if __name__ == "__main__":
    main()
