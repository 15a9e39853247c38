"""``sprec`` that says which engine DeepSpeed made; ``DS_ACCELERATOR=cpu`` lets it run without a GPU."""

from typing import Any

import deepspeed

from sprec.cli import main

initialize = deepspeed.initialize


def counted(*arguments: Any, **options: Any) -> Any:
    made = initialize(*arguments, **options)
    print(f"ZeRO stage: {made[0].zero_optimization_stage()}", flush=True)
    return made


deepspeed.initialize = counted

if __name__ == "__main__":
    main()
