"""The recipe's settings reach the objective that is trained."""

import pytest
import torch

from sprec.config import Prefer
from sprec.engine.layout.groups import PromptGroup, collate
from sprec.runs.stages import preference


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # ratios to the reference 0.5, -0.5 and -1.5, so margins 1 and 2; beta 1 unless said
        ({"objective": "dmpo"}, 0.201413),  # -log sigmoid((1 + 2) / 2)
        ({"objective": "dmpo", "reduction": "sum"}, 0.048587),  # -log sigmoid(1 + 2)
        ({"objective": "sdpo"}, 0.407606),  # log(1 + e^-1 + e^-2)
        ({"objective": "sdpo", "beta": 0.1}, 1.001943),  # log(1 + e^-0.1 + e^-0.2)
        ({"objective": "weighted-dpo"}, 0.086756),  # (1/4 log(1 + e^-1) + 3/4 log(1 + e^-2)) / 2
    ],
)
def test_each_objective_has_its_formula_and_its_settings(settings: dict[str, object], expected: float) -> None:
    policy = torch.tensor([[-1.0, -2.0, -4.0]])
    batch = collate(
        [PromptGroup([1], ([2], [3], [4]))],
        {"reference": torch.tensor([[-1.5, -1.5, -2.5]]), "log_weights": torch.tensor([[0.25, 0.75]]).log()},
    )
    objective = preference(Prefer.model_validate({"beta": 1.0, **settings}))
    assert objective.loss(policy, batch).tolist() == pytest.approx([expected], abs=1e-6)
