"""What makes a generation's model from its training set: peers with the methods `train` and `pace`."""

from collapselab.learning.counter import Counter
from collapselab.learning.trainer import Trainer

Learner = Trainer | Counter
LEARNERS: dict[str, type[Learner]] = {"trainer": Trainer, "counter": Counter}  # by `Family.learner`
