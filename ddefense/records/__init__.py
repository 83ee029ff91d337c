"""Results as data: what experiments write and reporting reads."""

from ddefense.records.results import (
    SCHEMA_VERSION,
    AttackRecord,
    DatasetRecord,
    ExportRecord,
    GradientRecord,
    GradientsRecord,
    InitialRecord,
    LayerRecord,
    LogitRecord,
    NetworkRecord,
    Results,
    RobustnessRecord,
    RunError,
    SoftLabelRecord,
    TrainingRecord,
    dump,
    load,
)
from ddefense.records.samples import AttackOutcome, Samples

__all__ = [
    "SCHEMA_VERSION",
    "AttackOutcome",
    "AttackRecord",
    "DatasetRecord",
    "ExportRecord",
    "GradientRecord",
    "GradientsRecord",
    "InitialRecord",
    "LayerRecord",
    "LogitRecord",
    "NetworkRecord",
    "Results",
    "RobustnessRecord",
    "RunError",
    "Samples",
    "SoftLabelRecord",
    "TrainingRecord",
    "dump",
    "load",
]
