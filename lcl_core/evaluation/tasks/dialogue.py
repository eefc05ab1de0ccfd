"""Dialogue: align a projector on captions, train it on conversations, answer benchmark questions (paper, dialogue)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from lcl_core.common.errors import UserError
from lcl_core.data import Corpus
from lcl_core.evaluation.benchmarks.base import AnsweredQuestion
from lcl_core.evaluation.features import EvaluatedEncoder
from lcl_core.evaluation.heads.training import FEATURE_SOURCES, ImageBatchSource, count_examples
from lcl_core.evaluation.results import PredictionFile, loss_curve
from lcl_core.evaluation.tasks.base import DatasetResolver, EvalContext, EvalImage, Task
from lcl_core.evaluation.vlm.benchmark import BenchmarkSet
from lcl_core.evaluation.vlm.captioning import CaptionExample, caption_examples
from lcl_core.evaluation.vlm.chat_format import TokenSequence, caption_tokens, conversation_tokens
from lcl_core.evaluation.vlm.instruction_data import FIELD, Conversations, DialoguePlan, plan_dialogue
from lcl_core.evaluation.vlm.language_model import LanguageModelFiles, resolve_language_model
from lcl_core.evaluation.vlm.model import VisionLanguageModel, VLMExample, build_vlm, save_vlm
from lcl_core.specs.evaluate import DialogueSpec, EvaluateSpec, StageSpec, Transfer

# rough costs in embedded images: training on a caption and on a conversation once, an answer
ALIGN_COST, INSTRUCT_COST, ANSWER_COST = 20.0, 60.0, 20.0


@dataclass(frozen=True)
class DialogueTraining:
    """Two-stage training of one encoder in one protocol, and its answers."""

    context: EvalContext
    encoder: EvaluatedEncoder
    transfer: Transfer
    files: LanguageModelFiles
    spec: DialogueSpec

    def train(
        self,
        corpus: Corpus,
        images: list[EvalImage],
        captions: Sequence[CaptionExample],
        conversations: Conversations,
    ) -> VisionLanguageModel:
        """Stage one trains the projector alone on captions, in both protocols; stage two trains on conversations.

        Args:
            corpus, images, captions: of stage one.
            conversations: those without an image are used only where the language model is trained.
        """
        spec, language = self.spec, self.spec.language_model
        vlm = build_vlm(
            self.context, self.encoder, self.transfer, self.files, language,
            augmentation=spec.instruct.augmentation, precision=spec.instruct.precision, field=f"{FIELD}.language_model",
        )  # fmt: skip
        model, max_tokens = vlm.llava.language, language.max_tokens
        frozen = FEATURE_SOURCES["frozen"](self.context, self.encoder, spec.align.augmentation)
        aligned = [VLMExample(caption_tokens(model, "", text).cut(max_tokens), row) for row, text in captions]
        batches = frozen.batches(spec.train_split, images, corpus)
        self._train_stage(
            replace(vlm, source=frozen, language_lr=None), batches, aligned, spec.align, "align", ALIGN_COST
        )
        instructed = [
            VLMExample(conversation_tokens(model, each.turns, language.layout).cut(max_tokens), row)
            for each, row in zip(conversations.conversations, conversations.rows, strict=True)
            if row is not None or vlm.language_lr is not None
        ]
        batches = vlm.source.batches("conversations", conversations.images, conversations.corpus)
        self._train_stage(
            vlm, batches, instructed, spec.instruct.for_protocol(self.transfer), "instruct", INSTRUCT_COST
        )
        return vlm

    def _train_stage(
        self,
        vlm: VisionLanguageModel,
        batches: ImageBatchSource,
        examples: Sequence[VLMExample],
        spec: StageSpec,
        stage: str,
        cost: float,
    ) -> None:
        context = self.context
        context.progress.enter(f"{self.encoder.role} encoder: {self.transfer} transfer to dialogue, {stage}")
        losses = vlm.train(
            batches, examples, spec, seed=context.spec.seed, field=f"{FIELD}.{stage}",
            on_step=lambda count: context.progress.add(cost * count),
        )  # fmt: skip
        labels: dict[str, Any] = {"task": FIELD, "transfer": self.transfer, "encoder": self.encoder.role}
        context.curves.add({**labels, "variant": stage, **loss_curve(losses)})

    def answer(self, vlm: VisionLanguageModel, benchmark: BenchmarkSet) -> list[AnsweredQuestion]:
        """The answers to a benchmark; equal questions about one image are answered once."""
        layout, context = self.spec.language_model.layout, self.context
        prompts = [conversation_tokens(vlm.llava.language, [turn], layout) for turn in benchmark.turns]
        keys = [(int(row), prompt) for row, prompt in zip(benchmark.rows, prompts, strict=True)]
        index: dict[tuple[int, TokenSequence], int] = {}
        for key in keys:
            index.setdefault(key, len(index))
        batches = vlm.source.batches(benchmark.benchmark, benchmark.images, benchmark.corpus)
        context.progress.enter(f"{self.encoder.role} encoder: {self.transfer} transfer answers {benchmark.benchmark}")
        cost = ANSWER_COST * len(keys) / len(index)
        answers = vlm.generate(
            batches, np.array([row for row, _ in index]), [prompt for _, prompt in index], self.spec.decoding,
            seed=context.spec.seed, on_batch=lambda count: context.progress.add(cost * count),
        )  # fmt: skip
        return [
            AnsweredQuestion(question, answers[index[key]])
            for question, key in zip(benchmark.questions, keys, strict=True)
        ]


@dataclass(frozen=True)
class Dialogue(Task):
    """Two training stages and then benchmarks, frozen or full.

    Attributes:
        corpus, train: captioned images of stage one.
        data: conversations of stage two, and benchmarks.
    """

    name = FIELD

    spec: DialogueSpec
    transfer: tuple[Transfer, ...]
    files: LanguageModelFiles
    corpus: Corpus
    train: list[EvalImage]
    data: DialoguePlan

    @classmethod
    def plan(cls, spec: EvaluateSpec, corpus: Corpus, resolver: DatasetResolver) -> Self:
        own = spec.dialogue
        files = resolve_language_model(own.language_model, field=f"{FIELD}.language_model")
        train_corpus = resolver.train_corpus(spec, own, corpus, FIELD)
        train = resolver.train_images(
            spec, own.train_split, corpus, train_corpus, field=FIELD, tested=not own.benchmarks
        )
        if not caption_examples(train, None):
            raise UserError(
                f"split {own.train_split!r} has no captions to learn", code="nothing_to_learn",
                field=f"{FIELD}.train_split",
            )  # fmt: skip
        tests = {} if own.benchmarks else resolver.test_images(spec, corpus)
        data = plan_dialogue(spec, train, train_corpus, tests, corpus)
        return cls(own, spec.protocols(own), files, train_corpus, train, data)

    @property
    def needs_patch_features(self) -> bool:
        return True  # stage one uses frozen features in both protocols

    @property
    def captions(self) -> list[CaptionExample]:
        """The examples of stage one."""
        return caption_examples(self.train, None)

    def cost(self) -> float:
        conversations, benchmarks = self.data.conversations, self.data.benchmarks
        images = len(self.train) + len(conversations.images) + sum(len(each.images) for each in benchmarks)
        training = ALIGN_COST * count_examples(self.spec.align, len(self.captions))
        training += INSTRUCT_COST * count_examples(self.spec.instruct, len(conversations.conversations))
        answers = ANSWER_COST * sum(len(each.questions) for each in benchmarks)
        return len(self.transfer) * (images + training + answers)

    def run(self, context: EvalContext, encoder: EvaluatedEncoder) -> None:
        self.data.write(context.artifacts / "derived")
        for transfer in self.transfer:
            training = DialogueTraining(context, encoder, transfer, self.files, self.spec)
            vlm = training.train(self.corpus, self.train, self.captions, self.data.conversations)
            if encoder.role == "trained":
                folder = context.artifacts / "bridges" / f"{FIELD}-{transfer}"
                save_vlm(folder, vlm, encoder.model, self.spec.language_model)
            for benchmark in self.data.benchmarks:
                context.image_sources[benchmark.source_key] = benchmark.corpus
                answers = training.answer(vlm, benchmark)
                file = self._prediction_file(benchmark, transfer, encoder)
                context.predictions.add(file, [answer.to_dict() for answer in answers])

    def _prediction_file(self, benchmark: BenchmarkSet, transfer: str, encoder: EvaluatedEncoder) -> PredictionFile:
        name = benchmark.benchmark
        variant = name if self.spec.benchmarks else f"derived {name}"
        facts = {"benchmark": name, "album": benchmark.source_key, "left_out": benchmark.left_out}
        return PredictionFile(self.name, benchmark.split, variant, transfer, "answers", encoder.role, facts=facts)
