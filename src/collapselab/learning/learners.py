"""Learners turn a generation's training set into a model: peers with the methods `train` and `pace`."""

from collapselab.learning.counter import CountLearner
from collapselab.learning.trainer import Trainer

Learner = Trainer | CountLearner
LEARNERS: dict[str, type[Learner]] = {"trainer": Trainer, "counter": CountLearner}  # by `Family.learner`
