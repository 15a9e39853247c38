"""The shipped configurations of ``accelerate launch`` load, say what they are for and name commands that exist."""

from pathlib import Path

import pytest
from accelerate.commands.config import load_config_from_file
from accelerate.utils import DistributedType

from sprec.runs.recipes import launchers, names, text
from toy_runs import Cli

TYPES = {
    "accelerate/cpu": DistributedType.MULTI_GPU,
    "accelerate/ddp": DistributedType.MULTI_GPU,
    "accelerate/deepspeed-zero2": DistributedType.DEEPSPEED,
    "accelerate/fsdp2": DistributedType.FSDP,
}


def test_all_launchers_are_tested() -> None:
    assert launchers() == sorted(TYPES)
    assert not set(launchers()) & set(names())


@pytest.mark.parametrize("name", TYPES)
def test_accelerate_reads_them(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text(name))
    config = load_config_from_file(str(tmp_path / "config.yaml"))
    assert config.distributed_type == TYPES[name]
    assert config.mixed_precision == "no", "the precision is the recipe's"
    assert config.use_cpu == (name == "accelerate/cpu")
    assert text(name).splitlines()[1] == f"# sprec recipes cp {name} {name.split('/')[1].split('-')[-1]}.yaml"


def test_special_settings_reach_accelerate(tmp_path: Path) -> None:
    for name in ("fsdp2", "deepspeed-zero2"):
        (tmp_path / name).write_text(text(f"accelerate/{name}"))
    assert load_config_from_file(str(tmp_path / "fsdp2")).fsdp_config["fsdp_version"] == 2
    assert load_config_from_file(str(tmp_path / "deepspeed-zero2")).deepspeed_config["zero_stage"] == 2


def test_they_are_listed_and_copied(cli: Cli, tmp_path: Path) -> None:
    assert "accelerate/fsdp2 " in cli("recipes", "ls").stdout
    done = cli("recipes", "cp", "accelerate/fsdp2", tmp_path / "fsdp2.yaml")
    assert f"accelerate launch --config_file {tmp_path / 'fsdp2.yaml'} -m sprec run RECIPE" in done.stdout
    assert (tmp_path / "fsdp2.yaml").read_text() == text("accelerate/fsdp2")
    refused = cli("recipes", "cp", "accelerate/ddp", tmp_path / "missing" / "ddp.yaml", code=2)
    assert "No such file or directory" in refused.stderr
