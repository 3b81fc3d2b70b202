"""Settings of a chain (run.py), of its parts, and of a command line. No library is imported here."""

from collapselab.config.corpus import CorpusConfig
from collapselab.config.generations import MixingConfig, SamplingConfig
from collapselab.config.judging import JudgingConfig
from collapselab.config.learning import ModelConfig, TrainingConfig
from collapselab.config.policy import PolicyConfig
from collapselab.config.run import RunConfig
from collapselab.config.scores import EvaluationConfig, TrackingConfig
from collapselab.config.values import UserError, as_dict, digest, first_line

__all__ = [
    "CorpusConfig", "EvaluationConfig", "JudgingConfig", "MixingConfig", "ModelConfig", "PolicyConfig", "RunConfig",
    "SamplingConfig", "TrackingConfig", "TrainingConfig", "UserError", "as_dict", "digest", "first_line",
]  # fmt: skip
