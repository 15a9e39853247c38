import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sprec.cli.data import app
from sprec.data import Dataset
from sprec.data.readers.sprec import read
from sprec.system.errors import UserError

run = CliRunner()


def test_import_stats_and_json(layout: Callable[..., Path], tmp_path: Path) -> None:
    rows = [(["Dune"], "Emma"), (["Emma"], "Dune")]
    source = layout({"Dune": ["sci-fi"], "Emma": ["romance"]}, train=rows, test=rows)
    output = tmp_path / "books"
    command = ["import", "sprec", str(source), "-o", str(output), "--genre", "romance", "--genre", "sci-fi"]
    assert run.invoke(app, command, catch_exceptions=False).exit_code == 0
    assert Dataset.load(output).genres == ("romance", "sci-fi")
    printed = run.invoke(app, ["stats", str(output)], catch_exceptions=False)
    assert printed.stdout.startswith("Books\n")
    facts = json.loads(run.invoke(app, ["stats", str(output), "--json"], catch_exceptions=False).stdout)
    assert facts["table1"] == {"items": 2, "interactions": 8, "sequences": 4}


def test_what_is_undefined_is_null_in_json(layout: Callable[..., Path], tmp_path: Path) -> None:
    rows = [(["Dune"], "Emma"), (["Emma"], "Dune")]
    whole = read(layout({"Dune": [], "Emma": []}, train=rows, test=rows), "Books")
    replace(whole, splits={"train": whole.train}).save(tmp_path / "untested")
    printed = run.invoke(app, ["stats", str(tmp_path / "untested"), "--json"], catch_exceptions=False)
    assert json.loads(printed.stdout, parse_constant=pytest.fail)["leakage"] == {"run": 4, "rows": 0, "share": None}


def test_demo_is_written_and_not_overwritten_unasked(tmp_path: Path) -> None:
    output = str(tmp_path / "demo")
    assert run.invoke(app, ["demo", "-o", output, "--seed", "3"], catch_exceptions=False).exit_code == 0
    with pytest.raises(UserError, match="demo already exists"):
        run.invoke(app, ["demo", "-o", output], catch_exceptions=False)
    run.invoke(app, ["demo", "-o", output, "--overwrite"], catch_exceptions=False)
    assert Dataset.load(output).meta["source"] == {"format": "demo", "seed": 0}


def test_an_unknown_format_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'unknown format "csv"; formats: sprec, movielens, .*table$'):
        run.invoke(app, ["import", "csv", str(tmp_path), "-o", str(tmp_path / "out")], catch_exceptions=False)
    assert not (tmp_path / "out").exists()


def shop(folder: Path) -> list[str]:
    rows = [f"{user},{(user + i) % 7},{i},{i % 5}" for user in range(20) for i in range(14)]
    (folder / "log.csv").write_text("customer,sku,at,stars\n" + "\n".join(rows) + "\nx,,,\n")
    items = [f"{i},Thing {i},{'odd' if i % 2 else 'even'};all" for i in range(7)]
    (folder / "items.csv").write_text("sku,name,kind\n" + "\n".join(items))
    columns = "user=customer,item=sku,time=at,rating=stars,title=name,genres=kind"
    return ["import", "table", str(folder / "log.csv"), "--items", str(folder / "items.csv"), "--columns", columns]


