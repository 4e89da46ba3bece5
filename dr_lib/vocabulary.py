"""The field's constants, each once. Imports nothing of the house, so that every package may use it.

Stages follow the international clinical scale of diabetic retinopathy (Wilkinson et al., 2003),
lesion types the masks of IDRiD and its like, quadrants the halves around the fovea.
"""

from typing import Literal, get_args

STAGE_COUNT = 5
STAGES = range(STAGE_COUNT)
STAGE_NAMES = ("none", "mild", "moderate", "severe", "proliferative")
STAGE_QUANTITIES: tuple[str, ...] = ("stage0", "stage1", "stage2", "stage3", "stage4")
PROBABILITIES = [f"probability_{name}" for name in STAGE_QUANTITIES]
"""The columns of tables that hold the stages' probabilities."""
REFERABLE = 2
"""The lowest stage that is referred to an ophthalmologist."""
HALF_GRAY = 128
"""The grey level without information: 0 once an image is scaled (METHOD §2)."""
Sign = Literal["positive", "negative"]
SIGNS: tuple[Sign, ...] = get_args(Sign)
LesionType = Literal[
    "microaneurysm",
    "haemorrhage",
    "hard_exudate",
    "soft_exudate",
    "new_vessels",
    "preretinal_haemorrhage",
]
LESION_TYPES: tuple[LesionType, ...] = get_args(LesionType)
Quadrant = Literal["superior_temporal", "superior_nasal", "inferior_temporal", "inferior_nasal"]
QUADRANTS: tuple[Quadrant, ...] = get_args(Quadrant)
