"""The stages of a generation: what each reads, how it is made, and when it is made again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from collapselab import seeds
from collapselab.config import RunConfig, UserError
from collapselab.corpus.prepared import Corpus
from collapselab.evaluation import generation as evaluation
from collapselab.evaluation.protocol import METRICS_VERSION
from collapselab.learning.trainer import Counter, Trainer, write_log
from collapselab.mixing import sets
from collapselab.models import network, pretrained
from collapselab.runtime.console import Console
from collapselab.runtime.parallel import Processes
from collapselab.sampling.continuations import write_continuations
from collapselab.sampling.sampler import Sampler
from collapselab.store import folders
from collapselab.store.checks import reading
from collapselab.store.layout import Chain, parent_of
from collapselab.store.lock import check_held
from collapselab.store.unfinished import Unfinished


def check_version(chain: Chain) -> None:
    """Scores that were published are not replaced because the definitions have moved on."""
    manifest = folders.manifest_of(chain.stage(0, "eval"), check="nothing")
    found = manifest and manifest["inputs"].get("metrics")
    if found and found != str(METRICS_VERSION):
        raise UserError(
            f"{chain.root}: scored by version {found} of the metrics, this is {METRICS_VERSION}; `collapselab eval` scores it "
            "anew beside; to go on with it, remove its reference/ and gen_*/eval (or fork it under another name)"
        )


class Stages:
    """The five stages of a generation, each from published folders to a folder.

    What passes from one generation to the next are those folders. The trainer, the sampler and the model that is read
    back live as long as the process and are refilled in place, for compiling and allocating take longer than copying."""

    def __init__(
        self, chain: Chain, config: RunConfig, corpus: Corpus, budget: int, processes: Processes, console: Console
    ):
        self.chain, self.config, self.corpus, self.budget = chain, config, corpus, budget
        self.processes, self.console = processes, console
        self.g = 0  # the generation at hand
        self.scores: str | None = None  # name of later scores, which have places of their own
        counts = config.model.family == "bigram"
        self.trainer = Counter(config) if counts else Trainer(config, processes, console)
        self.sampler = Sampler(config, processes, console, chain.batch_file)
        self.published = network.Published(config.model.pad_vocabulary, corpus.tokenizer)
        self.published_0 = network.Published(config.model.pad_vocabulary, corpus.tokenizer)  # generation 0's
        self.unfinished: Unfinished  # what the stage at hand has made so far
        self.base: tuple[network.LanguageModel, str] | None = None  # start weights that do not change, their digest

    def do(self, name: str, make: Callable[[Path], None]) -> bool:
        """Publishes a stage unless it is there, made from what is there now. Returns whether it was made."""
        self.processes.agree_to_go_on()
        place, inputs = self.place(name), self.inputs(name)
        manifest, flaw = folders.examine(place) if self.processes.is_main else (None, "")
        if self.processes.share(manifest is not None and manifest["inputs"] == inputs):
            if self.processes.is_main:  # a process may have been killed before it could
                Unfinished(place, inputs).clear()
            return False
        if not manifest and not flaw and self.lost(name):
            flaw = "is missing"
        with self.processes.main_first():
            check_held()
            inherited = self.processes.is_main and self.inherited(name, inputs, flaw)
        if self.processes.share(inherited):
            return True
        if manifest or flaw:
            self.console.say(f"{place}: {flaw or 'what it was made from has changed'}; made again")
        self.restore(name)
        self.publish(place, inputs, make)
        self.console.record(f"{place} published")
        return True

    def publish(self, place: Path, inputs: dict[str, str], make: Callable[[Path], None]) -> None:
        """Has every process take part in making a stage; process 0 writes it."""
        self.unfinished = Unfinished(place, inputs)
        if self.processes.is_main:
            with folders.publishing(place, inputs=inputs) as out:
                make(out)
                check_held()
            self.unfinished.clear()
        else:
            make(Path(os.devnull))
        self.processes.barrier()

    def lost(self, name: str) -> bool:
        """Whether a stage that is not there has been: something that came after it is there."""
        names = ("mixture", "train", "samples", *(("reference",) if self.g == 0 else ()), "eval")
        later = [self.chain.stage(self.g, s) for s in names[names.index(name) + 1 :]]
        return self.scores is None and any(p.exists() for p in [*later, self.chain.generation(self.g + 1)])

    def inherited(self, name: str, inputs: dict[str, str], flaw: str) -> bool:
        """Copies a damaged stage that a fork has taken along from its parent again; by the fork's settings it would become
        another one. Whether there was one; raises UserError where the parent no longer has it."""
        origin = self.chain.root / "fork.json"
        if not flaw or self.scores or not origin.is_file() or self.g > (known := folders.read_json(origin))["at"]:
            return False
        place, theirs = self.place(name), Chain(parent_of(self.chain.root, known)).stage(self.g, name)
        manifest = folders.manifest_of(theirs)
        if manifest is None or manifest["inputs"] != inputs:
            raise UserError(f"{place}: {flaw}; it was forked: put back what was in {theirs} then, or fork again")
        self.console.say(f"{place}: {flaw}; copied again from {theirs}")
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(theirs, place, symlinks=True)
        return True

    # --- weights that are not kept --------------------------------------------------------------------------------

    def prune(self) -> None:
        """Removes weights by `retain`, now that this generation is finished: of those between generation 0 and this one."""
        if not self.processes.is_main or self.config.retain == "all":
            return
        if self.g == self.config.generations > 0 and self.config.retain == "ends":
            folders.amend(self.chain.stage(self.g, "train"), end=True)
        for g in range(1, self.g):
            place = self.chain.stage(g, "train")
            manifest = folders.manifest_of(place, check="nothing") or {"files": {}}
            keeps = self.config.retain == "ends" and manifest.get("end")
            weights = [name for name in manifest["files"] if name.endswith(".safetensors")]
            if not keeps and any((place / name).exists() for name in weights):
                folders.prune(place, weights)
                self.console.record(f"{place}: weights pruned (retain={self.config.retain})")

    def restore(self, name: str) -> None:
        """Trains the weights that a stage reads again where they were pruned, to the bit.

        Raises UserError where that is not possible: on a GPU without deterministic=true, say."""
        before = self.g - 1 if self.config.model.start == "previous" else 0
        at = {"train": before, "samples": self.g, "eval": self.g}.get(name, 0)
        place = self.chain.stage(at, "train")
        manifest = folders.manifest_of(place, check="nothing") if at > 0 else None
        if manifest is None or not manifest.get("pruned"):
            return
        self.console.say(f"{place}: its weights were pruned and are needed; trained again")
        here, self.g = self.g, at
        self.restore("train")
        again = place.with_name("train.again")
        self.publish(again, self.inputs("train"), self.train)
        self.prune()  # those that were only needed to train these
        self.g = here
        with self.processes.main_first():
            if self.processes.is_main:
                self.put_back(again, place, manifest)

    def put_back(self, again: Path, place: Path, manifest: dict[str, Any]) -> None:
        """Moves weights that were trained again to the stage that they were pruned from."""
        made = folders.read_json(again / "manifest.json")["files"]
        if any(made.get(file) != manifest["files"][file] for file in manifest["pruned"]):
            shutil.rmtree(again)
            raise UserError(
                f"{place}: its weights were pruned, and training does not give the same ones again here; "
                f"remove {place.parent} and all later generations to have them made anew, or fork"
            )
        for file in manifest["pruned"]:
            (again / file).replace(place / file)
        folders.amend(place, pruned=[])
        shutil.rmtree(again)

    # --- what a stage is made from, and how -----------------------------------------------------------------------

    def place(self, name: str) -> Path:
        if self.scores and name in ("reference", "eval"):
            return self.chain.rescored(self.g, self.scores, name)
        return self.chain.stage(self.g, name)

    def inputs(self, name: str) -> dict[str, str]:
        """Digests of what a stage is made from."""
        of, g = self.chain.digest_of, self.g
        if name == "mixture":
            before = {"previous_mixture": of(g - 1, "mixture"), "samples": of(g - 1, "samples")} if g else {}
            return {"corpus": self.corpus.digest, **before}
        if name == "train":
            previous = {"previous": of(g - 1, "train")} if g and self.config.model.start == "previous" else {}
            return {"mixture": of(g, "mixture"), **previous}
        if name == "samples":
            return {"train": of(g, "train")}
        version = {"metrics": str(METRICS_VERSION), "train_0": of(0, "train")}
        if name == "reference":
            return {"corpus": self.corpus.digest, "mixture": of(0, "mixture"), **version}
        return {"train": of(g, "train"), "samples": of(g, "samples"), **version}

    def mix(self, out: Path) -> None:
        if self.processes.is_main:
            sets.mix(self.config, self.chain, self.g, self.corpus.train, self.corpus.digest, out)

    def start(self) -> tuple[network.LanguageModel, str]:
        """The weights this generation starts from, and their digest."""
        config, start = self.config.model, self.config.model.start
        previous = self.chain.stage(self.g - 1, "train") if start == "previous" and self.g else None
        if self.base is not None and start == "base":
            return self.base
        seed = seeds.derive(self.config.seed, self.g if start == "scratch" else 0, "weights")
        block, tokenizer = self.config.training.block, self.corpus.tokenizer
        model = network.start_weights(config, previous=previous, tokenizer=tokenizer, block=block, seed=seed)
        self.base = model, network.weights_digest(model)
        return self.base

    def train(self, out: Path) -> None:
        config, start = self.config.model, self.config.model.start
        model, started_from = self.start()
        if self.g and start == "base":
            facts_0 = self.chain.stage(0, "train") / "collapselab.json"
            found = folders.read_json(facts_0)
            with reading(facts_0):
                began = found["started_from"]
            if started_from != began:
                raise UserError(
                    f"model.pretrained={config.pretrained!r}: other weights than generation 0 started from; restore them"
                )
        data = sets.TrainingSet(self.config, self.chain, self.g, self.corpus.train)
        facts = self.trainer.train(model, data, self.g, self.unfinished)
        if self.processes.is_main:
            write_log(facts.pop("log"), out / "log.jsonl")
            facts |= {"generation": self.g, "started_from": started_from}
            base = config.pretrained if start != "scratch" else None
            if base is None or pretrained.has_seen_only(base, self.corpus):
                facts["training_text"] = self.corpus.train_digest  # all that its weights have ever seen
            network.publish(self.trainer.model, self.corpus.tokenizer, out, facts)

    def model(self) -> network.LanguageModel:
        """The model of this generation, as it was published."""
        return self.published.read(self.chain.stage(self.g, "train"), self.chain.digest_of(self.g, "train"))

    def sample(self, out: Path) -> None:
        text_of = self.g if self.config.sampling.prompt_from == "previous" else 0
        text = sets.TrainingSet(self.config, self.chain, text_of, self.corpus.train)
        tokenizer, model = self.corpus.tokenizer, self.model()
        self.sampler.sample(
            model,
            self.g,
            text,
            self.budget,
            separator=tokenizer.separator,
            ends=tokenizer.ends,
            out=out,
            unfinished=self.unfinished,
        )
        if self.processes.is_main:
            write_continuations(model, self.corpus, self.config, self.sampler.precision, self.processes, out)

    def reference(self, out: Path) -> None:
        training_0 = sets.TrainingSet(self.config, self.chain, 0, self.corpus.train)
        evaluation.publish_reference(
            self.model(), self.corpus, self.config, training=training_0, budget=self.budget,
            out=out, processes=self.processes, console=self.console,
        )  # fmt: skip

    def evaluate(self, out: Path) -> None:
        model = self.model()
        base = (
            self.published_0.read(self.chain.stage(0, "train"), self.chain.digest_of(0, "train")) if self.g else model
        )
        evaluation.evaluate(
            model, base, self.corpus, self.config, self.g, chain=self.chain, samples=self.place("samples"),
            reference=self.place("reference"), mixture=sets.read_mixture(self.place("mixture")),
            out=out, processes=self.processes, console=self.console,
        )  # fmt: skip
