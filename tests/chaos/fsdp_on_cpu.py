"""``sprec`` under FSDP2 on CPUs: accelerate shards on accelerators only, so it is told that these are some."""

import atexit
import os

os.environ |= {
    "ACCELERATE_TORCH_DEVICE": "cpu",
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_OFFLOAD_PARAMS": "false",
}

from typing import Any

import torch.distributed as dist
from accelerate import PartialState, accelerator
from accelerate.utils import DistributedType

from sprec.cli import main
from sprec.engine.model.sharding import sharded

PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
shard = accelerator.fsdp2_prepare_model


def counted(*arguments: Any) -> Any:
    model = shard(*arguments)
    print(f"sharded: {sharded(model)}")
    return model


accelerator.fsdp2_prepare_model = counted

if __name__ == "__main__":
    dist.init_process_group("gloo")
    atexit.register(dist.destroy_process_group)
    main()