def test_every_option_of_a_log_reaches_the_dataset(tmp_path: Path) -> None:
    options = "--history 4 --min-history 2 --min-length 5 --min-rating 1 --core 3 --repeats first --drop-seen-targets"
    options += " --ties shuffle --drop-untitled"
    options += " --windows sliding --split user --shares 6:2:2 --train 30 --valid 5 --test 6 --extra 7 --seed 3"
    options += " --top-genres 2 --exclude-genre odd --keep-parents --max-title 50 --distinguish id --no-unseen"
    options += " --noun tools --verb used --genre-separator ; --name shop"
    command = [*shop(tmp_path), *options.split(), "-o", str(tmp_path / "out")]
    done = run.invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0
    dataset = Dataset.load(tmp_path / "out")
    assert dataset.name == "shop"
    assert dataset.genres == ("all", "even")
    assert dataset.wording.prefix == "The user has used the following tools before: "
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 30,
        "valid": 5,
        "test": 6,
        "extra": 7,
    }
    assert dataset.meta["options"] == {
        "history": 4,
        "min_history": 2,
        "min_length": 5,
        "min_rating": 1.0,
        "core": 3,
        "repeats": "first",
        "ties": "shuffle",
        "drop_seen_targets": True,
        "windows": "sliding",
        "split": "user",
        "shares": [0.6, 0.2, 0.2],
        "sizes": {"train": 30, "valid": 5, "test": 6, "extra": 7},
        "seed": 3,
        "max_title": 50,
        "distinguish": "id",
        "drop_untitled": True,
        "unseen_items": False,
        "genres": None,
        "top": 2,
        "exclude": ["odd"],
        "drop_parents": False,
    }
    assert dataset.meta["malformed"] == ["log.csv:282: user='x', item=None, time=None"]
    assert dataset.warnings["interactions_dropped_without_item"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shares", "8:2"], "--shares takes train:valid:test like 8:1:1, got '8:2'"),
        (["--split", "leave-one-out", "--shares", "8:1:1"], "--shares does not apply to --split leave-one-out"),
        (["--core", "2", "--unseen"], "--core leaves no items without interactions"),
        (["--columns", "buyer=customer"], "--columns takes detail, genres, item, key, .* got buyer=customer"),
        (["--columns", "user=buyer,item=sku,time=at"], 'has no column "buyer"; columns: customer, sku, at, stars'),
    ],
)
def test_impossible_options_are_one_line(tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run.invoke(app, [*shop(tmp_path), *options, "-o", str(tmp_path / "out")], catch_exceptions=False)
    assert not (tmp_path / "out").exists()


def test_options_of_logs_are_refused_for_records(tmp_path: Path) -> None:
    command = ["import", "sprec", str(tmp_path), "-o", str(tmp_path / "out"), "--history", "5"]
    with pytest.raises(UserError, match="--history does not apply to sprec"):
        run.invoke(app, command, catch_exceptions=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--repeats first", "--repeats does not apply to RecBole's benchmark files: their rows are windows already"),
        ("--train 4096", "--train does not apply to RecBole"),
        ("--max-title 9 --distinguish id", "--distinguish does not apply to RecBole"),
        ("--items x.csv", "--items does not apply to RecBole"),
    ],
)
def test_options_of_logs_are_refused_for_windows(tmp_path: Path, options: str, message: str) -> None:
    run.invoke(app, ["demo", "-o", str(tmp_path / "demo")], catch_exceptions=False)
    source, output = str(tmp_path / "windows"), tmp_path / "out"
    run.invoke(app, ["export", str(tmp_path / "demo"), "-o", source, "--format", "recbole"], catch_exceptions=False)
    command = ["import", "recbole", source, "-o", str(output)]
    with pytest.raises(UserError, match=message):
        run.invoke(app, [*command, *options.split()], catch_exceptions=False)
    assert not output.exists()
    done = run.invoke(app, [*command, "--top-genres", "3", "--noun", "films", "--name", "x"], catch_exceptions=False)
    assert done.exit_code == 0
    assert len(Dataset.load(output).genres) == 3


@pytest.mark.parametrize("option", ["--items", "--columns", "--genre-separator"])
@pytest.mark.parametrize("format", ["movielens", "goodreads", "amazon", "steam", "recbole"])
def test_options_of_tables_are_refused_for_other_formats(tmp_path: Path, format: str, option: str) -> None:
    command = ["import", format, str(tmp_path), "-o", str(tmp_path / "out"), option, "x"]
    with pytest.raises(UserError, match=f"{option} does not apply to {format}, only to table"):
        run.invoke(app, command, catch_exceptions=False)


@pytest.mark.parametrize("command", [["demo"], ["import", "table", "log.csv"]])
def test_a_negative_seed_is_refused(tmp_path: Path, command: list[str]) -> None:
    done = run.invoke(app, [*command, "-o", str(tmp_path / "out"), "--seed", "-1"])
    assert done.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_looking_at_data_never_imports_torch(tmp_path: Path) -> None:
    run.invoke(app, ["demo", "-o", str(tmp_path / "demo")], catch_exceptions=False)
    code = (
        "import sys; from sprec.cli.data import app; assert 'polars' not in sys.modules;"
        f"app(['stats', {str(tmp_path / 'demo')!r}], standalone_mode=False); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "365" in done.stdout


def test_a_negative_number_of_genres_is_refused(tmp_path: Path) -> None:
    done = run.invoke(app, ["import", "table", "log.csv", "-o", str(tmp_path / "out"), "--top-genres", "-1"])
    assert done.exit_code == 2
    assert "--top-genres" in done.output
    assert "greater than or equal to 0" in done.output


def test_nothing_of_a_log_reaches_the_terminal_as_a_command(tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07\x1b[31m\u202eX\x9b2J"
    log = "".join(f"u{i % 3}\t{'ab'[i % 2]}\t{i}\n" for i in range(20)) + f"{evil}\ta\t{evil}\n"
    (tmp_path / "log.tsv").write_text(f"user\titem\ttime\n{log}", "utf-8")
    items = f"item\ttitle\tgenres\na\t{evil} Tea\t{evil}g\nb\tPot\tg\n"
    (tmp_path / "items.tsv").write_text(items, "utf-8")
    command = ["import", "table", str(tmp_path / "log.tsv"), "--items", str(tmp_path / "items.tsv")]
    command += ["-o", str(tmp_path / "out"), "--min-history", "1", "--min-length", "1"]
    done = run.invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0
    shown = done.output + run.invoke(app, ["stats", str(tmp_path / "out")], catch_exceptions=False).output
    assert "malformed: log.tsv:22:" in shown
    assert not set(shown) & set("\x1b\x07\x9b\u202e")
    dataset = Dataset.load(tmp_path / "out")
    assert dataset.catalog.titles == ("X Tea", "Pot")
    assert set(dataset.genres) == {"Xg", "g"}
